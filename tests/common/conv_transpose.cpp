// Transposed convolution and its gradients in the tiles of csrc/cuda, one after another, by the
// index functions that its kernels call. Arguments: batch, Cin, Cout, then for rows and columns
// each inputs, kernel, stride, padding, output padding; then the most inputs of a tile, most
// outputs of a tile, most taps at once, and whether taps are in the order of a channels_last
// weight. Reads float64 from stdin: input, weight, upstream gradient; writes the output, both
// gradients, and how many times a tile owned each output.
#include "common/conv_transpose.h"

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <vector>

using namespace pyaegpu;
using Values = std::vector<double>;

// Outside of it, the test shall fail and not read.
static double& at(Values& values, int64_t i) { return values.at(static_cast<size_t>(i)); }

struct Sizes {
  int batch, inputs, outputs;
  Axis rows, columns;

  int64_t x(int64_t n, int c, int h, int w) const {
    return ((n * inputs + c) * rows.inputs + h) * columns.inputs + w;
  }
  int64_t y(int64_t n, int c, int h, int w) const {
    return ((n * outputs + c) * rows.outputs + h) * columns.outputs + w;
  }
  int64_t w(int ci, int co, int kh, int kw) const {
    return ((int64_t(ci) * outputs + co) * rows.kernel + kh) * columns.kernel + kw;
  }
};

struct Case {
  Sizes sizes;
  Tiling tiling;
  bool taps_last;

  template <typename F>
  void each_tile(const F& f) const {
    for (int64_t t = 0; t < int64_t(sizes.batch) * tiling.down * tiling.across; ++t) {
      f(place_of(tiling, t));
    }
  }

  // Calls f(rows, columns, taps, first row of taps, first column) for each product.
  template <typename F>
  void each_taps(const F& f) const {
    for (int kh = 0; kh < sizes.rows.kernel; kh += tiling.tap_rows) {
      for (int kw = 0; kw < sizes.columns.kernel; kw += tiling.tap_columns) {
        const Axis rows = sizes.rows.taps(kh, tiling.tap_rows);
        const Axis columns = sizes.columns.taps(kw, tiling.tap_columns);
        f(rows, columns, Taps{sizes.outputs, rows.kernel, columns.kernel, taps_last}, kh, kw);
      }
    }
  }
};

// What each tap sends from each input of the halo: [tap][pixel].
static Values send(const Case& c, Values& x, Values& weight, const Taps& taps, int kh, int kw,
                   int64_t image, int row, int column, int down, int across) {
  const Sizes& s = c.sizes;
  Values sums(size_t(taps.size()) * down * across);
  for (int i = 0; i < taps.size() * down * across; ++i) {
    const int m = i / (down * across), p = i % (down * across);
    const int h = row + p / across, w = column + p % across;
    if (!s.rows.holds(h) || !s.columns.holds(w)) continue;
    for (int ci = 0; ci < s.inputs; ++ci) {
      const int64_t tap = s.w(ci, taps.channel(m), kh + taps.row(m), kw + taps.column(m));
      sums[i] += at(x, s.x(image, ci, h, w)) * at(weight, tap);
    }
  }
  return sums;
}

static Values forward(const Case& c, Values& x, Values& weight) {
  const Sizes& s = c.sizes;
  const Tiling& tiling = c.tiling;
  Values y(s.y(s.batch, 0, 0, 0));
  const auto sum_taps = [&](const TilePlace& place, const Axis& rows, const Axis& columns,
                            const Taps& taps, int kh, int kw) {
    const int top = rows.first_input(place.row), left = columns.first_input(place.column);
    const int down = rows.halo(tiling.rows), across = columns.halo(tiling.columns);
    Values sums = send(c, x, weight, taps, kh, kw, place.image, top, left, down, across);
    const int listed = phase_ordered(tiling.columns, columns.stride);
    for (int i = 0; i < tiling.rows * listed; ++i) {
      const int row = place.row + i / listed;
      const int within = phase_order(i % listed, tiling.columns, columns.stride);
      const int column = place.column + within;
      if (within >= tiling.columns || row >= rows.outputs || column >= columns.outputs) continue;
      const Meeting h = rows.meeting(row), w = columns.meeting(column);
      for (int kr = h.tap, ir = h.input - top; kr < rows.kernel; kr += rows.stride, --ir) {
        for (int kc = w.tap, ic = w.input - left; kc < columns.kernel; kc += columns.stride, --ic) {
          if (ir < 0 || ir >= down || ic < 0 || ic >= across) throw std::out_of_range("halo");
          for (int co = 0; co < s.outputs; ++co) {
            at(y, s.y(place.image, co, row, column)) +=
                at(sums, (int64_t(taps.index(co, kr, kc)) * down + ir) * across + ic);
          }
        }
      }
    }
  };
  c.each_tile([&](const TilePlace& place) {
    c.each_taps([&](const auto&... taps) { sum_taps(place, taps...); });
  });
  return y;
}

