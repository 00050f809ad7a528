// Gradients of a transposed convolution of few output channels: the upstream gradients that the
// taps of a strip meet are laid out once, as the right operand of both products.
#pragma once

#include <optional>

#include "strips.h"

namespace pyaegpu::cpu {

template <int64_t ACTIVATION, typename A>
PYAEGPU_CLONES static void gradient_run(const A* __restrict__ g, const A* __restrict__ out, A slope,
                                        A* __restrict__ to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = activation_gradient<ACTIVATION>(g[i], out[i], slope);
}

// The run of each tap of a kernel's row: `n` elements, in whole lanes.
template <typename A>
PYAEGPU_CLONES static void spread_taps(const A* __restrict__ phases, int64_t phase_stride,
                                       int64_t stride, int64_t taps, A* __restrict__ to,
                                       int64_t to_stride, int64_t n) {
  for (int64_t t = 0; t < taps; ++t) {
    const A* from = phases + t % stride * phase_stride + t / stride;
    for (int64_t i = 0; i < n; i += kLanes<A>) {
      for (int64_t l = 0; l < kLanes<A>; ++l) to[t * to_stride + i + l] = from[i + l];
    }
  }
}

struct Gradients {
  Tensor input, weight, bias;
  bool need_input, need_weight, need_bias;
};

template <typename T>
class Backward {
 public:
  using A = Accumulator<T>;

  Backward(const ConvTranspose& call, const Tensor& g, const std::optional<Tensor>& out,
           Gradients& grads)
      : call_(call),
        g_(images_of(g)),
        out_(images_of(out ? *out : g)),
        strips_(call, (call.taps() + call.channels_in) * sizeof(A)),
        groups_(std::min<int64_t>(strips_.count, kGroups)),
        weight_(weight_matrix<T, A>(call.weight)),
        lanes_(whole_lanes<A>(call.channels_in)),
        grads_(grads),
        d_input_(grads.need_input ? std::optional(Written<T>(grads.input)) : std::nullopt) {
    const Axis& columns = call.columns;
    const int64_t width = whole_lanes<A>(columns.inputs);
    const int64_t reach = std::max<int64_t>((width + call.phase_taps()) * columns.stride,
                                            columns.outputs + columns.padding);
    run_ = whole_lanes<A>((reach + columns.stride - 1) / columns.stride);
    stride_ = whole_lanes<A>(int64_t(strips_.rows) * columns.inputs) + kLanes<A>;
    weight_sums_.resize(grads.need_weight ? groups_ * call.taps() * lanes_ : 0);
    if (d_input_ && !d_input_->images.in_planes()) turn_weight();
    bias_sums_.resize(grads.need_bias ? groups_ * call.channels_out : 0);
  }

  void run() {
    // Each group is summed by one thread, strip by strip.
    strips_.run(groups_, [&](int64_t first, int64_t last) {
      Work work(*this);
      for (int64_t group = first; group < last; ++group) {
        const int64_t end = (group + 1) * strips_.count / groups_;
        for (int64_t i = group * strips_.count / groups_; i < end; ++i) {
          run_strip(Strip(call_, strips_, i), group, work);
        }
      }
    });
    if (grads_.need_weight) finish_weight();
    if (grads_.need_bias) finish_bias();
  }

 private:
  static constexpr int64_t kGroups = 32, kChunk = 96;

  struct Work {
    Scratch<A> upstream, out, turned, lines, phases, met, chunk, inputs;
    std::vector<A> zeros;

    explicit Work(const Backward& b)
        : upstream(b.row_size()),
          out(b.row_size()),
          turned(b.row_size()),
          lines(b.call_.channels_out * b.line_size()),
          phases(b.line_size()),
          met(b.call_.taps() * b.stride_),
          chunk(b.grads_.need_input ? b.lanes_ * kChunk : 0),
          inputs(b.grads_.need_weight ? b.lanes_ * b.stride_ : 0),
          zeros(b.line_size(), A(0)) {
      std::fill_n(lines.data(), b.call_.channels_out * b.line_size(), A(0));
    }
  };

  int64_t row_size() const { return call_.channels_out * call_.columns.outputs; }

