// The KL part of the loss family: sums over rows or columns, elementwise values and gradients.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "../common/losses.h"
#include "tiles.h"

namespace pyaegpu::cpu {

// Four inputs as rows, index by index in their logical order: mu, spread and, where there is
// another Gaussian, its mean and log variance.
struct GaussianKL {
  std::vector<Rows> inputs;
  int64_t form, reduction;
  KLOptions<double> options;
  double factor;

  GaussianKL(const Tensor& mu, const Tensor& spread, const std::optional<Tensor>& mu2,
             const std::optional<Tensor>& logvar2, int64_t form_, double lo, double hi,
             double log_eps, int64_t reduction_, double factor_)
      : inputs{rows_of(mu), rows_of(spread)},
        form(form_),
        reduction(reduction_),
        options{lo, hi, log_eps},
        factor(factor_) {
    STD_TORCH_CHECK(mu2.has_value() == logvar2.has_value(), "pyaegpu: mu2 and logvar2 go together");
    if (mu2) {
      inputs.push_back(rows_of(*mu2));
      inputs.push_back(rows_of(*logvar2));
    }
  }

  const Tensor& mu() const { return inputs[0].tensor; }
  int64_t width() const { return inputs[0].width; }
  bool has_other() const { return inputs.size() > 2; }

  Split split() const {
    if (reduction != kRows) return Split(1, mu().numel());
    return Split(mu().size(0), width());
  }
};

template <typename A>
using Tile4 = std::array<const A*, 4>;

template <int FORM, bool OTHER, typename A>
PYAEGPU_CLONES static void kl_tile(const A* __restrict__ mu, const A* __restrict__ spread,
                                   const A* __restrict__ mu2, const A* __restrict__ logvar2,
                                   A* __restrict__ kl, int64_t n, KLOptions<A> options) {
  for (int64_t i = 0; i < n; ++i) {
    const auto point = kl_point<FORM, OTHER>(mu[i], spread[i], OTHER ? mu2[i] : A(0),
                                             OTHER ? logvar2[i] : A(0), options);
    kl[i] = point.kl;
  }
}

// Overwrites `upstream` with upstream * dkl/dmu and writes the other derivatives beside it.
template <int FORM, bool OTHER, typename A>
PYAEGPU_CLONES static void kl_grad_tile(const A* __restrict__ mu, const A* __restrict__ spread,
                                        const A* __restrict__ mu2, const A* __restrict__ logvar2,
                                        const A* __restrict__ upstream, A* __restrict__ d_mu,
                                        A* __restrict__ d_spread, A* __restrict__ d_mu2,
                                        A* __restrict__ d_logvar2, int64_t n,
                                        KLOptions<A> options) {
  for (int64_t i = 0; i < n; ++i) {
    const auto point = kl_point<FORM, OTHER>(mu[i], spread[i], OTHER ? mu2[i] : A(0),
                                             OTHER ? logvar2[i] : A(0), options);
    d_mu[i] = upstream[i] * point.mu;
    d_spread[i] = upstream[i] * point.spread;
    if constexpr (OTHER) {
      d_mu2[i] = -upstream[i] * point.mu;
      d_logvar2[i] = upstream[i] * point.logvar2;
    }
  }
}

// Calls f with the form and the presence of another Gaussian as compile-time constants.
template <typename F>
void with_form(const GaussianKL& call, const F& f) {
  const auto with_other = [&](auto form) {
    call.has_other() ? f(form, std::true_type{}) : f(form, std::false_type{});
  };
  switch (call.form) {
    case kLogvar:
      return with_other(std::integral_constant<int, kLogvar>{});
    case kStd:
      return with_other(std::integral_constant<int, kStd>{});
    case kVar:
      return with_other(std::integral_constant<int, kVar>{});
    default:
      STD_TORCH_CHECK(false, "pyaegpu: unknown form of the variance ", call.form);
  }
}

template <typename T, typename A>
struct KLTile {
  A buffers[4][kTile];
  Tile4<A> values{};