struct Gradients {
  Values x, weight, owned;
};

static Gradients backward(const Case& c, Values& x, Values& weight, Values& g) {
  const Sizes& s = c.sizes;
  const Tiling& tiling = c.tiling;
  Gradients d{Values(x.size()), Values(weight.size()), Values(g.size())};
  const auto products = [&](const TilePlace& place, const Axis& rows, const Axis& columns,
                            const Taps& taps, int kh, int kw) {
    const Taps order{s.outputs, rows.window(tiling.rows), columns.window(tiling.columns),
                     taps.channels_last};
    const int top = rows.first_output(place.row), left = columns.first_output(place.column);
    Values window(order.size());
    for (int i = 0; i < order.size(); ++i) {
      const int h = top + order.row(i), w = left + order.column(i);
      const bool there = h >= 0 && h < rows.outputs && w >= 0 && w < columns.outputs;
      if (there) window[i] = at(g, s.y(place.image, order.channel(i), h, w));
    }
    for (int p = 0; p < tiling.rows * tiling.columns; ++p) {
      const int r = p / tiling.columns, k = p % tiling.columns;
      const int h = place.row + r, w = place.column + k;
      if (!s.rows.holds(h) || !s.columns.holds(w)) continue;
      for (int m = 0; m < taps.size(); ++m) {
        const int from = order.index(0, r * rows.stride, k * columns.stride) +
                         order.index(taps.channel(m), taps.row(m), taps.column(m));
        for (int ci = 0; ci < s.inputs; ++ci) {
          const int64_t tap = s.w(ci, taps.channel(m), kh + taps.row(m), kw + taps.column(m));
          at(d.x, s.x(place.image, ci, h, w)) += at(window, from) * at(weight, tap);
          at(d.weight, tap) += at(window, from) * at(x, s.x(place.image, ci, h, w));
        }
      }
    }
  };
  c.each_tile([&](const TilePlace& place) {
    c.each_taps([&](const auto&... taps) { products(place, taps...); });
    for (int h = s.rows.owned(place.row); h < s.rows.owned(place.row + tiling.rows); ++h) {
      const int end = s.columns.owned(place.column + tiling.columns);
      for (int w = s.columns.owned(place.column); w < end; ++w) {
        for (int co = 0; co < s.outputs; ++co) at(d.owned, s.y(place.image, co, h, w)) += 1;
      }
    }
  });
  return d;
}

static Values read(int64_t count) {
  Values values(static_cast<size_t>(count));
  if (std::fread(values.data(), 8, values.size(), stdin) != values.size()) std::exit(2);
  return values;
}

static void write(const Values& values) { std::fwrite(values.data(), 8, values.size(), stdout); }

static Axis axis_of(const int* sizes) {
  const int outputs = (sizes[0] - 1) * sizes[2] - 2 * sizes[3] + sizes[1] + sizes[4];
  return {sizes[0], outputs, sizes[1], sizes[2], sizes[3]};
}

int main(int argc, char** argv) {
  std::vector<int> numbers;
  for (int i = 1; i < argc; ++i) numbers.push_back(std::atoi(argv[i]));
  const int* limits = &numbers.at(13);
  const Sizes sizes{numbers.at(0), numbers.at(1), numbers.at(2), axis_of(&numbers.at(3)),
                    axis_of(&numbers.at(8))};
  const bool taps_last = numbers.at(16) != 0;
  Values x = read(sizes.x(sizes.batch, 0, 0, 0)), weight = read(sizes.w(sizes.inputs, 0, 0, 0));
  Values g = read(sizes.y(sizes.batch, 0, 0, 0));
  const Tiling outputs =
      output_tiling(sizes.rows, sizes.columns, sizes.outputs, limits[2], limits[0], limits[1]);
  const Tiling inputs =
      input_tiling(sizes.rows, sizes.columns, sizes.outputs, limits[2], limits[0], limits[1]);
  write(forward({sizes, outputs, taps_last}, x, weight));
  const Gradients d = backward({sizes, inputs, taps_last}, x, weight, g);
  write(d.x);
  write(d.weight);
  write(d.owned);
}
