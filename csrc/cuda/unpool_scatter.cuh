// Max-unpooling by plane indices that a gather found outside their own windows: from zeros again,
// in the order of the pooled elements, so that of several with one place the last remains.
#pragma once

#include "unpool.cuh"

namespace pyaegpu::cuda {

constexpr int64_t kScatterBlocks = 1024;

template <typename T, typename Index>
struct ScatterArgs {
  const T* input;
  const Index* indices;
  T* out;
  const int32_t* foreign;
  int64_t columns;                      // (image, channel) pairs
  int64_t channels;                     // elements of a place in memory: 1 in planes
  int64_t image_places, pooled_places;  // of a plane
};

// A warp takes a plane.
template <typename T, typename Index>
__global__ void __launch_bounds__(kThreads) scatter_planes_kernel(ScatterArgs<T, Index> args) {
  if (*args.foreign == 0) return;
  const int lane = threadIdx.x % 32;
  const int64_t warps = int64_t(gridDim.x) * (kThreads / 32);
  int64_t plane = int64_t(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  for (; plane < args.columns; plane += warps) {
    T* out = args.out + plane * args.image_places;
    const int64_t first = plane * args.pooled_places;
    for (int64_t i = lane; i < args.image_places; i += 32) out[i] = T(0);
    for (int64_t begin = 0; begin < args.pooled_places; begin += 32) {
      const int64_t p = begin + lane;
      int64_t place = p < args.pooled_places ? int64_t(args.indices[first + p]) : -1;
      if (place < 0 || place >= args.image_places) place = -1;
      // Orders the stores of the chunk before, and compares the lanes.
      __syncwarp();
      const unsigned equals = __match_any_sync(0xffffffffu, (unsigned long long)place);
      const bool last = lane == 31 - __clz(int(equals));
      if (place >= 0 && last) out[place] = args.input[first + p];
    }
    __syncwarp();
  }
}

// Channels innermost: a thread takes a channel of an image.
template <typename T, typename Index>
__global__ void __launch_bounds__(kThreads) scatter_channels_kernel(ScatterArgs<T, Index> args) {
  if (*args.foreign == 0) return;
  int64_t column = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  for (; column < args.columns; column += int64_t(gridDim.x) * kThreads) {
    const int64_t image = column / args.channels, channel = column % args.channels;
    T* out = args.out + image * args.image_places * args.channels + channel;
    const int64_t first = image * args.pooled_places * args.channels + channel;
    for (int64_t i = 0; i < args.image_places; ++i) out[i * args.channels] = T(0);
    for (int64_t p = 0; p < args.pooled_places; ++p) {
      const int64_t at = first + p * args.channels, place = int64_t(args.indices[at]);
      if (place >= 0 && place < args.image_places) out[place * args.channels] = args.input[at];
    }
  }
}

}  // namespace pyaegpu::cuda
