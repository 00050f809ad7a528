// Transposed convolution of few output channels: one product for all taps of a strip of rows, whose
// result each output sums its taps from.
#pragma once

#include "activate.h"
#include "strips.h"

namespace pyaegpu::cpu {

// The bias plus the sums of runs of taps, each kept where its mask has ones.
template <typename A, typename Bits>
PYAEGPU_CLONES static void sum_taps(const A* const* taps, const Bits* const* masks, int64_t count,
                                    A bias, A* __restrict__ to, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes<A>) {
    A sums[kLanes<A>];
    for (int64_t l = 0; l < kLanes<A>; ++l) sums[l] = bias;
    for (int64_t t = 0; t < count; ++t) {
      const A* __restrict__ tap = taps[t] + i;
      const Bits* __restrict__ mask = masks[t] + i;
#pragma omp simd
      for (int64_t l = 0; l < kLanes<A>; ++l) {
        sums[l] += detail::bits_as<A>(Bits(detail::bits_as<Bits>(tap[l]) & mask[l]));
      }
    }
    for (int64_t l = 0; l < kLanes<A>; ++l) to[i + l] = sums[l];
  }
}

// The sums of taps, row by row; what becomes of the rows is the caller's.
template <typename T>
class Forward {
 public:
  using A = Accumulator<T>;
  using Bits = typename FloatTraits<A>::Bits;

  Forward(const ConvTranspose& call, const std::optional<Tensor>& bias)
      : call_(call),
        strips_(call, (call.taps() + 1) * sizeof(A)),
        weight_(weight_matrix<T, A>(call.weight)),
        bias_(call.channels_out, A(0)) {
    if (bias) {
      widen_every(bias->const_data_ptr<T>(), bias->stride(0), bias_.data(), call.channels_out);
    }
    const Axis& columns = call.columns;
    run_ = whole_lanes<A>(ceil_div(columns.outputs, columns.stride));
    reach_ = (columns.stride - 1 + columns.padding) / columns.stride;
    const int64_t most_rows = strips_.rows + call.rows.kernel / call.rows.stride + 1;
    // One more line, or the rows of a product would lie in the same few sets of the cache.
    stride_ = whole_lanes<A>(most_rows * columns.inputs) + kLanes<A>;
    for (int64_t delay = -reach_; delay < call.phase_taps(); ++delay) {
      for (int64_t i = 0; i < run_; ++i) {
        masks_.push_back(i >= delay && i < delay + columns.inputs ? Bits(-1) : Bits(0));
      }
    }
  }

  const Strips& strips() const { return strips_; }

  // Every thread has a `make()` of its own; of each strip it gets row(strip, row, lines), one line
  // for each channel, whose last elements are beyond the row, and then end(strip, index).
  template <typename Make>
  void run(const Make& make) const {
    strips_.run(strips_.count, [&](int64_t first, int64_t last) {
      Work work(*this);
      auto rows = make();
      for (int64_t i = first; i < last; ++i) {
        const Strip strip(call_, strips_, i);
        run_strip(strip, work, rows);
        rows.end(strip, i);
      }
    });
  }

 private:
  static constexpr int64_t kChunk = 96;

  struct Work {
    Scratch<A> inputs, products, phases, lines;
    std::vector<const A*> taps;
    std::vector<const Bits*> masks;

    explicit Work(const Forward& f)
        : inputs(f.call_.channels_in * kChunk),
          // What is read before the first row and after the last is masked.
          products(f.call_.phase_taps() + f.call_.taps() * f.stride_ + f.run_ + f.reach_),
          phases(f.row_size()),
          lines(f.row_size()) {}
  };

  int64_t row_size() const { return call_.channels_out * call_.phases() * run_; }
  A* products_of(const Work& work) const { return work.products.data() + call_.phase_taps(); }

