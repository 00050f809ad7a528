// Corruption of a tensor on the CPU. Schemas and autograd: pyaegpu/ops/corrupt.py.

#include <optional>

#include "../common/sampling.h"
#include "noise.h"

namespace pyaegpu::cpu {
namespace {

using MaybeTensor = std::optional<Tensor>;

template <typename A>
PYAEGPU_CLONES static void add_noise(const A* __restrict__ x, const A* __restrict__ normals,
                                     A* __restrict__ out, int64_t n, A amount) {
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] + amount * normals[i];
}

template <int KIND, typename A>
PYAEGPU_CLONES static void replace_hits(const A* __restrict__ x, const uint32_t* __restrict__ words,
                                        A* __restrict__ out, int64_t n, int64_t threshold, A low,
                                        A high) {
  for (int64_t i = 0; i < n; ++i) {
    out[i] = corrupted<KIND>(x[i], words[i], threshold, low, high);
  }
}

template <typename T>
void gaussian(const Tensor& input, const Noise& noise, double amount, Tensor& out) {
  using A = Accumulator<T>;
  const T* from = input.const_data_ptr<T>();
  T* to = out.mutable_data_ptr<T>();
  for_each_tile(Split(1, input.numel()), [&](int64_t i, int64_t n, int64_t) {
    A x[kTile], result[kTile], normals[kTileQuads * kQuad];
    A* values = target_of(to + i, result);
    add_noise(load(from + i, x, n), draw_normals<T>(noise, i, n, normals), values, n, A(amount));
    store(to + i, values, n);
  });
}

template <int KIND, typename T>
void hits(const Tensor& input, const Noise& noise, double amount, double low, double high,
          Tensor& out) {
  using A = Accumulator<T>;
  const T* from = input.const_data_ptr<T>();
  T* to = out.mutable_data_ptr<T>();
  for_each_tile(Split(1, input.numel()), [&](int64_t i, int64_t n, int64_t) {
    A x[kTile], result[kTile];
    uint32_t words[kTileQuads * kQuad];
    A* values = target_of(to + i, result);
    replace_hits<KIND>(load(from + i, x, n), NoiseTile(noise, i, n).words(words), values, n,
                       hits_below(amount), A(low), A(high));
    store(to + i, values, n);
  });
}

Tensor corrupt_fwd(Tensor input, MaybeTensor seed, int64_t seed_value, int64_t offset, int64_t kind,
                   double amount, double low, double high) {
  input = torch::stable::contiguous(input);
  const Noise noise = noise_of(seed, seed_value, offset);
  Tensor out = torch::stable::empty_like(input);
  dispatch(input.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    switch (kind) {
      case kGaussian:
        return gaussian<T>(input, noise, amount, out);
      case kMasking:
        return hits<kMasking, T>(input, noise, amount, low, high, out);
      default:
        return hits<kSaltAndPepper, T>(input, noise, amount, low, high, out);
    }
  });
  return out;
}

// Nothing flows through a hit, which no longer depends on the input.
Tensor corrupt_bwd(Tensor g, MaybeTensor seed, int64_t seed_value, int64_t offset, int64_t,
                   double amount) {
  return corrupt_fwd(g, seed, seed_value, offset, kMasking, amount, 0.0, 0.0);
}

void implement(torch::stable::detail::StableLibrary& m) {
  m.impl("corrupt_fwd", TORCH_BOX(&corrupt_fwd));
  m.impl("corrupt_bwd", TORCH_BOX(&corrupt_bwd));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pyaegpu, CPU, m) { implement(m); }
STABLE_TORCH_LIBRARY_IMPL(pyaegpu_cpu, CPU, m) { implement(m); }

}  // namespace pyaegpu::cpu
