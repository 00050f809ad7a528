// The reconstruction part of the loss family: one chunk of one row for each block, 16 bytes for
// each access.
#pragma once

#include "../common/losses.h"
#include "launch.h"
#include "reduce.cuh"
#include "vectors.cuh"

namespace pyaegpu::cuda {

// Vectors of each input that one thread keeps in flight. 2-byte types unroll to eight elements for
// each already, and float64 has no registers for more.
template <typename T>
constexpr int kUnroll = sizeof(T) == 4 ? 4 : 2;

// Elements that one block takes.
template <typename T>
constexpr int64_t kChunk = int64_t(kThreads) * Vector<T>::kSize * kUnroll<T>;

template <typename T>
struct ReconstructionArgs {
  using A = Accumulator<T>;
  const T *recon, *target, *weight, *each;
  T *grad, *value;
  A* partials;
  // The upstream gradient of each row is the sum of these; null where there is none, stride 0 for a
  // total.
  const A *g_first, *g_second;
  int64_t g_first_stride, g_second_stride;
  int64_t inner, parts;
  int kind;
  A threshold, factor;
  bool vectors;  // every row starts on 16 bytes and holds whole vectors

  __device__ A upstream(int64_t row) const {
    A g = 0;
    if (g_first) g += g_first[row * g_first_stride];
    if (g_second) g += g_second[row * g_second_stride];
    return g;
  }
};

template <int KIND, typename A>
__device__ LossPoint<A> checked_loss_point(A x, A t, A threshold) {
  LossPoint<A> point = loss_point<KIND>(x, t, threshold);
  if constexpr (KIND == kBce) {
    // A check that raises would have to wait for the device.
    if (!in_unit_interval(x) || !in_unit_interval(t)) point.loss = point.grad = A(NAN);
  }
  return point;
}

// Elements [i, i + N) of the row at `base`: writes what is asked for and returns the sum of their
// losses.
template <int KIND, bool FORWARD, int N, typename T>
__device__ Accumulator<T> loss_elements(const ReconstructionArgs<T>& args, const T* recon,
                                        const T* target, int64_t at, Accumulator<T> factor) {
  using A = Accumulator<T>;
  A sum = 0;
  Vector<T> weights, ups, grads, losses;
  if (args.weight) read<N>(args.weight + at, weights);
  if (!FORWARD && args.each) read<N>(args.each + at, ups);
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const auto point = checked_loss_point<KIND>(A(recon[j]), A(target[j]), args.threshold);
    const A weight = args.weight ? A(weights.values[j]) : A(1);
    const A loss = point.loss * weight;
    A scale = factor * weight;
    if (!FORWARD && args.each) scale *= A(ups.values[j]);
    grads.values[j] = T(point.grad * scale);
    losses.values[j] = T(loss * factor);
    sum += loss;
  }
  if (args.grad) write<N>(args.grad + at, grads);
  if (FORWARD && args.value) write<N>(args.value + at, losses);
  return sum;
}

// One chunk of one row. A full chunk loads all its vectors before it uses the first.
template <int KIND, bool FORWARD, typename T>
__device__ Accumulator<T> loss_chunk(const ReconstructionArgs<T>& args, int64_t begin, int64_t end,
                                     Accumulator<T> factor) {
  using A = Accumulator<T>;
  constexpr int N = Vector<T>::kSize;
  A sum = 0;
  if (args.vectors && end - begin == kChunk<T>) {
    Vector<T> recon[kUnroll<T>], target[kUnroll<T>];
#pragma unroll
    for (int u = 0; u < kUnroll<T>; ++u) {
      const int64_t at = begin + int64_t(u * kThreads + threadIdx.x) * N;
      read<N>(args.recon + at, recon[u]);
      read<N>(args.target + at, target[u]);
    }
#pragma unroll
    for (int u = 0; u < kUnroll<T>; ++u) {
      const int64_t at = begin + int64_t(u * kThreads + threadIdx.x) * N;
      sum += loss_elements<KIND, FORWARD, N>(args, recon[u].values, target[u].values, at, factor);
    }
    return sum;
  }
  for (int64_t at = begin + threadIdx.x; at < end; at += kThreads) {
    sum += loss_elements<KIND, FORWARD, 1>(args, args.recon + at, args.target + at, at, factor);
  }
  return sum;
}

template <bool FORWARD, typename T>
__device__ Accumulator<T> loss_chunk_of_kind(const ReconstructionArgs<T>& args, int64_t begin,
                                             int64_t end, Accumulator<T> factor) {
  switch (args.kind) {
    case kBce:
      return loss_chunk<kBce, FORWARD>(args, begin, end, factor);
    case kBceLogits:
      return loss_chunk<kBceLogits, FORWARD>(args, begin, end, factor);
    case kMse:
      return loss_chunk<kMse, FORWARD>(args, begin, end, factor);
    case kL1:
      return loss_chunk<kL1, FORWARD>(args, begin, end, factor);
    default:
      return loss_chunk<kSmoothL1, FORWARD>(args, begin, end, factor);
  }
}

template <typename T>
struct Chunk {
  int64_t row, begin, end;

  __device__ Chunk(const ReconstructionArgs<T>& args, int64_t block)
      : row(block / args.parts),
        begin(row * args.inner + (block % args.parts) * kChunk<T>),
        end(min(begin + kChunk<T>, (row + 1) * args.inner)) {}
};

template <typename T>
__device__ void reconstruction_forward(const ReconstructionArgs<T>& args, int64_t block) {
  const Chunk<T> chunk(args, block);
  const auto sum = block_sum(loss_chunk_of_kind<true>(args, chunk.begin, chunk.end, args.factor));
  if (threadIdx.x == 0 && args.partials) args.partials[block] = sum;
}

template <typename T>
__device__ void reconstruction_backward(const ReconstructionArgs<T>& args, int64_t block) {
  const Chunk<T> chunk(args, block);
  const auto factor = args.each ? args.factor : args.factor * args.upstream(chunk.row);
  loss_chunk_of_kind<false>(args, chunk.begin, chunk.end, factor);
}

// grad *= upstream in place; a chunk whose upstream is exactly 1 is not touched.
template <typename T>
__device__ void scale_stored(const ReconstructionArgs<T>& args, int64_t block) {
  using A = Accumulator<T>;
  constexpr int N = Vector<T>::kSize;
  const Chunk<T> chunk(args, block);
  const A by = args.upstream(chunk.row);
  if (by == A(1)) return;
  if (args.vectors && chunk.end - chunk.begin == kChunk<T>) {
#pragma unroll
    for (int u = 0; u < kUnroll<T>; ++u) {
      T* at = args.grad + chunk.begin + (u * kThreads + threadIdx.x) * N;
      Vector<T> values;
      read<N>(at, values);
#pragma unroll
      for (int j = 0; j < N; ++j) values.values[j] = T(A(values.values[j]) * by);
      write<N>(at, values);
    }
    return;
  }
  for (int64_t at = chunk.begin + threadIdx.x; at < chunk.end; at += kThreads) {
    args.grad[at] = T(A(args.grad[at]) * by);
  }
}

}  // namespace pyaegpu::cuda
