// Transposed convolution to few output channels. A block owns a tile of outputs: one product gives
// what each tap sends from each input of the tile's halo, kept in shared memory, and each output
// sums its taps there.
#pragma once

#include "small_tiles.cuh"

namespace pyaegpu::cuda {

template <typename T>
struct SmallForward {
  static constexpr int kPixels = sizeof(T) == 8 ? 128 : 256;    // of a halo
  static constexpr int kOutputs = sizeof(T) == 8 ? 512 : 1024;  // of a tile and channel
  static constexpr int kDepth = sizeof(T) == 2 ? 64 : 32;       // input channels at a time
  static constexpr int kInputPitch = kDepth + kPad<T>;
  static constexpr int kSumPitch = kPixels + 4;

  // Bytes of the inputs and the weight, and then of the product in their place.
  static constexpr int product_bytes(int columns) {
    const int operands = (kPixels * kInputPitch + kDepth * (columns + kPad<T>)) * int(sizeof(T));
    const int sums = columns * kSumPitch * int(sizeof(Accumulator<T>));
    return (operands > sums ? operands : sums) + 15 & ~15;
  }
  static int bytes(const SmallArgs<T>& args, int columns) {
    return product_bytes(columns) +
           args.tiling.rows * args.tiling.columns * args.outputs * int(sizeof(Accumulator<T>));
  }
};

// An output of a tile's row or column: where it lies, its last input in the halo, the tap of that.
struct Target {
  int output, input, tap;
};

__device__ inline Target target_of(const Axis& axis, int first, int output) {
  const Meeting meeting = axis.meeting(first + output);
  return {output, meeting.input - axis.first_input(first), meeting.tap};
}

// Sums the taps that `sums` holds for each output of the tile, in phase order so that the threads
// of a warp read neighbouring pixels.
template <typename T>
struct TapSum {
  using A = Accumulator<T>;
  const A* sums;  // [tap][pixel]
  Axis rows, columns;
  Taps taps;
  int first_row, first_column, across;  // of the halo

  __device__ void at(const Target& h, const Target& w, A (&total)[4]) const {
    constexpr int kPitch = SmallForward<T>::kSumPitch;
    const int step = (taps.channels_last ? 1 : taps.rows * taps.columns) * kPitch;
    int row = h.input;
    for (int kh = h.tap; kh < rows.kernel; kh += rows.stride, --row) {
      if (!rows.holds(first_row + row)) continue;
      int column = w.input;
      for (int kw = w.tap; kw < columns.kernel; kw += columns.stride, --column) {
        if (!columns.holds(first_column + column)) continue;  // 0 there, but not times infinity
        const A* from = sums + taps.index(0, kh, kw) * kPitch + row * across + column;
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          if (c < taps.channels) total[c] += from[c * step];
        }
      }
    }
  }
};

// The tile's outputs before the activation, in the order of the output's memory.
template <typename T>
struct OutputTile {
  using A = Accumulator<T>;
  A* values;
  int rows, columns, channels;
  bool channels_last;

  __device__ A& at(int row, int column, int channel) const {
    return values[channels_last ? (row * columns + column) * channels + channel
                                : (channel * rows + row) * columns + column];
  }
};

template <typename T>
__device__ void store_outputs(const SmallArgs<T>& args, const OutputTile<T>& tile,
                              const TilePlace& place) {
  using A = Accumulator<T>;
  constexpr int kSize = Vector<T>::kSize;
  const auto& to = args.result;
  const int rows = min(tile.rows, args.rows.outputs - place.row);
  const int width = min(tile.columns, args.columns.outputs - place.column);
  // Runs of neighbouring elements: of a row, or of a row and channel.
  const int scale = tile.channels_last ? tile.channels : 1;
  const int length = width * scale, pitch = tile.columns * scale;
  const int runs = tile.channels_last ? rows : tile.rows * tile.channels;
  const int step = to.vectors ? kSize : 1, groups = length / step;
#pragma unroll 1
  for (int i = threadIdx.x; i < runs * groups; i += kThreads) {
    const int run = i / groups, first = i % groups * step;
    const int channel = tile.channels_last ? 0 : run / tile.rows;
    const int row = run - channel * tile.rows;
    if (row >= rows) continue;
    T* at = to.at(place.image, channel, place.row + row, place.column) + first;
    const A* from = tile.values + run * pitch + first;
    Vector<T> values;
#pragma unroll
    for (int j = 0; j < kSize; ++j) {
      if (j < step) values.values[j] = T(activate_by(args.activation, from[j], args.slope));
    }
    if (to.vectors) {
      write<kSize>(at, values);
    } else {
      write<1>(at, values);
    }
  }
}

