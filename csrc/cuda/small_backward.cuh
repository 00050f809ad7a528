// Gradients of a transposed convolution to few output channels. A block takes tiles of inputs: the
// window of upstream gradients that a tile's inputs went to lies in shared memory, from there it is
// laid out as one row of taps for each input, and two products give both gradients.
#pragma once

#include "reduce.cuh"
#include "small_tiles.cuh"

namespace pyaegpu::cuda {

template <typename T>
struct SmallBackward {
  static constexpr int kPixels = sizeof(T) == 8 ? 64 : 128;   // inputs of a tile
  static constexpr int kChannels = sizeof(T) == 2 ? 64 : 32;  // of the input, at a time
  static constexpr int kInputPitch = kChannels + kPad<T>;
  static constexpr int kWindow = sizeof(T) == 8 ? 2048 : 4096;  // elements
  static constexpr int kStep = sizeof(T) == 2 ? 16 : Vector<T>::kSize;

  static constexpr int align(int bytes) { return bytes + 15 & ~15; }
  static constexpr int kInputBytes = align(kPixels * kInputPitch * int(sizeof(T)));
  static constexpr int kWindowBytes = kWindow * int(sizeof(T));
  static constexpr int row_bytes(int rows, int columns) {
    return align(rows * (columns + kPad<T>)*int(sizeof(T)));
  }
  static constexpr int bytes(int columns) {
    return kInputBytes + kWindowBytes + row_bytes(kPixels, columns) + row_bytes(kChannels, columns);
  }
};

// The gradient before the activation.
template <typename T>
__device__ Accumulator<T> inner_gradient(const SmallArgs<T>& args, int64_t image, int channel,
                                         int row, int column) {
  using A = Accumulator<T>;
  const A g = A(*args.g.at(image, channel, row, column));
  if (args.activation == kNoActivation) return g;
  return gradient_by(args.activation, g, A(*args.out.at(image, channel, row, column)), args.slope);
}

// A rectangle of outputs, walked in the order of the upstream gradient's memory.
struct Window {
  int channels, rows, columns;
  bool channels_last;

  __device__ int size() const { return channels * rows * columns; }
  __device__ Taps order() const { return {channels, rows, columns, channels_last}; }
};

template <typename T>
__device__ void load_window(T* to, const SmallArgs<T>& args, const Window& window, int64_t image,
                            int row, int column) {
  const Taps order = window.order();
#pragma unroll 4
  for (int i = threadIdx.x; i < window.size(); i += kThreads) {
    const int h = row + order.row(i), w = column + order.column(i);
    const bool there = h >= 0 && h < args.rows.outputs && w >= 0 && w < args.columns.outputs;
    to[i] = there ? T(inner_gradient(args, image, order.channel(i), h, w)) : T(0);
  }
}

// to[pixel][tap] from the window; zeros for what is no input and beyond the taps.
template <int COLUMNS, typename T>
__device__ void lay_out(T* to, const T* window, const int* taps, const Pixel* pixels, int count,
                        const Window& shape, const Axis& rows, const Axis& columns, int across) {
  constexpr int kSize = Vector<T>::kSize, kPitch = COLUMNS + kPad<T>;
  const Taps order = shape.order();
#pragma unroll 1
  for (int i = threadIdx.x; i < count * (COLUMNS / kSize); i += kThreads) {
    const int p = i / (COLUMNS / kSize), m = i % (COLUMNS / kSize) * kSize;
    const bool inside = pixels[p].row >= 0;
    const T* from = window + order.index(0, p / across * rows.stride, p % across * columns.stride);
    Vector<T> values{};
#pragma unroll
    for (int j = 0; j < kSize; ++j) {
      if (inside && taps[m + j] >= 0) values.values[j] = from[taps[m + j]];
    }
    if constexpr (sizeof(T) == 2) {
      *reinterpret_cast<Vector<T>*>(to + p * kPitch + m) = values;
    } else {
#pragma unroll
      for (int j = 0; j < kSize; ++j) to[p * kPitch + m + j] = values.values[j];
    }
  }
}

// The input's gradient from shared memory, for `count` inputs and the channels from `first` on.
template <typename T>
__device__ void store_pixels(const SmallArgs<T>& args, const T* from, const Pixel* pixels,
                             int count, int64_t image, int first) {
  using Form = SmallBackward<T>;
  constexpr int kSize = Vector<T>::kSize, kPitch = Form::kInputPitch;
  const auto& to = args.result;
  const int channels = min(Form::kChannels, args.inputs - first);
  const int step = to.vectors ? kSize : 1, groups = channels / step;
#pragma unroll 1
  for (int i = threadIdx.x; i < count * groups; i += kThreads) {
    const int p = to.vectors ? i / groups : i % count;
    const int c = (to.vectors ? i % groups : i / count) * step;
    if (pixels[p].row < 0) continue;
    T* at = to.at(image, first + c, pixels[p].row, pixels[p].column);
    Vector<T> values;
#pragma unroll
    for (int j = 0; j < kSize; ++j) {
      if (j < step) values.values[j] = from[p * kPitch + c + j];
    }
    if (to.vectors) {
      write<kSize>(at, values);
    } else {
      write<1>(at, values);
    }
  }
}

// Adds this thread's part of the outputs that belong to a tile.
template <typename T>
__device__ void add_bias(const SmallArgs<T>& args, const TilePlace& place,
                         Accumulator<T> (&sums)[4]) {
  const int row = args.rows.owned(place.row), column = args.columns.owned(place.column);
  const int rows = args.rows.owned(place.row + args.tiling.rows) - row;
  const int columns = args.columns.owned(place.column + args.tiling.columns) - column;
#pragma unroll 1
  for (int i = threadIdx.x; i < rows * columns; i += kThreads) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      if (c >= args.outputs) continue;
      sums[c] += inner_gradient(args, place.image, c, row + i / columns, column + i % columns);
    }
  }
}

