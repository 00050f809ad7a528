// Results from the partial sums of blocks, added in a fixed order.
#pragma once

#include "arguments.h"
#include "reduce.cuh"

namespace pyaegpu::cuda {

// partials[k * channels + channel][parts] for k < repeats, a channel to a block.
template <typename T>
__global__ void channel_sum_kernel(const Accumulator<T>* partials, int64_t channels,
                                   int64_t repeats, int64_t parts, T* out) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < repeats * parts; i += blockDim.x) {
    const int64_t k = i / parts;
    sum += double(partials[(k * channels + blockIdx.x) * parts + i % parts]);
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) out[blockIdx.x] = T(sum);
}

template <typename T>
void channel_sum(const Launch& launch, const Tensor& partials, int64_t repeats, int64_t parts,
                 Tensor& out) {
  channel_sum_kernel<T><<<blocks_for(out.numel()), kThreads, 0, launch.stream()>>>(
      partials.const_data_ptr<Accumulator<T>>(), out.numel(), repeats, parts,
      out.mutable_data_ptr<T>());
  launch.check("channel_sum");
}

// A weight [Cin, Cout, KH, KW] of any strides.
template <typename T>
struct WeightSum {
  T* out;
  int64_t input, channel, row, column;  // strides
  int channels, rows, columns;          // sizes
};

// partials[parts][elements] in the order of a contiguous weight; a warp's lanes take neighbouring
// elements, the warps every 8th part.
template <typename T>
__global__ void weight_sum_kernel(const Accumulator<T>* partials, int64_t elements, int parts,
                                  WeightSum<T> to) {
  using A = Accumulator<T>;
  constexpr int kRows = kThreads / 32;
  __shared__ A rows[kRows][32];
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32;
  const int64_t e = int64_t(blockIdx.x) * 32 + lane;
  A sum = 0;
#pragma unroll 8
  for (int k = row; k < parts; k += kRows) {
    if (e < elements) sum += partials[k * elements + e];
  }
  rows[row][lane] = sum;
  __syncthreads();
  if (row != 0 || e >= elements) return;
  for (int k = 1; k < kRows; ++k) sum += rows[k][lane];
  const int64_t plane = e / to.columns, block = plane / to.rows;
  const int64_t w = e % to.columns, h = plane % to.rows, c = block % to.channels;
  to.out[block / to.channels * to.input + c * to.channel + h * to.row + w * to.column] = T(sum);
}

template <typename T>
void weight_sum(const Launch& launch, const Tensor& partials, int parts, Tensor& out) {
  const WeightSum<T> to{
      out.mutable_data_ptr<T>(), out.stride(0),    out.stride(1),   out.stride(2), out.stride(3),
      int(out.size(1)),          int(out.size(2)), int(out.size(3))};
  weight_sum_kernel<T><<<blocks_for(ceil_div(out.numel(), 32)), kThreads, 0, launch.stream()>>>(
      partials.const_data_ptr<Accumulator<T>>(), out.numel(), parts, to);
  launch.check("weight_sum");
}

}  // namespace pyaegpu::cuda
