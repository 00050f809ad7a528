// The per-element formulas of the loss family, for host and device.
#pragma once

#include "math.h"

namespace pyaegpu {

// The numbers are those of pyaegpu/reference/vae_loss.py.
enum Kind : int { kBce = 0, kBceLogits = 1, kMse = 2, kL1 = 3, kSmoothL1 = 4 };
enum Reduction : int { kNone = 0, kTotal = 1, kRows = 2, kColumns = 3 };
enum Form : int { kLogvar = 0, kStd = 1, kVar = 2 };

template <typename A>
struct LossPoint {
  A loss, grad;
};

template <typename A>
PYAEGPU_HD bool in_unit_interval(A x) {
  return x >= A(0) && x <= A(1);
}

template <typename A>
PYAEGPU_HD A sign_of(A d) {
  return A((d > A(0)) - (d < A(0)));
}

// loss(x, t) and its derivative in x.
template <int KIND, typename A>
PYAEGPU_HD LossPoint<A> loss_point(A x, A t, A threshold) {
  const A d = x - t;
  if constexpr (KIND == kBce) {
    const A log_x = fast_log(x);
    const A log_rest = fast_log1p(-x);
    const A kept_x = log_x > A(-100) ? log_x : A(-100);
    const A kept_rest = log_rest > A(-100) ? log_rest : A(-100);
    const A variance = x * (A(1) - x);
    return {(t - A(1)) * kept_rest - t * kept_x, d / (variance > A(1e-12) ? variance : A(1e-12))};
  } else if constexpr (KIND == kBceLogits) {
    const A z = exp_of_negative(x > A(0) ? -x : x);
    const A negative_part = x > A(0) ? A(0) : x;
    const auto tail = softplus_tail(z);
    const A sigmoid = x > A(0) ? tail.inverse : z * tail.inverse;
    return {(A(1) - t) * x - (negative_part - tail.log1p), sigmoid - t};
  } else if constexpr (KIND == kMse) {
    return {d * d, d + d};
  } else if constexpr (KIND == kL1) {
    return {d < A(0) ? -d : d, sign_of(d)};
  } else {
    const A distance = d < A(0) ? -d : d;
    const bool quadratic = !(distance >= threshold);  // NaN stays NaN in the gradient too
    return {quadratic ? A(0.5) * d * d / threshold : distance - A(0.5) * threshold,
            quadratic ? d / threshold : sign_of(d)};
  }
}

template <typename A>
struct KLOptions {
  A lo, hi, log_eps;
};

template <typename A>
struct KLPoint {
  A kl, mu, spread, logvar2;  // the divergence and its derivatives; the one in mu2 is -mu
};

// KL(N(mu, var) || N(mu2, exp(logvar2))), var given by `spread` as FORM says. The log variance
// ratio d enters through e^d - 1 - d, which keeps its digits at small d.
template <int FORM, bool OTHER, typename A>
PYAEGPU_HD KLPoint<A> kl_point(A mu, A spread, A mu2, A logvar2, const KLOptions<A>& options) {
  A logvar, slope, variance = A(1), eps = A(0);
  if constexpr (FORM == kLogvar) {
    const bool below = spread < options.lo;
    const bool above = spread > options.hi;
    logvar = below ? options.lo : (above ? options.hi : spread);
    slope = below || above ? A(0) : A(1);
  } else {
    eps = options.log_eps;
    const A size = FORM == kStd && spread < A(0) ? -spread : spread;
    const A square = FORM == kStd ? size * size : spread;
    const A offset = FORM == kStd ? (size - A(1)) * (size + A(1)) : spread - A(1);
    const bool near_one = square > A(0.5) && square < A(2);
    variance = square + eps;
    logvar = near_one ? fast_log1p(offset + eps) : fast_log(variance);
    slope = (FORM == kStd ? A(2) * spread : A(1)) / variance;
  }
  const A distance = OTHER ? mu - mu2 : mu;
  const A precision = OTHER ? fast_exp(-logvar2) : A(1);
  const A d = OTHER ? logvar - logvar2 : logvar;
  auto e = expm1_pair(d);
  if constexpr (FORM != kLogvar) {
    // Far from 1 the ratio of the variances is at hand, without the rounding of a logarithm's
    // exponential.
    const bool far = d > A(0.5) || d < A(-0.5);
    const A excess = variance * precision - A(1);
    e.minus_x = far ? excess - d : e.minus_x;
    e.value = far ? excess : e.value;
  }
  const A square = (distance * distance - eps) * precision;
  return {A(0.5) * (e.minus_x + square), distance * precision, A(0.5) * e.value * slope,
          A(-0.5) * (e.value + square)};
}

}  // namespace pyaegpu