// A block's sums for its channels and taps, in the order [Cin][Cout][KH][KW].
template <int COLUMNS, typename T, typename P>
__device__ void store_weight(const SmallArgs<T>& args, const P& product, Accumulator<T>* shared,
                             int first) {
  using A = Accumulator<T>;
  const int across = args.tiling.taps_across(args.columns);
  const int kh = blockIdx.z / across * args.tiling.tap_rows;
  const int kw = blockIdx.z % across * args.tiling.tap_columns;
  const Taps taps = args.taps(args.rows.taps(kh, args.tiling.tap_rows),
                              args.columns.taps(kw, args.tiling.tap_columns));
  const Taps whole{args.outputs, args.rows.kernel, args.columns.kernel, false};
  A* const to = args.d_weight + blockIdx.x * args.elements;
  __syncthreads();
  // The second group of warps hands its sums to the first.
  if (P::kGroups == 2 && product.group() == 1) {
    product.each([&](int c, int m, A sum) { shared[c * COLUMNS + m] = sum; });
  }
  __syncthreads();
  if (product.group() != 0) return;
  product.each([&](int c, int m, A sum) {
    if (first + c >= args.inputs || m >= taps.size()) return;
    const int tap = whole.index(taps.channel(m), kh + taps.row(m), kw + taps.column(m));
    to[int64_t(first + c) * whole.size() + tap] =
        P::kGroups == 2 ? sum + shared[c * COLUMNS + m] : sum;
  });
}

