// Gaussian samples, their divergence and their gradients: one kernel for each op of the family.
#pragma once

#include "../common/sampling.h"
#include "groups.cuh"
#include "reduce.cuh"

namespace pyaegpu::cuda {

// Pointers are null where an op has no such tensor.
template <typename T>
struct SampleArgs {
  using A = Accumulator<T>;
  Walk walk;
  Operand<T> g, mu, spread, eps;
  T *z, *drawn, *d_mu, *d_spread, *d_eps;
  A *kl, *sums;   // the divergence of each element, or sums of chunks
  const A* g_kl;  // for each element, or with a stride for each row
  int64_t g_kl_stride;
  bool g_kl_each;
  const int64_t* seed;
  int64_t seed_value, offset;
  Bounds<A> bounds;
  A factor;
  double sum_factor;

  // A graph draws its seeds on the device.
  __device__ Noise noise() const { return {uint64_t(seed ? *seed : seed_value), uint64_t(offset)}; }
};

// The noise again, at a place that the compiler cannot move: it would else keep the keys of all ten
// rounds in registers over the loop, and draw the quads of a group at once.
__device__ inline Noise pinned(Noise noise) {
  asm volatile("" : "+l"(noise.seed));
  return noise;
}

// Rounded to T, so that what an op returns is what it used.
template <typename T, int N>
__device__ Group<T, N> normals(const Noise& noise, int64_t first) {
  using A = Accumulator<T>;
  Group<T, N> eps;
#pragma unroll
  for (int j = 0; j < N; j += kQuad) {
    const Quad words = pinned(noise).quad(uint64_t(first + j) / kQuad);
    const auto a = normal_pair<A>(words.x0, words.x1), b = normal_pair<A>(words.x2, words.x3);
    eps[j] = T(a.first);
    eps[j + 1] = T(a.second);
    eps[j + 2] = T(b.first);
    eps[j + 3] = T(b.second);
  }
  return eps;
}

template <bool VECTORS, typename T>
__device__ auto load_span(const SampleArgs<T>& args, const Operand<T>& from, const Span& span) {
  return load<VECTORS, kSpan<VECTORS, T>>(from, args.walk, span);
}

template <bool VECTORS, typename T>
__device__ auto noise_of(const SampleArgs<T>& args, const Noise& noise, const Span& span) {
  return args.eps.data ? load_span<VECTORS>(args, args.eps, span)
                       : normals<T, kSpan<VECTORS, T>>(noise, span.first);
}

template <int FORM, bool VECTORS, typename T>
__device__ void sample(const SampleArgs<T>& args, const Noise& noise, const Span& span) {
  using A = Accumulator<T>;
  constexpr int N = kSpan<VECTORS, T>;
  const auto mu = load_span<VECTORS>(args, args.mu, span);
  const auto spread = load_span<VECTORS>(args, args.spread, span);
  const auto eps = noise_of<VECTORS>(args, noise, span);
  Group<T, N> z;
#pragma unroll
  for (int j = 0; j < N; ++j) {
    z[j] = T(A(mu[j]) + sigma_of<FORM>(A(spread[j]), args.bounds) * A(eps[j]));
  }
  store<VECTORS>(args.z, span, z);
  if (args.drawn) store<VECTORS>(args.drawn, span, eps);
}

template <int FORM, bool VECTORS, typename T>
__device__ void sample_grad(const SampleArgs<T>& args, const Noise& noise, const Span& span) {
  using A = Accumulator<T>;
  constexpr int N = kSpan<VECTORS, T>;
  const auto g = load_span<VECTORS>(args, args.g, span);
  Group<T, N> spread{}, d_spread, d_eps;
  if (args.spread.data) spread = load_span<VECTORS>(args, args.spread, span);
  const auto eps = noise_of<VECTORS>(args, noise, span);
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const A up = A(g[j]), at = A(spread[j]);
    d_spread[j] = T(spread_grad<FORM>(at, args.bounds, up * A(eps[j])));
    d_eps[j] = T(up * sigma_of<FORM>(at, args.bounds));
  }
  store<VECTORS>(args.d_spread, span, d_spread);
  if (args.d_eps) store<VECTORS>(args.d_eps, span, d_eps);
}

// Returns the sum of the span's divergences.
template <bool VECTORS, typename T>
__device__ Accumulator<T> sample_kl(const SampleArgs<T>& args, const Noise& noise,
                                    const Span& span) {
  using A = Accumulator<T>;
  constexpr int N = kSpan<VECTORS, T>;
  const auto mu = load_span<VECTORS>(args, args.mu, span);
  const auto logvar = load_span<VECTORS>(args, args.spread, span);
  const auto eps = noise_of<VECTORS>(args, noise, span);
  Group<T, N> z;
  Group<A, N> kl;
  A sum = 0;
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const auto point = sample_kl_point(A(mu[j]), A(logvar[j]), args.bounds);
    z[j] = T(A(mu[j]) + point.sigma * A(eps[j]));
    kl[j] = args.factor * point.kl;
    if (VECTORS || span.holds(j)) sum += point.kl;
  }
  store<VECTORS>(args.z, span, z);
  if (args.kl) store<VECTORS>(args.kl, span, kl);
  return sum;
}