  KLTile(const GaussianKL& call, int64_t begin, int64_t n) {
    for (size_t k = 0; k < call.inputs.size(); ++k) {
      values[k] = load_rows<T>(call.inputs[k], begin, n, buffers[k]);
    }
  }
};

template <typename A>
KLOptions<A> options_as(const KLOptions<double>& o) {
  return {A(o.lo), A(o.hi), A(o.log_eps)};
}

// Runs f(begin, n, kl values) over all tiles.
template <typename T, typename F>
void for_each_kl_tile(const GaussianKL& call, const Split& split, const F& f) {
  using A = Accumulator<T>;
  const auto options = options_as<A>(call.options);
  with_form(call, [&](auto form, auto other) {
    for_each_tile(split, [&](int64_t i, int64_t n, int64_t) {
      const KLTile<T, A> in(call, i, n);
      A kl[kTile];
      kl_tile<form.value, other.value>(in.values[0], in.values[1], in.values[2], in.values[3], kl,
                                       n, options);
      f(i, n, kl);
    });
  });
}

template <typename T>
std::vector<double> kl_sums(const GaussianKL& call) {
  using A = Accumulator<T>;
  const Split split = call.split();
  Sums sums(split);
  for_each_kl_tile<T>(call, split, [&](int64_t i, int64_t n, const A* kl) { sums.add(kl, i, n); });
  std::vector<double> values(split.rows);
  for (int64_t r = 0; r < split.rows; ++r) values[r] = call.factor * sums.row(r);
  return values;
}

template <typename T>
void kl_values(const GaussianKL& call, Accumulator<T>* value) {
  using A = Accumulator<T>;
  for_each_kl_tile<T>(call, call.split(), [&](int64_t i, int64_t n, const A* kl) {
    for (int64_t j = 0; j < n; ++j) value[i + j] = A(call.factor) * kl[j];
  });
}

// factor * sum over dim 0 of each column: a thread owns whole columns, so that the order of each
// sum is fixed.
template <typename T>
void kl_columns(const GaussianKL& call, Accumulator<T>* value) {
  using A = Accumulator<T>;
  const int64_t width = call.width(), rows = call.mu().size(0);
  const auto options = options_as<A>(call.options);
  with_form(call, [&](auto form, auto other) {
    for_each_tile(Split(1, width), [&](int64_t column, int64_t n, int64_t) {
      double sums[kTile] = {};
      for (int64_t row = 0; row < rows; ++row) {
        const KLTile<T, A> in(call, row * width + column, n);
        A kl[kTile];
        kl_tile<form.value, other.value>(in.values[0], in.values[1], in.values[2], in.values[3], kl,
                                         n, options);
        for (int64_t j = 0; j < n; ++j) sums[j] += double(kl[j]);
      }
      for (int64_t j = 0; j < n; ++j) value[column + j] = A(call.factor * sums[j]);
    });
  });
}

// What multiplies the derivatives: one value for each row (one row for a total), or in `each` one
// for each column or element.
template <typename A>
struct KLUpstream {
  std::vector<double> by_row;
  const A* each = nullptr;
};

template <typename A>
void fill_upstream(const GaussianKL& call, const Split& split, const KLUpstream<A>& upstream,
                   int64_t begin, int64_t n, A* out) {
  for (int64_t j = 0; j < n; ++j) {
    const int64_t i = begin + j;
    if (call.reduction == kNone) {
      out[j] = upstream.each[i] * A(call.factor);
    } else if (call.reduction == kColumns) {
      out[j] = upstream.each[i % call.width()] * A(call.factor);
    } else {
      out[j] = A(upstream.by_row[call.reduction == kRows ? i / split.inner : 0] * call.factor);
    }
  }
}

// The gradients at mu, spread and, where given, mu2 and logvar2.
template <typename T>
void kl_gradient(const GaussianKL& call, const KLUpstream<Accumulator<T>>& upstream,
                 const std::array<T*, 4>& grads) {
  using A = Accumulator<T>;
  const Split split = call.split();
  const auto options = options_as<A>(call.options);
  with_form(call, [&](auto form, auto other) {
    for_each_tile(split, [&](int64_t i, int64_t n, int64_t) {
      const KLTile<T, A> in(call, i, n);
      A by[kTile], buffers[4][kTile];
      A* out[4] = {};
      fill_upstream(call, split, upstream, i, n, by);
      for (size_t k = 0; k < call.inputs.size(); ++k) out[k] = target_of(grads[k] + i, buffers[k]);
      kl_grad_tile<form.value, other.value>(in.values[0], in.values[1], in.values[2], in.values[3],
                                            by, out[0], out[1], out[2], out[3], n, options);
      for (size_t k = 0; k < call.inputs.size(); ++k) store(grads[k] + i, out[k], n);
    });
  });
}

}  // namespace pyaegpu::cpu
