// Loops over tiles of a Gaussian sample, its divergence and their gradients.
#pragma once

#include "../common/sampling.h"
#include "noise.h"

namespace pyaegpu::cpu {

template <int FORM, typename A>
PYAEGPU_CLONES static void sample_tile(const A* __restrict__ mu, const A* __restrict__ spread,
                                       const A* __restrict__ eps, A* __restrict__ z, int64_t n,
                                       Bounds<A> bounds) {
  for (int64_t i = 0; i < n; ++i) {
    z[i] = mu[i] + sigma_of<FORM>(spread[i], bounds) * eps[i];
  }
}

template <int FORM, typename A>
PYAEGPU_CLONES static void sample_grad_tile(const A* __restrict__ g, const A* __restrict__ spread,
                                            const A* __restrict__ eps, A* __restrict__ d_spread,
                                            int64_t n, Bounds<A> bounds) {
  for (int64_t i = 0; i < n; ++i) {
    d_spread[i] = spread_grad<FORM>(spread[i], bounds, g[i] * eps[i]);
  }
}

// The gradient at eps.
template <int FORM, typename A>
PYAEGPU_CLONES static void scaled_tile(const A* __restrict__ g, const A* __restrict__ spread,
                                       A* __restrict__ d_eps, int64_t n, Bounds<A> bounds) {
  for (int64_t i = 0; i < n; ++i) d_eps[i] = g[i] * sigma_of<FORM>(spread[i], bounds);
}

template <typename A>
PYAEGPU_CLONES static void sample_kl_tile(const A* __restrict__ mu, const A* __restrict__ logvar,
                                          const A* __restrict__ eps, A* __restrict__ z,
                                          A* __restrict__ kl, int64_t n, Bounds<A> bounds) {
  for (int64_t i = 0; i < n; ++i) {
    const auto point = sample_kl_point(mu[i], logvar[i], bounds);
    z[i] = mu[i] + point.sigma * eps[i];
    kl[i] = point.kl;
  }
}

// g_z and g_kl: what arrives at the sample and at each element's divergence.
template <bool Z, bool KL, typename A>
PYAEGPU_CLONES static void sample_kl_grad_tile(const A* __restrict__ g_z,
                                               const A* __restrict__ g_kl, const A* __restrict__ mu,
                                               const A* __restrict__ logvar,
                                               const A* __restrict__ eps, A* __restrict__ d_mu,
                                               A* __restrict__ d_logvar, int64_t n,
                                               Bounds<A> bounds) {
  for (int64_t i = 0; i < n; ++i) {
    const auto point = sample_kl_point(mu[i], logvar[i], bounds);
    A at_mu = 0, at_logvar = 0;
    if constexpr (Z) {
      at_mu += g_z[i];
      at_logvar += g_z[i] * eps[i] * (A(0.5) * point.sigma);
    }
    if constexpr (KL) {
      at_mu += g_kl[i] * mu[i];
      at_logvar += g_kl[i] * point.kl_slope;
    }
    d_mu[i] = at_mu;
    d_logvar[i] = if_inside(logvar[i], bounds, at_logvar);
  }
}

// The noise of a call: given, or drawn from its stream.
struct Eps {
  std::optional<Rows> given;
  Noise noise;

  Eps(const std::optional<Tensor>& eps, const std::optional<Tensor>& seed, int64_t seed_value,
      int64_t offset)
      : noise(noise_of(seed, seed_value, offset)) {
    if (eps) given = rows_of(*eps);
  }

  // `buffer` holds kTileQuads * kQuad values.
  template <typename T, typename A>
  const A* load(int64_t begin, int64_t n, A* buffer) const {
    return given ? load_rows<T>(*given, begin, n, buffer)
                 : draw_normals<T>(noise, begin, n, buffer);
  }
};

// An output that a tile computes in the accumulator type: in place where the types agree.
template <typename T, typename A>
struct OutTile {
  T* to;
  A buffer[kTile];
  A* values;

  explicit OutTile(T* target) : to(target), values(target_of(target, buffer)) {}
  void store(int64_t n) { cpu::store(to, values, n); }
};

}  // namespace pyaegpu::cpu
