// Max-pooling: the largest element of each window and where it was.
#pragma once

#include <cmath>

#include "../common/tensor.h"
#include "pool_items.cuh"

namespace pyaegpu::cuda {

// The items are the pooled side's.
template <typename T, typename I>
struct PoolArgs {
  Pooling<I> pooling;
  const T* input;
  T* out;
  uint8_t* codes;  // of these two one at most is wanted
  int64_t* indices;
};

template <int N, typename A, typename T, typename I>
__device__ void store_pooled(const PoolArgs<T, I>& args, int64_t at, const A (&best)[N],
                             const I (&marks)[N]) {
  T out[N];
  uint8_t codes[N];
  int64_t indices[N];
#pragma unroll
  for (int j = 0; j < N; ++j) {
    out[j] = T(best[j]);
    codes[j] = uint8_t(marks[j]);
    indices[j] = marks[j];
  }
  store(args.out + at, out);
  if (args.codes) store(args.codes + at, codes);
  if (args.indices) store(args.indices + at, indices);
}

template <int N, typename T, typename I>
__global__ void __launch_bounds__(kThreads, kBlocksPerSM) pool_kernel(PoolArgs<T, I> args) {
  using A = Accumulator<T>;
  const Pooling<I>& pooling = args.pooling;
  Spot<I> spot;
  if (!pooling.items.find(spot)) return;
  const T* image = args.input + pooling.in_image(spot, 0, N);
  Inside<I> inside(pooling.windows, spot.d, spot.h, spot.w);
  A best[N];
  I marks[N];
#pragma unroll
  for (int j = 0; j < N; ++j) {
    best[j] = -INFINITY;
    marks[j] = args.codes ? inside.code : inside.place;
  }
  while (inside.left()) {
    T values[kAtOnce][N];
    I mark[kAtOnce];
    int count = 0;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (!inside.left()) continue;
      load(image + inside.place * pooling.channels, values[i]);
      mark[i] = args.codes ? inside.code : inside.place;
      inside.next();
      ++count;
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (i >= count) continue;
#pragma unroll
      for (int j = 0; j < N; ++j) {
        if (!takes_over(A(values[i][j]), best[j])) continue;
        best[j] = A(values[i][j]);
        marks[j] = mark[i];
      }
    }
  }
  store_pooled(args, pooling.in_pooled(spot, spot.d, spot.h, spot.w, N), best, marks);
}

// Windows of 2 x 2 side by side in planes: a thread takes BYTES of two rows of the image. An item's
// width counts these.
template <int BYTES, typename T>
__global__ void __launch_bounds__(kThreads) pool_rows_kernel(PoolArgs<T, int32_t> args) {
  using A = Accumulator<T>;
  constexpr int kSize = BYTES / sizeof(T), kPooled = kSize / 2;
  const Pooling<int32_t>& pooling = args.pooling;
  Spot<int32_t> spot;
  if (!pooling.items.find(spot)) return;
  const WindowAxis<int32_t>&rows = pooling.windows.axes[1], &columns = pooling.windows.axes[2];
  const int32_t place = pooling.windows.index_of(spot.d, 2 * spot.h, spot.w * kSize);
  const T* from = args.input + pooling.in_image(spot, place, 0);
  // With ceil_mode the last row is alone.
  const bool both = 2 * spot.h + 1 < rows.image;
  T values[2][kSize];
  load(from, values[0]);
  if (both) load(from + columns.image, values[1]);
  A best[kPooled];
  int32_t marks[kPooled];
#pragma unroll
  for (int j = 0; j < kPooled; ++j) {
    best[j] = A(values[0][2 * j]);
    int32_t code = 0;
#pragma unroll
    for (int k = 1; k < 4; ++k) {
      const A value = A(values[k / 2][2 * j + k % 2]);
      if ((k < 2 || both) && takes_over(value, best[j])) {
        best[j] = value;
        code = k;
      }
    }
    const int32_t row = code & 2 ? columns.image : 0;
    marks[j] = args.codes ? code : place + 2 * j + (code & 1) + row;
  }
  const int32_t first = spot.w * kPooled;
  store_pooled(args, pooling.in_pooled(spot, spot.d, spot.h, first, 0), best, marks);
}

}  // namespace pyaegpu::cuda
