// Max-unpooling as a gather: every element of the image asks the windows that hold it whether they
// chose it. The same serves max-pooling's gradient, which adds up where windows overlap.
#pragma once

#include "../common/tensor.h"
#include "pool_items.cuh"

namespace pyaegpu::cuda {

// T: unsigned bits, of which the last that chose a place is kept, or numbers, which are added up.
template <typename T, typename Index, typename I>
struct UnpoolArgs {
  Pooling<I> pooling;
  const T* input;
  const Index* indices;
  T* out;
  int32_t* foreign;  // set where a plane index is not in its own window; null where nobody asks
};

template <typename T>
using Gathered = std::conditional_t<std::is_unsigned_v<T>, T, Accumulator<T>>;

template <typename T>
__device__ void gather(Gathered<T>& to, T value) {
  if constexpr (std::is_unsigned_v<T>) {
    to = value;
  } else {
    to += Gathered<T>(value);
  }
}

template <int N, typename T>
__device__ void store_gathered(T* to, const Gathered<T> (&from)[N]) {
  T values[N];
#pragma unroll
  for (int j = 0; j < N; ++j) values[j] = T(from[j]);
  store(to, values);
}

// Windows that do not overlap: the image is cut into cells of a stride each, and a thread reads a
// window once and writes its whole cell. Past the windows, cells are zero. The items are cells.
template <int N, typename T, typename Index>
__global__ void __launch_bounds__(kThreads, kBlocksPerSM)
    cells_kernel(UnpoolArgs<T, Index, int32_t> args) {
  const Pooling<int32_t>& pooling = args.pooling;
  const WindowAxis<int32_t>* axes = pooling.windows.axes;
  Spot<int32_t> spot;
  if (!pooling.items.find(spot)) return;
  T values[N] = {};
  int32_t marks[N];
  unsigned foreign = 0;  // a bit for each of the N
  const bool window = spot.d < axes[0].pooled && spot.h < axes[1].pooled && spot.w < axes[2].pooled;
  if (window) {
    const int64_t at = pooling.in_pooled(spot, spot.d, spot.h, spot.w, N);
    load(args.input + at, values);
    load_marks(args.indices + at, marks);
    foreign = (1u << N) - 1;
  }
  const auto begin = [](const WindowAxis<int32_t>& axis, int32_t p) {
    return max(axis.start(p), 0);
  };
  const auto end = [](const WindowAxis<int32_t>& axis, int32_t p) {
    return min(axis.start(p) + axis.stride, axis.image);
  };
  const int32_t end_d = end(axes[0], spot.d), end_h = end(axes[1], spot.h),
                end_w = end(axes[2], spot.w);
#pragma unroll 1
  for (int32_t d = begin(axes[0], spot.d); d < end_d; ++d) {
#pragma unroll 1
    for (int32_t h = begin(axes[1], spot.h); h < end_h; ++h) {
#pragma unroll 1
      for (int32_t w = begin(axes[2], spot.w); w < end_w; ++w) {
        const int32_t kd = axes[0].position_of(d, spot.d), kh = axes[1].position_of(h, spot.h),
                      kw = axes[2].position_of(w, spot.w);
        const bool held = window && kd >= 0 && kd < axes[0].kernel && kh >= 0 &&
                          kh < axes[1].kernel && kw >= 0 && kw < axes[2].kernel;
        const int32_t place = pooling.windows.index_of(d, h, w);
        const int32_t mark = kCodes<Index> ? pooling.windows.code_of(kd, kh, kw) : place;
        T cell[N];
#pragma unroll
        for (int j = 0; j < N; ++j) {
          const bool chosen = held && marks[j] == mark;
          cell[j] = chosen ? values[j] : T(0);
          if (chosen) foreign &= ~(1u << j);
        }
        store(args.out + pooling.in_image(spot, place, N), cell);
      }
    }
  }
  if (!kCodes<Index> && args.foreign && foreign) *args.foreign = 1;
}

// The windows along one axis that a gather looks at.
template <typename I>
struct Candidates {
  I first, last;

