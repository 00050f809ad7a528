// The per-element formulas of the sampling families, for host and device.
#pragma once

#include "losses.h"
#include "philox.h"

namespace pyaegpu {

// The numbers are those of pyaegpu/reference/corrupt.py.
enum Corruption : int { kGaussian = 0, kMasking = 1, kSaltAndPepper = 2 };

template <typename A>
struct Bounds {
  A lo, hi;
};

template <typename A>
PYAEGPU_HD A clamped(A x, const Bounds<A>& bounds) {
  x = x < bounds.lo ? bounds.lo : x;
  return x > bounds.hi ? bounds.hi : x;
}

// The gradient at x: zero where x was clamped, whatever `value` is. A NaN passes. (Two plain
// selects, without a flag between: what the vectoriser takes.)
template <typename A>
PYAEGPU_HD A if_inside(A x, const Bounds<A>& bounds, A value) {
  return x < bounds.lo ? A(0) : (x > bounds.hi ? A(0) : value);
}

template <int FORM, typename A>
PYAEGPU_HD A sigma_of(A spread, const Bounds<A>& bounds) {
  return FORM == kStd ? spread : fast_exp(A(0.5) * clamped(spread, bounds));
}

// The gradient at what gives sigma, `value` being the one at sigma.
template <int FORM, typename A>
PYAEGPU_HD A spread_grad(A spread, const Bounds<A>& bounds, A value) {
  if constexpr (FORM == kStd) return value;
  return if_inside(spread, bounds, value * (A(0.5) * sigma_of<FORM>(spread, bounds)));
}

// What a sample and its divergence share. KL = (e^l - 1 - l + mu^2) / 2 through h = e^(l/2) - 1:
// e^l - 1 = h (h + 2) and e^l - 1 - l = h^2 + 2 (h - l/2), which keep their digits at small l.
// kl_slope is the derivative in l, to be taken `if_inside`.
template <typename A>
struct SampleKLPoint {
  A sigma, kl, kl_slope;
};

template <typename A>
PYAEGPU_HD SampleKLPoint<A> sample_kl_point(A mu, A logvar, const Bounds<A>& bounds) {
  const auto h = expm1_pair(A(0.5) * clamped(logvar, bounds));
  return {h.exp, A(0.5) * (h.value * h.value + mu * mu) + h.minus_x,
          A(0.5) * h.value * (h.value + A(2))};
}

// Words below this number are hits: `amount` of all 2^32.
inline int64_t hits_below(double amount) { return int64_t(amount * 4294967296.0 + 0.5); }

template <int KIND, typename A>
PYAEGPU_HD A corrupted(A x, uint32_t word, int64_t threshold, A low, A high) {
  const bool hit = int64_t(word) < threshold;
  if constexpr (KIND == kMasking) return hit ? A(0) : x;
  return hit ? (int64_t(word) < threshold / 2 ? low : high) : x;
}

}  // namespace pyaegpu
