// Max-unpooling by windows of 2 x 2 side by side in planes, and its gradient: a thread takes BYTES
// of two rows of the image and half as much of the pooled row. An item's width counts these, its
// height pairs of rows.
#pragma once

#include "unpool.cuh"

namespace pyaegpu::cuda {

// Which element of its window, 0 to 3, an index chose; from 4 on none. `first` is the window's
// place in the plane, `width` the plane's.
template <typename Index>
__device__ int choice_of(int32_t mark, int32_t first, int32_t width) {
  if constexpr (kCodes<Index>) return mark;
  const int32_t distance = mark - first;
  const bool lower = distance >= width;
  const int32_t column = lower ? distance - width : distance;
  return uint32_t(column) < 2 ? column + 2 * lower : 4;
}

template <int BYTES, typename T, typename Index>
__global__ void __launch_bounds__(kThreads) unpool_rows_kernel(UnpoolArgs<T, Index, int32_t> args) {
  constexpr int kSize = BYTES / sizeof(T), kPooled = kSize / 2;
  const Pooling<int32_t>& pooling = args.pooling;
  Spot<int32_t> spot;
  if (!pooling.items.find(spot)) return;
  const WindowAxis<int32_t>& rows = pooling.windows.axes[1];
  const int32_t width = pooling.windows.axes[2].image;
  const int32_t place = pooling.windows.index_of(spot.d, 2 * spot.h, spot.w * kSize);
  const int inside = min(rows.image - 2 * spot.h, 2);
  T values[kPooled] = {};
  int choices[kPooled];
  bool foreign = false;
#pragma unroll
  for (int j = 0; j < kPooled; ++j) choices[j] = 4;
  if (spot.h < rows.pooled) {
    const int64_t at = pooling.in_pooled(spot, spot.d, spot.h, spot.w * kPooled, 0);
    int32_t marks[kPooled];
    load_marks(args.indices + at, marks);
    load(args.input + at, values);
#pragma unroll
    for (int j = 0; j < kPooled; ++j) {
      choices[j] = choice_of<Index>(marks[j], place + 2 * j, width);
      foreign |= choices[j] >= 2 * inside;
    }
  }
  T* to = args.out + pooling.in_image(spot, place, 0);
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    T line[kSize];
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      line[i] = choices[i / 2] == 2 * row + i % 2 ? values[i / 2] : T(0);
    }
    if (row < inside) store(to + row * width, line);
  }
  if (!kCodes<Index> && args.foreign && foreign) *args.foreign = 1;
}

// The input is the gradient of the image.
template <int BYTES, typename T, typename Index>
__global__ void __launch_bounds__(kThreads)
    unpool_rows_backward_kernel(UnpoolArgs<T, Index, int32_t> args) {
  constexpr int kSize = BYTES / sizeof(T), kPooled = kSize / 2;
  const Pooling<int32_t>& pooling = args.pooling;
  Spot<int32_t> spot;
  if (!pooling.items.find(spot)) return;
  const int32_t width = pooling.windows.axes[2].image;
  const int32_t place = pooling.windows.index_of(spot.d, 2 * spot.h, spot.w * kSize);
  const int inside = min(pooling.windows.axes[1].image - 2 * spot.h, 2);
  const T* plane = args.input + pooling.in_image(spot, 0, 0);
  const int64_t at = pooling.in_pooled(spot, spot.d, spot.h, spot.w * kPooled, 0);
  T lines[2][kSize] = {};
  int32_t marks[kPooled];
  load_marks(args.indices + at, marks);
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    if (row < inside) load(plane + place + row * width, lines[row]);
  }
  T values[kPooled];
#pragma unroll
  for (int j = 0; j < kPooled; ++j) {
    const int choice = choice_of<Index>(marks[j], place + 2 * j, width);
    values[j] = T(0);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (choice == k) values[j] = lines[k / 2][2 * j + k % 2];
    }
    if (kCodes<Index> || choice < 2 * inside) continue;
    if (marks[j] >= 0 && marks[j] < pooling.windows.image()) values[j] = plane[marks[j]];
  }
  store(args.out + at, values);
}

}  // namespace pyaegpu::cuda
