// Parts of the inputs of a transposed convolution to few channels, brought into shared memory.
#pragma once

#include "../common/conv_transpose.h"
#include "activations.cuh"
#include "launch.h"
#include "product.cuh"
#include "vectors.cuh"

namespace pyaegpu::cuda {

// Columns of a product, that is taps times output channels, and rows or columns of a tile.
constexpr int kMostTaps = 64, kMostSide = 64;

// A 4-D tensor as the kernels read it.
template <typename T>
struct Strides4 {
  T* data;
  int64_t image, channel, row, column;
  bool vectors;  // runs of Vector<T>::kSize channels on 16 bytes

  __device__ T* at(int64_t n, int c, int h, int w) const {
    return data + n * image + c * channel + h * row + w * column;
  }
};

template <typename T>
struct SmallArgs {
  Strides4<const T> input, weight, g, out;  // of the weight: [Cin, Cout, KH, KW]
  Strides4<T> result;                       // the output, or the input's gradient
  const T* bias;
  Accumulator<T>*d_weight, *d_bias;  // partial sums
  int64_t tiles, elements;           // in all; of the weight
  Axis rows, columns;
  Tiling tiling;
  int inputs, outputs;  // channels
  int64_t activation;
  Accumulator<T> slope;
  bool taps_last;      // the order of Taps
  bool whole_weight;   // rows of the weight are whole vectors in that order, all taps at once
  bool channels_last;  // of the output's tile
  bool g_channels_last;
  bool need_input, need_weight, need_bias;

  __device__ Taps taps(const Axis& r, const Axis& c) const {
    return {outputs, r.kernel, c.kernel, taps_last};
  }
};

// 16 bytes from global to shared memory, zeros where they are not `there`; sync_copies waits.
template <typename T>
__device__ void copy16(T* to, const T* from, bool there) {
  if constexpr (sizeof(T) == 2) {
    const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from),
                 "r"(there ? 16 : 0)
                 : "memory");
  } else {
    Vector<T> values{};
    if (there) read<Vector<T>::kSize>(from, values);
#pragma unroll
    for (int j = 0; j < Vector<T>::kSize; ++j) to[j] = values.values[j];
  }
}

__device__ inline void sync_copies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
  __syncthreads();
}

// A position in the plane of inputs; `row` is negative where it lies outside.
struct Pixel {
  int row, column;
};

// The inputs of a tile from (row, column) on, `across` wide, as far as `count`.
__device__ inline void list_pixels(Pixel* pixels, const Axis& rows, const Axis& columns, int row,
                                   int column, int across, int count, int listed) {
  for (int i = threadIdx.x; i < listed; i += kThreads) {
    const int h = row + i / across, w = column + i % across;
    const bool inside = i < count && rows.holds(h) && columns.holds(w);
    pixels[i] = {inside ? h : -1, inside ? w : 0};
  }
}

// to[pixel][channel] for `depth` channels, whole vectors of them, from `first` on; zeros outside.
template <typename T>
__device__ void load_pixels(T* to, int pitch, const Strides4<const T>& from, int64_t image,
                            int channels, const Pixel* pixels, int count, int first, int depth) {
  constexpr int kSize = Vector<T>::kSize;
  const int groups = depth / kSize;
  if (from.vectors) {
#pragma unroll(sizeof(T) == 2 ? 1 : 4)
    for (int i = threadIdx.x; i < count * groups; i += kThreads) {
      const int p = i / groups, c = i % groups * kSize;
      const bool there = pixels[p].row >= 0 && first + c < channels;
      copy16(to + p * pitch + c,
             there ? from.at(image, first + c, pixels[p].row, pixels[p].column) : from.data, there);
    }
    return;
  }
#pragma unroll 1
  for (int i = threadIdx.x; i < count * groups; i += kThreads) {
    const int p = i % count, c = i / count * kSize;
    const T* at = from.at(image, first + c, pixels[p].row, pixels[p].column);
    Vector<T> values{};
#pragma unroll
    for (int j = 0; j < kSize; ++j) {
      const bool there = pixels[p].row >= 0 && first + c + j < channels;
      if (there) values.values[j] = at[j * from.channel];
    }
    if constexpr (sizeof(T) == 2) {
      *reinterpret_cast<Vector<T>*>(to + p * pitch + c) = values;
    } else {
#pragma unroll
      for (int j = 0; j < kSize; ++j) to[p * pitch + c + j] = values.values[j];
    }
  }
}

// Offsets of a rectangle of taps in the weight of one input channel; negative beyond them.
template <typename T>
__device__ void list_taps(int64_t* at, const SmallArgs<T>& args, const Taps& taps, int row,
                          int column) {
  for (int m = threadIdx.x; m < kMostTaps; m += kThreads) {
    const auto& w = args.weight;
    at[m] = m < taps.size() ? taps.channel(m) * w.channel + (row + taps.row(m)) * w.row +
                                  (column + taps.column(m)) * w.column
                            : -1;
  }
}

// to[channel][tap] for `depth` input channels from `first` on; zeros beyond the channels and taps.
template <int COLUMNS, typename T>
__device__ void load_weight(T* to, const SmallArgs<T>& args, const int64_t* taps, int first,
                            int depth) {
  constexpr int kSize = Vector<T>::kSize, kPitch = COLUMNS + kPad<T>;
  const auto& w = args.weight;
  if (args.whole_weight) {
#pragma unroll 1
    for (int i = threadIdx.x; i < depth * (COLUMNS / kSize); i += kThreads) {
      const int c = i / (COLUMNS / kSize), m = i % (COLUMNS / kSize) * kSize;
      const bool there = first + c < args.inputs && taps[m] >= 0;
      copy16(to + c * kPitch + m, there ? w.data + (first + c) * w.image + m : w.data, there);
    }
    return;
  }
#pragma unroll 1
  for (int i = threadIdx.x; i < depth * COLUMNS; i += kThreads) {
    const int c = i / COLUMNS, m = i % COLUMNS;
    const bool there = first + c < args.inputs && taps[m] >= 0;
    to[c * kPitch + m] = there ? w.data[(first + c) * w.image + taps[m]] : T(0);
  }
}

}  // namespace pyaegpu::cuda
