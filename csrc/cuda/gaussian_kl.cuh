// The KL part of the loss family. Inputs are rows, any distance apart; neighbouring threads take
// neighbouring elements.
#pragma once

#include <array>

#include "../common/losses.h"
#include "launch.h"
#include "reduce.cuh"

namespace pyaegpu::cuda {

constexpr int64_t kKLChunk = int64_t(kThreads) * 8;

// The latents are small beside the data: their dtype is read at run time, so that the fused kernels
// need not be compiled for every pair of dtypes.
struct AnyDtype {
  ScalarType dtype;

  template <typename A>
  __device__ A read(const void* data, int64_t i) const {
    if constexpr (std::is_same_v<A, double>) {
      return static_cast<const double*>(data)[i];
    } else if (dtype == ScalarType::Float) {
      return static_cast<const float*>(data)[i];
    } else if (dtype == ScalarType::Half) {
      return static_cast<const torch::headeronly::Half*>(data)[i];
    } else {
      return static_cast<const torch::headeronly::BFloat16*>(data)[i];
    }
  }

  template <typename A>
  __device__ void write(void* data, int64_t i, A value) const {
    if constexpr (std::is_same_v<A, double>) {
      static_cast<double*>(data)[i] = value;
    } else if (dtype == ScalarType::Float) {
      static_cast<float*>(data)[i] = value;
    } else if (dtype == ScalarType::Half) {
      static_cast<torch::headeronly::Half*>(data)[i] = value;
    } else {
      static_cast<torch::headeronly::BFloat16*>(data)[i] = value;
    }
  }
};

template <typename A>
struct KLArgs {
  const void* inputs[4];
  int64_t strides[4];
  void* grads[4];
  AnyDtype io;
  A *value, *partials;
  const A* g_each;  // one upstream value for each element or column
  const A *g_first, *g_second, *beta;
  int64_t g_first_stride, g_second_stride;
  double beta_value;
  int64_t width, inner, parts;  // width: of the tensors' rows; inner: of the reduction's
  int form, reduction;
  bool has_other;
  KLOptions<A> options;
  A factor;

  __device__ A read(int k, int64_t row, int64_t column) const {
    return io.read<A>(inputs[k], row * strides[k] + column);
  }

  __device__ KLPoint<A> point(int64_t index) const {
    const int64_t row = index / width, column = index - row * width;
    const A mu = read(0, row, column), spread = read(1, row, column);
    const A mu2 = has_other ? read(2, row, column) : A(0);
    const A logvar2 = has_other ? read(3, row, column) : A(0);
    if (form == kLogvar) {
      return has_other ? kl_point<kLogvar, true>(mu, spread, mu2, logvar2, options)
                       : kl_point<kLogvar, false>(mu, spread, mu2, logvar2, options);
    }
    return form == kStd ? kl_point<kStd, true>(mu, spread, mu2, logvar2, options)
                        : kl_point<kVar, true>(mu, spread, mu2, logvar2, options);
  }

  // What multiplies the derivatives at `index`: beta * g_first + g_second of its row, or its own
  // value.
  __device__ A upstream(int64_t index) const {
    if (reduction == kNone) return g_each[index];
    if (reduction == kColumns) return g_each[index % width];
    const int64_t row = index / inner;
    A g = 0;
    if (g_first) g += g_first[row * g_first_stride] * (beta ? *beta : A(beta_value));
    if (g_second) g += g_second[row * g_second_stride];
    return g;
  }
};

// A chunk of the reduction's row: [begin, end) in logical order.
template <typename A>
struct KLChunk {
  int64_t begin, end;

  __device__ KLChunk(const KLArgs<A>& args, int64_t block) {
    const int64_t row = block / args.parts;
    begin = row * args.inner + (block % args.parts) * kKLChunk;
    end = min(begin + kKLChunk, (row + 1) * args.inner);
  }
};

template <typename A>
__device__ void kl_forward(const KLArgs<A>& args, int64_t block) {
  const KLChunk<A> chunk(args, block);
  A sum = 0;
  for (int64_t i = chunk.begin + threadIdx.x; i < chunk.end; i += kThreads) {
    const A kl = args.point(i).kl;
    sum += kl;
    if (args.value) args.value[i] = args.factor * kl;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0 && args.partials) args.partials[block] = sum;
}

template <typename A>
__device__ void kl_backward(const KLArgs<A>& args, int64_t block) {
  const KLChunk<A> chunk(args, block);
  for (int64_t i = chunk.begin + threadIdx.x; i < chunk.end; i += kThreads) {
    const auto point = args.point(i);
    const A g = args.upstream(i) * args.factor;
    args.io.write(args.grads[0], i, g * point.mu);
    args.io.write(args.grads[1], i, g * point.spread);
    if (args.has_other) {
      args.io.write(args.grads[2], i, -g * point.mu);
      args.io.write(args.grads[3], i, g * point.logvar2);
    }
  }
}

constexpr int kColumnsPerBlock = 32, kRowLanes = 8;

// factor * sum over dim 0 of each column; the lanes' sums are added in a fixed order.
template <typename A>
__global__ void kl_columns_kernel(KLArgs<A> args, int64_t rows) {
  __shared__ double lanes[kRowLanes][kColumnsPerBlock];
  const int64_t column = int64_t(blockIdx.x) * kColumnsPerBlock + threadIdx.x;
  double sum = 0;
  if (column < args.width) {
    for (int64_t row = threadIdx.y; row < rows; row += kRowLanes) {
      sum += double(args.point(row * args.width + column).kl);
    }
  }
  lanes[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= args.width) return;
  for (int lane = 1; lane < kRowLanes; ++lane) sum += lanes[lane][threadIdx.x];
  args.value[column] = A(double(args.factor) * sum);
}

}  // namespace pyaegpu::cuda
