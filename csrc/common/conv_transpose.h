// Which inputs, taps and outputs of a transposed convolution meet, one axis at a time, and how a
// kernel cuts them into tiles. Output o takes tap k of input i where o = i * stride - padding + k.
#pragma once

#include <cstdint>

#include "macros.h"

namespace pyaegpu {

// Sides of planes, and kernel, stride and padding, up to these keep every index of an axis in an
// int.
constexpr int64_t kMostSize = int64_t(1) << 29, kMostStep = int64_t(1) << 20;

PYAEGPU_HD int floor_div(int a, int b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }
PYAEGPU_HD int ceil_div(int a, int b) { return (a + b - 1) / b; }
PYAEGPU_HD int round_up(int a, int b) { return ceil_div(a, b) * b; }
PYAEGPU_HD int smaller(int a, int b) { return a < b ? a : b; }
PYAEGPU_HD int larger(int a, int b) { return a < b ? b : a; }

// The last input that an output takes, and by which tap; the input before it comes by the tap
// `stride` further on.
struct Meeting {
  int input, tap;
};

struct Axis {
  int inputs, outputs, kernel, stride, padding;

  // `count` taps from `first` on, as a transposed convolution whose padding may be negative.
  PYAEGPU_HD Axis taps(int first, int count) const {
    return {inputs, outputs, smaller(count, kernel - first), stride, padding - first};
  }

  PYAEGPU_HD bool holds(int input) const { return input >= 0 && input < inputs; }

  PYAEGPU_HD Meeting meeting(int output) const {
    const int input = floor_div(output + padding, stride);
    return {input, output + padding - input * stride};
  }

  // Outputs [first, first + tile) take inputs from here on, at most halo(tile) of them.
  PYAEGPU_HD int first_input(int output) const {
    return -floor_div(kernel - 1 - output - padding, stride);
  }
  PYAEGPU_HD int halo(int tile) const { return (tile + kernel - 2) / stride + 1; }

  // Inputs [first, first + tile) go to the window(tile) outputs from here on.
  PYAEGPU_HD int first_output(int input) const { return input * stride - padding; }
  PYAEGPU_HD int window(int tile) const { return (tile - 1) * stride + kernel; }

  // The outputs [owned(first), owned(first + tile)) are no other tile's: all outputs are someone's.
  PYAEGPU_HD int owned(int input) const {
    return input >= inputs ? outputs : larger(0, smaller(first_output(input), outputs));
  }
};

// The outputs of a tile in an order that keeps those of one phase, which take the same taps,
// together: `index` runs to phase_ordered(tile, stride), and a few of them are beyond the tile.
PYAEGPU_HD int phase_ordered(int tile, int stride) {
  return stride < tile ? round_up(tile, stride) : tile;
}
PYAEGPU_HD int phase_order(int index, int tile, int stride) {
  const int run = stride < tile ? ceil_div(tile, stride) : 1;
  return index % run * stride + index / run;
}

// A rectangle of taps for every output channel as the columns of a product, in the order of a
// contiguous or a channels_last weight.
struct Taps {
  int channels, rows, columns;
  bool channels_last;

  PYAEGPU_HD int size() const { return channels * rows * columns; }

  PYAEGPU_HD int index(int channel, int row, int column) const {
    return channels_last ? (row * columns + column) * channels + channel
                         : (channel * rows + row) * columns + column;
  }
  PYAEGPU_HD int channel(int index) const {
    return channels_last ? index % channels : index / (rows * columns);
  }
  PYAEGPU_HD int row(int index) const { return tap(index) / columns; }
  PYAEGPU_HD int column(int index) const { return tap(index) % columns; }

 private:
  PYAEGPU_HD int tap(int index) const {
    return channels_last ? index / channels : index % (rows * columns);
  }
};

// Tiles of a plane, row by row, of one image after another.
struct Tiling {
  int rows, columns;          // of a tile
  int down, across;           // tiles
  int tap_rows, tap_columns;  // that a product takes at once

