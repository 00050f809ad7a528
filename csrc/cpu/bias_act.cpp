// Bias and activation after a convolution on the CPU. Schemas and autograd:
// pyaegpu/ops/conv_transpose_graph.py.

#include <tuple>

#include "activate.h"
#include "channels.h"
#include "tiles.h"

namespace pyaegpu::cpu {
namespace {

template <int64_t ACTIVATION, typename A>
PYAEGPU_CLONES static void activate_sum(A* __restrict__ values, const A* __restrict__ bias, A slope,
                                        int64_t n) {
  for (int64_t i = 0; i < n; ++i) values[i] = activate<ACTIVATION>(A(values[i] + bias[i]), slope);
}

template <int64_t ACTIVATION, typename A>
PYAEGPU_CLONES static void differentiate_run(const A* __restrict__ g, const A* __restrict__ out,
                                             A slope, A* __restrict__ to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = activation_gradient<ACTIVATION>(g[i], out[i], slope);
}

// The bias of each element of a tile.
template <typename T>
class Bias {
 public:
  using A = Accumulator<T>;

  Bias(const Tensor& bias, const Channels& channels) : period_(channels.count * channels.run) {
    const Tensor dense = torch::stable::contiguous(bias);
    std::vector<A> values(channels.count);
    widen(dense.const_data_ptr<T>(), values.data(), channels.count);
    pattern_.reserve(period_ + kTile);
    for (int64_t c = 0; int64_t(pattern_.size()) < period_ + kTile; c = (c + 1) % channels.count) {
      pattern_.insert(pattern_.end(), channels.run, values[c]);
    }
  }

  const A* from(int64_t index) const { return pattern_.data() + index % period_; }

 private:
  int64_t period_;
  std::vector<A> pattern_;
};

template <int64_t ACTIVATION, typename T>
void activate_in_place(T* data, int64_t total, Accumulator<T> slope) {
  using A = Accumulator<T>;
  for_each_tile(
      Split(1, total),
      [&](int64_t i, int64_t n, int64_t) {
        A buffer[kTile];
        A* values = target_of(data + i, buffer);
        if (values == buffer) widen(data + i, buffer, n);
        activate_all<ACTIVATION>(values, slope, n);
        store(data + i, values, n);
      },
      kLongTile<T>);
}

template <int64_t ACTIVATION, typename T>
void add_bias_and_activate(T* data, const Channels& channels, const Tensor& bias,
                           Accumulator<T> slope) {
  using A = Accumulator<T>;
  const Bias<T> biases(bias, channels);
  for_each_tile(Split(1, channels.total), [&](int64_t i, int64_t n, int64_t) {
    A buffer[kTile];
    A* values = target_of(data + i, buffer);
    if (values == buffer) widen(data + i, buffer, n);
    activate_sum<ACTIVATION>(values, biases.from(i), slope, n);
    store(data + i, values, n);
  });
}

void bias_act_(Tensor y, MaybeTensor bias, int64_t activation, double slope) {
  STD_TORCH_CHECK(is_dense(y), "pyaegpu: bias_act_ writes to dense tensors");
  dispatch(y.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    dispatch_activation(activation, [&](auto kind) {
      constexpr int64_t kKind = decltype(kind)::value;
      T* data = y.mutable_data_ptr<T>();
      if (bias) {
        add_bias_and_activate<kKind>(data, Channels(y), *bias, Accumulator<T>(slope));
      } else {
        activate_in_place<kKind>(data, y.numel(), Accumulator<T>(slope));
      }
    });
  });
}

template <typename A>
PYAEGPU_CLONES static void add_to(const A* __restrict__ values, double* __restrict__ sums,
                                  int64_t n) {
  for (int64_t i = 0; i < n; ++i) sums[i] += double(values[i]);
}

// Sums over every channel, of blocks of fixed size.
template <typename A>
class ChannelSums {
 public:
  explicit ChannelSums(const Channels& channels)
      : channels_(channels),
        split_(channels.run > 1 ? Split(channels.total / channels.run, channels.run)
                                : Split(1, channels.total)),
        rows_(split_),
        period_(channels.count * ((kAtLeast + channels.count - 1) / channels.count)),
        blocks_(channels.run > 1 ? 0 : split_.parts * period_, 0.0) {}