  void run_strip(const Strip& strip, int64_t group, Work& work) {
    const Axis& rows = call_.rows;
    const int first = rows.first_output(strip.begin);
    const int end = first + rows.window(strip.end - strip.begin);
    for (int row = std::min(first, strip.first_output); row < std::max(end, strip.end_output);
         ++row) {
      const bool exists = row >= 0 && row < rows.outputs;
      const bool own = row >= strip.first_output && row < strip.end_output && grads_.need_bias;
      const bool meets = row >= first && row < end && needs_product();
      if (exists && (own || meets)) load_row(strip.image, row, work);
      if (own) add_to_bias(group, work);
      if (meets) lay_out_row(strip, row, exists, work);
    }
    const int64_t pixels = int64_t(strip.end - strip.begin) * call_.columns.inputs;
    if (grads_.need_input) input_gradient(strip, pixels, work);
    if (grads_.need_weight) weight_gradient(strip, pixels, group, work);
  }

  bool needs_product() const { return grads_.need_input || grads_.need_weight; }
  int64_t line_size() const { return call_.phases() * run_; }
  A* line_of(const Work& work, int64_t channel) const {
    return work.lines.data() + channel * line_size();
  }

  // A row of upstream gradients at the activation's input: a line for each channel, between zeros.
  void load_row(int64_t image, int row, Work& work) const {
    const int64_t n = call_.columns.outputs, channels = call_.channels_out;
    A* lines = work.lines.data() + call_.columns.padding;
    if (g_.interleaved() && out_.interleaved()) {
      gradient(image, row * n, 0, n * channels, 1, 1, work, work.turned.data());
      return separate(work.turned.data(), channels, lines, line_size(), n);
    }
    for (int64_t c = 0; c < channels; ++c) {
      gradient(image, row * n, c, n, g_.pixel, out_.pixel, work, lines + c * line_size());
    }
  }

  void gradient(int64_t image, int64_t first, int64_t channel, int64_t n, int64_t g_step,
                int64_t out_step, Work& work, A* to) const {
    const T* from = g_.at<T>(image, first) + channel * g_.channel;
    if (call_.activation == kNoActivation) return load_run(from, g_step, to, n);
    const A* g = run_of(from, g_step, work.upstream.data(), n);
    const A* out =
        run_of(out_.at<T>(image, first) + channel * out_.channel, out_step, work.out.data(), n);
    dispatch_activation(call_.activation, [&](auto activation) {
      gradient_run<decltype(activation)::value>(g, out, A(call_.slope), to, n);
    });
  }

  void add_to_bias(int64_t group, const Work& work) {
    for (int64_t c = 0; c < call_.channels_out; ++c) {
      bias_sums_[group * call_.channels_out + c] +=
          double(sum_of(line_of(work, c) + call_.columns.padding, call_.columns.outputs));
    }
  }

  // Where the row's taps meet inputs of the strip. What a run in whole lanes writes past its row of
  // inputs, that of the next row writes again.
  void lay_out_row(const Strip& strip, int row, bool exists, Work& work) const {
    const Axis& rows = call_.rows;
    const int64_t width = call_.columns.inputs;
    for (int64_t c = 0; c < call_.channels_out; ++c) {
      const A* phases = work.zeros.data();
      if (exists) {
        separate(line_of(work, c), call_.phases(), work.phases.data(), run_, run_);
        phases = work.phases.data();
      }
      Meeting at = rows.meeting(row);
      for (; at.tap < rows.kernel; --at.input, at.tap += rows.stride) {
        if (at.input < strip.begin || at.input >= strip.end) continue;
        A* to =
            work.met.data() + call_.tap(c, at.tap, 0) * stride_ + (at.input - strip.begin) * width;
        spread_taps(phases, run_, call_.phases(), call_.columns.kernel, to, stride_, width);
      }
    }
  }

  void input_gradient(const Strip& strip, int64_t pixels, Work& work) const {
    const int64_t begin = int64_t(strip.begin) * call_.columns.inputs;
    for (int64_t p = 0; p < pixels; p += kChunk) {
      const int64_t n = std::min(kChunk, pixels - p);
      d_input_->images.in_planes()
          ? input_planes(strip.image, begin + p, n, work.met.data() + p, work)
          : input_pixels(strip.image, begin + p, n, work.met.data() + p, work);
    }
  }

