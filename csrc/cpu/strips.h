// A transposed convolution cut into strips of input rows, and the parts of it that both directions
// share.
#pragma once

#include "../common/activations.h"
#include "../common/conv_transpose_call.h"
#include "images.h"

namespace pyaegpu::cpu {

struct ConvTranspose {
  Images input;
  Tensor weight;
  int64_t images, channels_in, channels_out;
  Axis rows, columns;
  int64_t activation;
  double slope;

  int64_t plane_taps() const { return int64_t(rows.kernel) * columns.kernel; }
  int64_t taps() const { return channels_out * plane_taps(); }
  int64_t tap(int64_t channel, int row, int column) const {
    return channel * plane_taps() + row * columns.kernel + column;
  }
  // Phases of a row of outputs, and the most taps that one has.
  int64_t phases() const { return columns.stride; }
  int64_t phase_taps() const { return ceil_div(columns.kernel, columns.stride); }
};

using Sizes = std::vector<int64_t>;

inline ConvTranspose call_of(const Tensor& input, const Tensor& weight, int64_t height,
                             int64_t width, const Sizes& stride, const Sizes& padding,
                             int64_t activation, double slope) {
  return {images_of(input),
          weight,
          input.size(0),
          weight.size(0),
          weight.size(1),
          axis_of(input, weight, height, 0, stride, padding),
          axis_of(input, weight, width, 1, stride, padding),
          activation,
          slope};
}

// [Cin, Cout * KH * KW] in the accumulator type.
template <typename T, typename A>
std::vector<A> weight_matrix(const Tensor& weight) {
  const Tensor dense = torch::stable::contiguous(weight);
  std::vector<A> matrix(weight.numel());
  widen(dense.const_data_ptr<T>(), matrix.data(), weight.numel());
  return matrix;
}

// Strips of equal height, chosen by the shape alone, so that no result depends on the threads.
struct Strips {
  int rows;
  int64_t per_image, count;
  bool parallel;

  // `bytes` is what a strip keeps for each pixel.
  Strips(const ConvTranspose& call, int64_t bytes) {
    constexpr int64_t kCache = 400 * 1024, kMinPixels = 128, kAtLeast = 16, kSerial = 400000;
    const int64_t height = call.rows.inputs, width = call.columns.inputs;
    const int64_t most = std::max<int64_t>(1, kCache / (bytes * width));
    // Each strip works out a few rows of its neighbour's again.
    const int64_t halo = call.rows.kernel / call.rows.stride;
    const int64_t least = std::max(4 * halo, (kMinPixels + width - 1) / width);
    const int64_t wanted = (kAtLeast + call.images - 1) / call.images;
    const int64_t strips = std::max((height + most - 1) / most,
                                    std::min(wanted, std::max<int64_t>(1, height / least)));
    rows = int((height + strips - 1) / strips);
    per_image = (height + rows - 1) / rows;
    count = call.images * per_image;
    parallel = call.images * height * width * call.channels_in * call.taps() > kSerial;
  }

  // Calls f(first, last) for ranges of all `n`, in parallel where that pays.
  template <typename F>
  void run(int64_t n, const F& f) const {
    if (parallel) {
      torch::stable::parallel_for(0, n, 1, f);
    } else {
      f(0, n);
    }
  }
};

struct Strip {
  int64_t image;
  int begin, end;                // rows of inputs
  int first_output, end_output;  // the rows of outputs that are this strip's alone

  Strip(const ConvTranspose& call, const Strips& strips, int64_t index)
      : image(index / strips.per_image), begin(int(index % strips.per_image) * strips.rows) {
    end = std::min(begin + strips.rows, call.rows.inputs);
    first_output = call.rows.owned(begin);
    end_output = call.rows.owned(end);
  }
};

}  // namespace pyaegpu::cpu