// g_row: the upstream gradient of the row's divergence.
template <bool VECTORS, typename T>
__device__ void sample_kl_grad(const SampleArgs<T>& args, const Noise& noise, const Span& span,
                               Accumulator<T> g_row) {
  using A = Accumulator<T>;
  constexpr int N = kSpan<VECTORS, T>;
  const auto mu = load_span<VECTORS>(args, args.mu, span);
  const auto logvar = load_span<VECTORS>(args, args.spread, span);
  const bool has_z = args.g.data != nullptr, has_kl = args.g_kl != nullptr;
  Group<T, N> g{}, eps{}, d_mu, d_logvar, d_eps;
  if (has_z) {
    g = load_span<VECTORS>(args, args.g, span);
    eps = noise_of<VECTORS>(args, noise, span);
  }
  Group<A, N> g_kl{};
  if (args.g_kl_each) {
    const Operand<A> each{args.g_kl, args.walk.width};
    g_kl = load<VECTORS, N>(each, args.walk, span);
  }
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const A m = A(mu[j]), l = A(logvar[j]);
    const auto point = sample_kl_point(m, l, args.bounds);
    const A up = (args.g_kl_each ? g_kl[j] : g_row) * args.factor;
    const A at_mu = has_z ? A(g[j]) : A(0);
    const A at_logvar = has_z ? A(g[j]) * A(eps[j]) * (A(0.5) * point.sigma) : A(0);
    d_mu[j] = T(has_kl ? at_mu + up * m : at_mu);
    d_logvar[j] =
        T(if_inside(l, args.bounds, has_kl ? at_logvar + up * point.kl_slope : at_logvar));
    d_eps[j] = T(has_z ? A(g[j]) * point.sigma : A(0));
  }
  store<VECTORS>(args.d_mu, span, d_mu);
  store<VECTORS>(args.d_spread, span, d_logvar);
  if (args.d_eps) store<VECTORS>(args.d_eps, span, d_eps);
}

// Blocks on one multiprocessor, as far as the registers go without spilling; most kernels of 2-byte
// types need no more of them than those of float32.
template <typename T>
constexpr int kSampleBlocks = sizeof(T) == 4 ? 4 : 2;

template <int FORM, typename T>
__global__ void __launch_bounds__(kThreads, kSampleBlocks<T>) sample_kernel(SampleArgs<T> args) {
  const Noise noise = args.noise();
  for_each_span(args.walk, Chunk<kGroup<T>>(args.walk), [&](auto vectors, const Span& span) {
    sample<FORM, vectors.value>(args, noise, span);
  });
}

template <int FORM, typename T>
__global__ void __launch_bounds__(kThreads, kSampleBlocks<T>)
    sample_grad_kernel(SampleArgs<T> args) {
  const Noise noise = args.noise();
  for_each_span(args.walk, Chunk<kGroup<T>>(args.walk), [&](auto vectors, const Span& span) {
    sample_grad<FORM, vectors.value>(args, noise, span);
  });
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kSampleBlocks<T>) sample_kl_kernel(SampleArgs<T> args) {
  const Noise noise = args.noise();
  const Chunk<kGroup<T>> chunk(args.walk);
  Accumulator<T> sum = 0;
  for_each_span(args.walk, chunk, [&](auto vectors, const Span& span) {
    sum += sample_kl<vectors.value>(args, noise, span);
  });
  if (!args.sums) return;
  sum = args.walk.by_warp ? warp_sum(sum) : block_sum(sum);
  if (args.walk.lane() == 0 && chunk.exists(args.walk)) {
    args.sums[chunk.id] = Accumulator<T>(double(sum) * args.sum_factor);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kSampleBlocks<T>)
    sample_kl_grad_kernel(SampleArgs<T> args) {
  const Noise noise = args.noise();
  const Chunk<kGroup<T>> chunk(args.walk);
  const bool by_row = args.g_kl && !args.g_kl_each && chunk.exists(args.walk);
  const auto g_row = by_row ? args.g_kl[chunk.row * args.g_kl_stride] : Accumulator<T>(0);
  for_each_span(args.walk, chunk, [&](auto vectors, const Span& span) {
    sample_kl_grad<vectors.value>(args, noise, span, g_row);
  });
}

}  // namespace pyaegpu::cuda