  // Those that hold one of the elements `o` to `end` - 1. `all`: windows before the first element
  // or behind the last are looked at there, so that each window is looked at somewhere.
  __device__ Candidates(const WindowAxis<I>& axis, const Divider<I>& stride, I o, I end, bool all) {
    const I beyond = o + axis.padding - (axis.kernel - 1) * axis.dilation;
    first = beyond <= 0 || (all && o == 0) ? 0 : stride.quotient(beyond + axis.stride - 1);
    const I last_window = stride.quotient(end - 1 + axis.padding);
    last = min(all && end == axis.image ? axis.pooled : last_window, axis.pooled - 1);
  }
};

// Whether the elements `o` to `end` - 1 are where window p is asked for an index that is not in it.
template <typename I>
__device__ bool at_home(const WindowAxis<I>& axis, I o, I end, I p) {
  const I home = min(max(axis.start(p), I(0)), axis.image - 1);
  return home >= o && home < end;
}

// Any windows. The items are the elements of the image.
template <int N, typename T, typename Index, typename I>
__global__ void __launch_bounds__(kThreads, kBlocksPerSM)
    gather_kernel(UnpoolArgs<T, Index, I> args) {
  const Pooling<I>& pooling = args.pooling;
  const WindowAxis<I>* axes = pooling.windows.axes;
  Spot<I> spot;
  if (!pooling.items.find(spot)) return;
  const bool check = !kCodes<Index> && args.foreign;
  const Candidates<I> down(axes[0], pooling.strides[0], spot.d, spot.d + 1, check);
  const Candidates<I> rows(axes[1], pooling.strides[1], spot.h, spot.h + 1, check);
  const Candidates<I> columns(axes[2], pooling.strides[2], spot.w, spot.w + 1, check);
  const I place = pooling.windows.index_of(spot.d, spot.h, spot.w);
  Gathered<T> sums[N] = {};
  bool foreign = false;
  for (I d = down.first; d <= down.last; ++d) {
    for (I h = rows.first; h <= rows.last; ++h) {
      for (I w = columns.first; w <= columns.last; ++w) {
        const I kd = axes[0].position_of(spot.d, d), kh = axes[1].position_of(spot.h, h),
                kw = axes[2].position_of(spot.w, w);
        const bool held = kd >= 0 && kd < axes[0].kernel && kh >= 0 && kh < axes[1].kernel &&
                          kw >= 0 && kw < axes[2].kernel;
        const bool home = check && at_home(axes[0], spot.d, spot.d + 1, d) &&
                          at_home(axes[1], spot.h, spot.h + 1, h) &&
                          at_home(axes[2], spot.w, spot.w + 1, w);
        if (!held && !home) continue;
        const I mark = kCodes<Index> ? pooling.windows.code_of(kd, kh, kw) : place;
        const int64_t at = pooling.in_pooled(spot, d, h, w, N);
        T values[N];
        I marks[N];
        load_marks(args.indices + at, marks);
        if (N > 1 || (held && marks[0] == mark)) load(args.input + at, values);
#pragma unroll
        for (int j = 0; j < N; ++j) {
          if (held && marks[j] == mark) gather(sums[j], values[j]);
          if (home) foreign |= !pooling.contains(d, h, w, marks[j]);
        }
      }
    }
  }
  store_gathered(args.out + pooling.in_image(spot, place, N), sums);
  if (foreign) *args.foreign = 1;
}

// Any windows in planes: a thread gathers N neighbours of a row. An item's width counts these.
template <int N, typename T, typename Index>
__global__ void __launch_bounds__(kThreads, kBlocksPerSM)
    strips_kernel(UnpoolArgs<T, Index, int32_t> args) {
  const Pooling<int32_t>& pooling = args.pooling;
  const WindowAxis<int32_t>* axes = pooling.windows.axes;
  Spot<int32_t> spot;
  if (!pooling.items.find(spot)) return;
  const bool check = !kCodes<Index> && args.foreign;
  const int32_t begin = spot.w * N, end = begin + N;
  const Candidates<int32_t> down(axes[0], pooling.strides[0], spot.d, spot.d + 1, check);
  const Candidates<int32_t> rows(axes[1], pooling.strides[1], spot.h, spot.h + 1, check);
  const Candidates<int32_t> columns(axes[2], pooling.strides[2], begin, end, check);
  const int32_t row = pooling.windows.index_of(spot.d, spot.h, 0);
  Gathered<T> sums[N] = {};
  bool foreign = false;
  for (int32_t d = down.first; d <= down.last; ++d) {
    for (int32_t h = rows.first; h <= rows.last; ++h) {
      const int32_t kd = axes[0].position_of(spot.d, d), kh = axes[1].position_of(spot.h, h);
      const bool held = kd >= 0 && kd < axes[0].kernel && kh >= 0 && kh < axes[1].kernel;
      const bool home = check && at_home(axes[0], spot.d, spot.d + 1, d) &&
                        at_home(axes[1], spot.h, spot.h + 1, h);
      if (!held && !home) continue;
      const int32_t code = pooling.windows.code_of(kd, kh, 0);
      for (int32_t w = columns.first; w <= columns.last; ++w) {
        const int64_t at = pooling.in_pooled(spot, d, h, w, 1);
        const int32_t mark = mark_of<int32_t>(args.indices[at]), start = axes[2].start(w);
        // Where in this row, from `begin` on, the window chose; negative where not.
        int32_t chosen = -1;
        if (kCodes<Index>) {
          const int32_t kw = mark - code;
          if (kw >= 0 && kw < axes[2].kernel) chosen = start + kw * axes[2].dilation - begin;
        } else if (mark >= row) {
          const int32_t kw = axes[2].position_of(mark - row, w);
          if (kw >= 0 && kw < axes[2].kernel) chosen = mark - row - begin;
        }
        if (held && chosen >= 0 && chosen < N) {
          const T value = args.input[at];
#pragma unroll
          for (int j = 0; j < N; ++j) {
            if (j == chosen) gather(sums[j], value);
          }
        }
        if (home && at_home(axes[2], begin, end, w)) foreign |= !pooling.contains(d, h, w, mark);
      }
    }
  }
  store_gathered(args.out + pooling.in_image(spot, row + begin, 0), sums);
  if (foreign) *args.foreign = 1;
}

}  // namespace pyaegpu::cuda
