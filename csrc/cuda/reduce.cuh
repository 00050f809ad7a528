// Sums of fixed order: within a block by a tree, over blocks by a second launch. No atomics.
#pragma once

#include "launch.h"

namespace pyaegpu::cuda {

// The sum over the warp's threads, valid in its first.
template <typename A>
__device__ A warp_sum(A value) {
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_down_sync(0xffffffffu, value, offset);
  }
  return value;
}

// The sum over the block's threads, valid in thread 0.
template <typename A>
__device__ A block_sum(A value) {
  __shared__ A warp_sums[32];
  value = warp_sum(value);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (lane == 0) warp_sums[warp] = value;
  __syncthreads();
  if (warp == 0) {
    value = warp_sum(lane < int(blockDim.x + 31) / 32 ? warp_sums[lane] : A(0));
  }
  __syncthreads();
  return value;
}

// Sums `parts` partial results of each row; block = row. With two sets of partials (`second_parts`
// > 0) it also gives first + beta * second, the loss of a VAE.
template <typename A>
struct Finalise {
  const A *first, *second, *beta;
  A *out_first, *out_second, *out_total;
  int64_t first_parts, second_parts;
  double first_factor, second_factor, beta_value;
};

template <typename A>
__device__ double row_sum(const A* partials, int64_t parts) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < parts; i += blockDim.x) {
    sum += double(partials[int64_t(blockIdx.x) * parts + i]);
  }
  return block_sum(sum);
}

template <typename A>
__global__ void finalise_kernel(Finalise<A> args) {
  const double first = row_sum(args.first, args.first_parts) * args.first_factor;
  if (args.out_second == nullptr) {
    if (threadIdx.x == 0) args.out_first[blockIdx.x] = A(first);
    return;
  }
  const double second = row_sum(args.second, args.second_parts) * args.second_factor;
  if (threadIdx.x != 0) return;
  const double beta = args.beta ? double(*args.beta) : args.beta_value;
  args.out_first[blockIdx.x] = A(first);
  args.out_second[blockIdx.x] = A(second);
  args.out_total[blockIdx.x] = A(first + beta * second);
}

template <typename A>
void finalise(const Launch& launch, const Finalise<A>& args, int64_t rows) {
  if (rows == 0) return;
  finalise_kernel<A><<<blocks_for(rows), kThreads, 0, launch.stream()>>>(args);
  launch.check("finalise");
}

}  // namespace pyaegpu::cuda
