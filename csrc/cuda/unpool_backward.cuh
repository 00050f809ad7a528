// Max-unpooling's gradient: each pooled element takes that of the place it went to. The input is
// the gradient of the image, the items are the pooled side's.
#pragma once

#include "unpool.cuh"

namespace pyaegpu::cuda {

// The place in the plane that an index of window (d, h, w) tells; negative where it is none.
template <typename Index, typename I>
__device__ I place_of(const Pooling<I>& pooling, I d, I h, I w, I mark) {
  const WindowAxis<I>* axes = pooling.windows.axes;
  if constexpr (!kCodes<Index>) return mark < pooling.windows.image() ? mark : I(-1);
  const I kw = pooling.kernel_width.split(mark), kh = pooling.kernel_height.split(mark), kd = mark;
  const I at_d = axes[0].start(d) + kd * axes[0].dilation;
  const I at_h = axes[1].start(h) + kh * axes[1].dilation;
  const I at_w = axes[2].start(w) + kw * axes[2].dilation;
  const bool inside = kd < axes[0].kernel && at_d >= 0 && at_d < axes[0].image && at_h >= 0 &&
                      at_h < axes[1].image && at_w >= 0 && at_w < axes[2].image;
  return inside ? pooling.windows.index_of(at_d, at_h, at_w) : I(-1);
}

// One element a thread.
template <typename T, typename Index, typename I>
__global__ void __launch_bounds__(kThreads) place_kernel(UnpoolArgs<T, Index, I> args) {
  const Pooling<I>& pooling = args.pooling;
  Spot<I> spot;
  if (!pooling.items.find(spot)) return;
  const int64_t at = pooling.in_pooled(spot, spot.d, spot.h, spot.w, 1);
  const I mark = mark_of<I>(args.indices[at]);
  const I place = place_of<Index>(pooling, spot.d, spot.h, spot.w, mark);
  args.out[at] = place >= 0 ? args.input[pooling.in_image(spot, place, 1)] : T(0);
}

// N channels a thread, from windows of few elements: all of them are read, in whole vectors.
template <int N, typename T, typename Index>
__global__ void __launch_bounds__(kThreads, kBlocksPerSM)
    choose_kernel(UnpoolArgs<T, Index, int32_t> args) {
  const Pooling<int32_t>& pooling = args.pooling;
  Spot<int32_t> spot;
  if (!pooling.items.find(spot)) return;
  const T* image = args.input + pooling.in_image(spot, 0, N);
  const int64_t at = pooling.in_pooled(spot, spot.d, spot.h, spot.w, N);
  Inside<int32_t> inside(pooling.windows, spot.d, spot.h, spot.w);
  T chosen[N] = {};
  int32_t marks[N];
  load_marks(args.indices + at, marks);
  unsigned foreign = (1u << N) - 1;  // a bit for each of the N
  while (inside.left()) {
    T values[kAtOnce][N];
    int32_t mark[kAtOnce];
    int count = 0;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (!inside.left()) continue;
      load(image + inside.place * pooling.channels, values[i]);
      mark[i] = kCodes<Index> ? inside.code : inside.place;
      inside.next();
      ++count;
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (i >= count) continue;
#pragma unroll
      for (int j = 0; j < N; ++j) {
        if (marks[j] != mark[i]) continue;
        chosen[j] = values[i][j];
        foreign &= ~(1u << j);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < N; ++j) {
    if (kCodes<Index> || !(foreign >> j & 1)) continue;
    if (marks[j] < 0 || marks[j] >= pooling.windows.image()) continue;
    chosen[j] = image[marks[j] * pooling.channels + j];
  }
  store(args.out + at, chosen);
}

}  // namespace pyaegpu::cuda