  void input_planes(int64_t image, int64_t first, int64_t n, const A* met, const Work& work) const {
    const int64_t channels = call_.channels_in, taps = call_.taps();
    T* to = d_input_->at(image, first);
    const Left<A> left{weight_.data(), taps, 1};
    const Lanes<const A> right{met, stride_};
    if constexpr (std::is_same_v<T, A>) {
      if (n % kLanes<A> == 0) {
        return multiply(left, right, Lanes<A>{to, d_input_->images.channel}, channels, taps, n);
      }
    }
    A* chunk = work.chunk.data();
    multiply(left, right, Lanes<A>{chunk, kChunk}, channels, taps, n);
    for (int64_t c = 0; c < channels; ++c) {
      narrow(chunk + c * kChunk, to + c * d_input_->images.channel, n);
    }
  }

  void input_pixels(int64_t image, int64_t first, int64_t n, const A* met, const Work& work) const {
    const int64_t channels = call_.channels_in, taps = call_.taps();
    T* to = d_input_->at(image, first);
    const Left<A> left{met, 1, stride_};
    const Lanes<const A> right{turned_weight_.data(), lanes_};
    if constexpr (std::is_same_v<T, A>) {
      if (channels == lanes_) {
        return multiply(left, right, Lanes<A>{to, channels}, n, taps, channels);
      }
    }
    A* chunk = work.chunk.data();
    multiply(left, right, Lanes<A>{chunk, lanes_}, n, taps, channels);
    for (int64_t p = 0; p < n; ++p) narrow(chunk + p * lanes_, to + p * channels, channels);
  }

  void weight_gradient(const Strip& strip, int64_t pixels, int64_t group, Work& work) {
    const auto inputs =
        pixels_of<T>(call_.input, strip.image, int64_t(strip.begin) * call_.columns.inputs, pixels,
                     work.inputs.data());
    A* sums = weight_sums_.data() + group * call_.taps() * lanes_;
    multiply<true>(Left<A>{work.met.data(), stride_, 1}, inputs, Lanes<A>{sums, lanes_},
                   call_.taps(), pixels, call_.channels_in);
  }

  void turn_weight() {
    const int64_t taps = call_.taps();
    turned_weight_.resize(taps * lanes_);
    transpose(weight_.data(), taps, turned_weight_.data(), lanes_, call_.channels_in, taps);
  }

  void finish_bias() const {
    T* to = grads_.bias.template mutable_data_ptr<T>();
    for (int64_t c = 0; c < call_.channels_out; ++c) {
      to[c] = static_cast<T>(A(sum_groups(bias_sums_, call_.channels_out, c)));
    }
  }

  void finish_weight() const {
    const int64_t taps = call_.taps();
    Tensor& weight = grads_.weight;
    const bool in_order = weight.is_contiguous();
    Tensor ordered = in_order ? weight : contiguous_like(weight);
    T* to = ordered.mutable_data_ptr<T>();
    for (int64_t t = 0; t < taps; ++t) {
      for (int64_t c = 0; c < call_.channels_in; ++c) {
        to[c * taps + t] =
            static_cast<T>(A(sum_groups(weight_sums_, taps * lanes_, t * lanes_ + c)));
      }
    }
    if (!in_order) torch::stable::copy_(weight, ordered);
  }

  // One element of the groups' sums, of `n` elements each, in order.
  template <typename Sum>
  double sum_groups(const std::vector<Sum>& sums, int64_t n, int64_t index) const {
    double sum = 0;
    for (int64_t group = 0; group < groups_; ++group) sum += double(sums[group * n + index]);
    return sum;
  }

  const ConvTranspose& call_;
  Images g_, out_;
  Strips strips_;
  int64_t groups_;
  std::vector<A> weight_, turned_weight_;
  int64_t lanes_;  // input channels
  Gradients& grads_;
  std::optional<Written<T>> d_input_;
  int64_t run_, stride_;  // elements of a phase; of a row of the operand
  std::vector<A> weight_sums_;
  std::vector<double> bias_sums_;
};

}  // namespace pyaegpu::cpu