// Blocks (x, y, z): of tiles, of input channels, of taps. The input's gradient takes all taps, so
// that with several blocks of them it is asked for alone.
template <typename T, int COLUMNS>
__global__ void __launch_bounds__(kThreads, 2) small_backward_kernel(SmallArgs<T> args) {
  using A = Accumulator<T>;
  using Form = SmallBackward<T>;
  constexpr int kPitch = COLUMNS + kPad<T>;
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ Pixel pixels[Form::kPixels];
  __shared__ int64_t tap_at[kMostTaps];
  __shared__ int tap_in[kMostTaps];
  T* const inputs = reinterpret_cast<T*>(memory);
  T* const window = reinterpret_cast<T*>(memory + Form::kInputBytes);
  T* const laid = reinterpret_cast<T*>(memory + Form::kInputBytes + Form::kWindowBytes);
  T* const weight = reinterpret_cast<T*>(memory + Form::kInputBytes + Form::kWindowBytes +
                                         Form::row_bytes(Form::kPixels, COLUMNS));
  const Tiling& tiling = args.tiling;
  const int channel = blockIdx.y * Form::kChannels;
  const int across = tiling.columns, count = tiling.rows * tiling.columns;
  const int listed = round_up(count, Form::kStep);
  const int blocks_across = tiling.taps_across(args.columns);
  const int blocks =
      args.need_input ? tiling.taps_down(args.rows) * blocks_across : int(args.need_weight);
  const bool owner = args.need_bias && blockIdx.y == 0 && blockIdx.z == 0;

  Product<T, Form::kChannels, COLUMNS> d_weight;
  A d_bias[4] = {};
  for (int64_t t = blockIdx.x; t < args.tiles; t += gridDim.x) {
    const TilePlace place = place_of(tiling, t);
    __syncthreads();
    list_pixels(pixels, args.rows, args.columns, place.row, place.column, across, count, listed);
    __syncthreads();
    if (args.need_weight) {
      load_pixels(inputs, Form::kInputPitch, args.input, place.image, args.inputs, pixels, listed,
                  channel, Form::kChannels);
    }
    Product<T, Form::kPixels, Form::kChannels> d_input;
    for (int b = blockIdx.z; b < int(blockIdx.z) + blocks; ++b) {
      const int kh = b / blocks_across * tiling.tap_rows;
      const int kw = b % blocks_across * tiling.tap_columns;
      const Axis rows = args.rows.taps(kh, tiling.tap_rows);
      const Axis columns = args.columns.taps(kw, tiling.tap_columns);
      const Taps taps = args.taps(rows, columns);
      const Window shape{args.outputs, rows.window(tiling.rows), columns.window(tiling.columns),
                         args.g_channels_last};
      const Taps order = shape.order();
      list_taps(tap_at, args, taps, kh, kw);
      for (int m = threadIdx.x; m < kMostTaps; m += kThreads) {
        tap_in[m] =
            m < taps.size() ? order.index(taps.channel(m), taps.row(m), taps.column(m)) : -1;
      }
      load_window(window, args, shape, place.image, rows.first_output(place.row),
                  columns.first_output(place.column));
      __syncthreads();
      lay_out<COLUMNS>(laid, window, tap_in, pixels, listed, shape, rows, columns, across);
      if (args.need_input) load_weight<COLUMNS>(weight, args, tap_at, channel, Form::kChannels);
      sync_copies();
      const int depth = round_up(taps.size(), sizeof(T) == 2 ? 16 : 1);
      if (args.need_input) {
        d_input.add(Matrix<T, false>{laid, kPitch}, Matrix<T, true>{weight, kPitch}, count, depth);
      }
      if (args.need_weight) {
        d_weight.add(Matrix<T, true>{inputs, Form::kInputPitch}, Matrix<T, false>{laid, kPitch},
                     Form::kChannels, listed);
      }
      __syncthreads();
    }
    if (args.need_input) {
      d_input.each(
          [&](int pixel, int c, A sum) { inputs[pixel * Form::kInputPitch + c] = T(sum); });
      __syncthreads();
      store_pixels(args, inputs, pixels, count, place.image, channel);
    }
    if (owner) add_bias(args, place, d_bias);
  }

  if (args.need_weight)
    store_weight<COLUMNS>(args, d_weight, reinterpret_cast<A*>(memory), channel);
  if (!owner) return;
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    if (c >= args.outputs) continue;
    const A sum = block_sum(d_bias[c]);
    if (threadIdx.x == 0) args.d_bias[int64_t(c) * gridDim.x + blockIdx.x] = sum;
  }
}

}  // namespace pyaegpu::cuda