  PYAEGPU_HD int taps_down(const Axis& axis) const { return ceil_div(axis.kernel, tap_rows); }
  PYAEGPU_HD int taps_across(const Axis& axis) const { return ceil_div(axis.kernel, tap_columns); }
};

struct TilePlace {
  int64_t image;
  int row, column;
};

PYAEGPU_HD TilePlace place_of(const Tiling& tiling, int64_t tile) {
  const int64_t row = tile / tiling.across;
  return {row / tiling.down, int(row % tiling.down) * tiling.rows,
          int(tile % tiling.across) * tiling.columns};
}

// Equal rectangles of taps, no larger than `most` columns of a product.
inline void cut_taps(Tiling& tiling, const Axis& rows, const Axis& columns, int channels,
                     int most) {
  const auto even = [](int size, int part) { return ceil_div(size, ceil_div(size, part)); };
  tiling.tap_columns = even(columns.kernel, larger(1, most / channels));
  tiling.tap_rows = even(rows.kernel, larger(1, most / channels / tiling.tap_columns));
}

// Cuts a plane into equal tiles for which fits(rows, columns), as it is for 1 x 1; of the widths
// tried, that whose tiles cost least in all.
template <typename Fits, typename Cost>
void cut_plane(Tiling& tiling, int height, int width, const Fits& fits, const Cost& cost) {
  int64_t least = INT64_MAX;
  const auto consider = [&](int columns) {
    if (!fits(1, columns)) return;
    int rows = 1;
    for (int step = 32; step > 0; step /= 2) {
      if (rows + step <= height && fits(rows + step, columns)) rows += step;
    }
    const int down = ceil_div(height, rows), across = ceil_div(width, columns);
    rows = ceil_div(height, down);
    const int64_t total = int64_t(down) * across * cost(rows, columns);
    if (total >= least) return;
    least = total;
    tiling.rows = rows;
    tiling.columns = columns;
    tiling.down = down;
    tiling.across = across;
  };
  // Multiples of 8, so that a tile's rows start on 16 bytes.
  for (int columns = 64; columns >= 8; columns -= 8) consider(smaller(columns, width));
  for (int columns = 4; columns >= 1 && least == INT64_MAX; columns /= 2) {
    consider(smaller(columns, width));
  }
}

// Tiles of outputs whose inputs, for the taps of one product, are no more than `pixels`.
inline Tiling output_tiling(const Axis& rows, const Axis& columns, int channels, int most_taps,
                            int pixels, int outputs) {
  Tiling tiling{};
  cut_taps(tiling, rows, columns, channels, most_taps);
  const Axis down = rows.taps(0, tiling.tap_rows), across = columns.taps(0, tiling.tap_columns);
  const auto halo = [&](int r, int c) { return int64_t(down.halo(r)) * across.halo(c); };
  cut_plane(
      tiling, rows.outputs, columns.outputs,
      [&](int r, int c) { return halo(r, c) <= pixels && r * c <= outputs; },
      // A tile costs the inputs that it reads and a part that is always the same.
      [&](int r, int c) { return halo(r, c) + pixels / 8; });
  return tiling;
}

// Tiles of at most `pixels` inputs whose outputs, for the taps of one product, are at most
// `outputs`.
inline Tiling input_tiling(const Axis& rows, const Axis& columns, int channels, int most_taps,
                           int pixels, int outputs) {
  Tiling tiling{};
  cut_taps(tiling, rows, columns, channels, most_taps);
  const Axis down = rows.taps(0, tiling.tap_rows), across = columns.taps(0, tiling.tap_columns);
  const auto window = [&](int r, int c) {
    return int64_t(down.window(r)) * across.window(c) * channels;
  };
  cut_plane(
      tiling, rows.inputs, columns.inputs,
      [&](int r, int c) { return r * c <= pixels && window(r, c) <= outputs; },
      [&](int r, int c) { return window(r, c) + pixels / 2; });
  return tiling;
}

}  // namespace pyaegpu