  const Split& split() const { return split_; }

  void add(const A* values, int64_t begin, int64_t n) {
    if (channels_.run > 1) return rows_.add(values, begin, n);
    double* block = blocks_.data() + split_.slot(begin) * period_;
    for (int64_t i = 0; i < n;) {
      const int64_t first = (begin + i) % period_;
      const int64_t length = std::min(period_ - first, n - i);
      add_to(values + i, block + first, length);
      i += length;
    }
  }

  double total(int64_t channel) const {
    double sum = 0;
    if (channels_.run > 1) {
      for (int64_t row = channel; row < split_.rows; row += channels_.count) sum += rows_.row(row);
    } else {
      for (size_t i = channel; i < blocks_.size(); i += channels_.count) sum += blocks_[i];
    }
    return sum;
  }

 private:
  // Channels are summed several times over, where a loop over them would be short.
  static constexpr int64_t kAtLeast = 128;

  Channels channels_;
  Split split_;
  Sums rows_;
  int64_t period_;
  std::vector<double> blocks_;
};

// Calls f with every tile of d_y.
template <int64_t ACTIVATION, typename T, typename F>
void differentiate(const Tensor& g, const Tensor& out, Accumulator<T> slope, Tensor& d_y,
                   const Split& split, int64_t tile, const F& f) {
  using A = Accumulator<T>;
  const T *from = g.const_data_ptr<T>(), *results = out.const_data_ptr<T>();
  T* to = d_y.mutable_data_ptr<T>();
  for_each_tile(
      split,
      [&](int64_t i, int64_t n, int64_t) {
        A upstream[kTile], result[kTile], gradient[kTile];
        A* values = target_of(to + i, gradient);
        differentiate_run<ACTIVATION>(load(from + i, upstream, n), load(results + i, result, n),
                                      slope, values, n);
        f(values, i, n);
        store(to + i, values, n);
      },
      tile);
}

template <int64_t ACTIVATION, typename T>
void differentiate_and_sum(const Tensor& g, const Tensor& out, Accumulator<T> slope, Tensor& d_y,
                           Tensor& d_bias) {
  using A = Accumulator<T>;
  const Channels channels(out);
  ChannelSums<A> sums(channels);
  differentiate<ACTIVATION, T>(
      g, out, slope, d_y, sums.split(), kTile,
      [&](const A* values, int64_t i, int64_t n) { sums.add(values, i, n); });
  T* totals = d_bias.mutable_data_ptr<T>();
  for (int64_t c = 0; c < channels.count; ++c) totals[c] = static_cast<T>(A(sums.total(c)));
}

std::tuple<Tensor, Tensor> bias_act_bwd(Tensor g, Tensor out, bool need_bias, int64_t activation,
                                        double slope) {
  g = matched(g, out);
  Tensor d_y = torch::stable::empty_like(out);
  Tensor d_bias = new_empty(out, {need_bias ? out.size(1) : 0}, out.scalar_type());
  dispatch(out.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    dispatch_activation(activation, [&](auto kind) {
      constexpr int64_t kKind = decltype(kind)::value;
      if (need_bias) {
        differentiate_and_sum<kKind, T>(g, out, A(slope), d_y, d_bias);
      } else {
        differentiate<kKind, T>(g, out, A(slope), d_y, Split(1, out.numel()), kLongTile<T>,
                                [](const A*, int64_t, int64_t) {});
      }
    });
  });
  return {d_y, d_bias};
}

void implement(torch::stable::detail::StableLibrary& m) {
  m.impl("bias_act_", TORCH_BOX(&bias_act_));
  m.impl("bias_act_bwd", TORCH_BOX(&bias_act_bwd));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pyaegpu, CPU, m) { implement(m); }
STABLE_TORCH_LIBRARY_IMPL(pyaegpu_cpu, CPU, m) { implement(m); }

}  // namespace pyaegpu::cpu