// Blocks on one multiprocessor: what shared memory holds, where the registers allow it.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
template <typename T, int COLUMNS>
constexpr int kForwardBlocks = 2;
#else
template <typename T, int COLUMNS>
constexpr int kForwardBlocks = sizeof(T) == 2 && COLUMNS <= 48 ? 3 : 2;
#endif

template <typename T, int COLUMNS>
__global__ void __launch_bounds__(kThreads, kForwardBlocks<T, COLUMNS>)
    small_forward_kernel(SmallArgs<T> args) {
  using A = Accumulator<T>;
  using Form = SmallForward<T>;
  constexpr int kStep = sizeof(T) == 2 ? 16 : Vector<T>::kSize;
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ Pixel pixels[Form::kPixels];
  __shared__ int64_t tap_at[kMostTaps];
  __shared__ Target down[kMostSide], along[2 * kMostSide];
  T* const inputs = reinterpret_cast<T*>(memory);
  T* const weight = inputs + Form::kPixels * Form::kInputPitch;
  A* const sums = reinterpret_cast<A*>(memory);
  const Tiling& tiling = args.tiling;
  const OutputTile<T> tile{reinterpret_cast<A*>(memory + Form::product_bytes(COLUMNS)), tiling.rows,
                           tiling.columns, args.outputs, args.channels_last};
  const TilePlace place = place_of(tiling, blockIdx.x);
  const int listed = phase_ordered(tile.columns, args.columns.stride);

  for (int kh = 0; kh < args.rows.kernel; kh += tiling.tap_rows) {
    for (int kw = 0; kw < args.columns.kernel; kw += tiling.tap_columns) {
      const Axis rows = args.rows.taps(kh, tiling.tap_rows);
      const Axis columns = args.columns.taps(kw, tiling.tap_columns);
      const Taps taps = args.taps(rows, columns);
      const int across = columns.halo(tile.columns), count = rows.halo(tile.rows) * across;
      list_pixels(pixels, rows, columns, rows.first_input(place.row),
                  columns.first_input(place.column), across, count, count);
      list_taps(tap_at, args, taps, kh, kw);
      for (int i = threadIdx.x; i < tile.rows; i += kThreads) {
        down[i] = target_of(rows, place.row, i);
      }
      for (int i = threadIdx.x; i < listed; i += kThreads) {
        along[i] =
            target_of(columns, place.column, phase_order(i, tile.columns, args.columns.stride));
      }

      Product<T, Form::kPixels, COLUMNS> product;
      for (int first = 0; first < args.inputs; first += Form::kDepth) {
        const int depth = round_up(min(Form::kDepth, args.inputs - first), kStep);
        __syncthreads();
        load_pixels(inputs, Form::kInputPitch, args.input, place.image, args.inputs, pixels, count,
                    first, depth);
        load_weight<COLUMNS>(weight, args, tap_at, first, depth);
        sync_copies();
        product.add(Matrix<T, false>{inputs, Form::kInputPitch},
                    Matrix<T, false>{weight, COLUMNS + kPad<T>}, count, depth);
      }
      __syncthreads();
      product.each([&](int pixel, int tap, A sum) { sums[tap * Form::kSumPitch + pixel] = sum; });
      __syncthreads();

      const TapSum<T> tap_sum{sums,
                              rows,
                              columns,
                              taps,
                              rows.first_input(place.row),
                              columns.first_input(place.column),
                              across};
#pragma unroll 1
      for (int i = threadIdx.x; i < tile.rows * listed; i += kThreads) {
        const Target h = down[i / listed], w = along[i % listed];
        if (w.output >= tile.columns) continue;
        A total[4] = {};
        tap_sum.at(h, w, total);
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          if (c >= args.outputs) continue;
          A& value = tile.at(h.output, w.output, c);
          const A before = kh + kw > 0 ? value : args.bias ? A(args.bias[c]) : A(0);
          value = before + total[c];
        }
      }
      __syncthreads();
    }
  }
  store_outputs(args, tile, place);
}

}  // namespace pyaegpu::cuda