  template <typename Rows>
  void run_strip(const Strip& strip, Work& work, Rows& rows) const {
    if (strip.first_output >= strip.end_output) return;
    const int first = std::max(0, call_.rows.first_input(strip.first_output));
    const int end = std::min(call_.rows.meeting(strip.end_output - 1).input + 1, call_.rows.inputs);
    if (first < end) multiply_taps(strip.image, first, end, work);
    for (int row = strip.first_output; row < strip.end_output; ++row) {
      for (int64_t channel = 0; channel < call_.channels_out; ++channel) {
        for (int phase = 0; phase < call_.columns.stride; ++phase) {
          sum_phase(row, channel, phase, first, work);
        }
      }
      rows.row(strip, row, lines_of(work));
    }
  }

  // For every tap of every channel the products of the strip's inputs.
  void multiply_taps(int64_t image, int first, int end, Work& work) const {
    const int64_t width = call_.columns.inputs, taps = call_.taps();
    const int64_t pixels = (end - first) * width;
    // Planes a power of two apart fall on the same few sets of the cache, and every block of taps
    // would fetch them again.
    const bool in_place = taps <= 2 * kTileRows;
    const Left<A> left{weight_.data(), 1, taps};
    for (int64_t p = 0; p < pixels; p += kChunk) {
      const int64_t n = std::min(kChunk, pixels - p);
      const auto inputs = planes_of<T>(call_.input, image, first * width + p, n, in_place,
                                       work.inputs.data(), kChunk);
      multiply(left, inputs, Lanes<A>{products_of(work) + p, stride_}, taps, call_.channels_in, n);
    }
  }

  // Every stride-th output of a row.
  void sum_phase(int row, int64_t channel, int phase, int first_input, Work& work) const {
    const int64_t width = call_.columns.inputs;
    const Meeting across = call_.columns.meeting(phase);
    work.taps.clear();
    work.masks.clear();
    Meeting down = call_.rows.meeting(row);
    for (; down.tap < call_.rows.kernel; --down.input, down.tap += call_.rows.stride) {
      if (!call_.rows.holds(down.input)) continue;
      const A* products = products_of(work) + (down.input - first_input) * width;
      int64_t delay = -across.input;
      for (int tap = across.tap; tap < call_.columns.kernel; tap += call_.columns.stride, ++delay) {
        work.taps.push_back(products + call_.tap(channel, down.tap, tap) * stride_ - delay);
        work.masks.push_back(masks_.data() + (reach_ + delay) * run_);
      }
    }
    sum_taps(work.taps.data(), work.masks.data(), int64_t(work.taps.size()), bias_[channel],
             work.phases.data() + (channel * call_.phases() + phase) * run_, run_);
  }

  Lanes<A> lines_of(const Work& work) const {
    const int64_t line = call_.phases() * run_;
    for (int64_t c = 0; c < call_.channels_out; ++c) {
      interleave(work.phases.data() + c * line, run_, call_.phases(), work.lines.data() + c * line,
                 run_);
    }
    return {work.lines.data(), line};
  }

  const ConvTranspose& call_;
  Strips strips_;
  std::vector<A> weight_, bias_;
  std::vector<Bits> masks_;       // for each delay of a run, the outputs whose input exists
  int64_t run_, reach_, stride_;  // outputs of a phase; inputs before the first; a product's row
};

// Activates the rows and writes them.
template <typename T>
class Stored {
 public:
  using A = Accumulator<T>;

  Stored(const ConvTranspose& call, const Tensor& out) : call_(call), out_(out) {}

  void row(const Strip& strip, int row, const Lanes<A>& lines) const {
    const int64_t width = call_.columns.outputs, channels = call_.channels_out;
    dispatch_activation(call_.activation, [&](auto activation) {
      activate_all<decltype(activation)::value>(lines.data, A(call_.slope), channels * lines.row);
    });
    T* to = out_.at(strip.image, row * width);
    if (!out_.images.in_planes()) return interleave(lines.data, lines.row, channels, to, width);
    for (int64_t c = 0; c < channels; ++c) {
      narrow(lines.data + c * lines.row, to + c * out_.images.channel, width);
    }
  }

  void end(const Strip&, int64_t) const {}

 private:
  const ConvTranspose& call_;
  Written<T> out_;
};

}  // namespace pyaegpu::cpu
