// Batch normalisation and activation on the CPU. Schemas and autograd:
// pyaegpu/ops/norm_act_graph.py.

#include <tuple>

#include "moments.h"
#include "normalization.h"

namespace pyaegpu::cpu {
namespace {

// Mean, 1 / std and variance of every channel.
template <typename A>
struct Statistics {
  std::vector<A> mean, invstd, var;

  explicit Statistics(int64_t channels) : mean(channels), invstd(channels), var(channels) {}
};

template <typename T, typename A>
Statistics<A> batch_statistics(const T* x, const Channels& channels, double eps) {
  const std::vector<Moments> moments = over_channels(channels, MomentsOf<T>(x));
  Statistics<A> result(channels.count);
  for (int64_t c = 0; c < channels.count; ++c) {
    const Moments& m = moments[c];
    result.mean[c] = A(m.mean());
    result.invstd[c] = A(1.0 / std::sqrt(m.m2 / m.count + eps));
    result.var[c] = A(m.m2 / (m.count - 1.0));
  }
  return result;
}

template <typename A>
Statistics<A> running_statistics(const MaybeTensor& mean, const MaybeTensor& var, int64_t channels,
                                 double eps) {
  Statistics<A> result(channels);
  result.mean = parameter<A>(mean, channels, A(0));
  result.var = parameter<A>(var, channels, A(1));
  for (int64_t c = 0; c < channels; ++c) {
    result.invstd[c] = A(1.0 / std::sqrt(double(result.var[c]) + eps));
  }
  return result;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_act_fwd(
    Tensor input, MaybeTensor weight, MaybeTensor bias, MaybeTensor running_mean,
    MaybeTensor running_var, bool training, double eps, int64_t activation, double slope,
    bool channels_last) {
  Tensor out = new_images(input, shape_of(input), channels_last);
  input = matched(input, out);
  const Channels channels(out);
  Tensor mean, invstd, var;
  dispatch(input.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    const T* x = input.const_data_ptr<T>();
    const Statistics<A> found =
        training ? batch_statistics<T, A>(x, channels, eps)
                 : running_statistics<A>(running_mean, running_var, channels.count, eps);
    const Normalization<A> by(channels, found.mean, found.invstd, weight, bias);
    dispatch_activation(activation, [&](auto kind) {
      normalize_all<decltype(kind)::value>(x, out.mutable_data_ptr<T>(), by, A(slope));
    });
    const ScalarType acc = accumulator(input.scalar_type());
    mean = parameter_from(found.mean, input, acc);
    invstd = parameter_from(found.invstd, input, acc);
    var = parameter_from(found.var, input, acc);
  });
  return {out, mean, invstd, var};
}

// Sums of the gradient g' at z, and of g' * (x - mean).
struct GradientSums {
  double g = 0, product = 0;

  void merge(const GradientSums& other) {
    g += other.g;
    product += other.product;
  }
};

template <int64_t ACTIVATION, typename A>
PYAEGPU_CLONES static void sum_gradients(const A* __restrict__ g, const A* __restrict__ x, A mean,
                                         A gain, A shift, A slope, int64_t n, A* __restrict__ sum,
                                         A* __restrict__ product) {
  A first = 0, second = 0;
#pragma omp simd reduction(+ : first, second)
  for (int64_t i = 0; i < n; ++i) {
    const A d = x[i] - mean;
    const A before = gradient_before<ACTIVATION>(g[i], d * gain + shift, slope);
    first += before;
    second += before * d;
  }
  *sum = first;
  *product = second;
}

template <int64_t ACTIVATION, typename A>
PYAEGPU_CLONES static void add_gradients(Block<A> g, Block<A> x, int64_t rows, const A* mean,
                                         const A* gain, const A* shift, A slope, int64_t n, A* sums,
                                         A* products) {
  for (int64_t r = 0; r < rows; ++r) {
    const A *up = g.data + r * g.pitch, *at = x.data + r * x.pitch;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      const A d = at[i] - mean[i];
      const A first = gradient_before<ACTIVATION>(up[i], d * gain[i] + shift[i], slope);
      sums[i] += first;
      products[i] += first * d;
    }
  }
}

template <int64_t ACTIVATION, typename T>
class GradientSumsOf {
 public:
  using State = GradientSums;
  using A = Accumulator<T>;

  GradientSumsOf(const T* g, const T* x, const Normalization<A>& by, A slope)
      : g_(g), x_(x), by_(by), slope_(slope) {}

  void run(int64_t i, int64_t n, int64_t c, State& state) const {
    A upstream[kTile], values[kTile], sum, product;
    sum_gradients<ACTIVATION>(load(g_ + i, upstream, n), load(x_ + i, values, n),
                              by_.mean.channel(c), by_.gain.channel(c), by_.shift.channel(c),
                              slope_, n, &sum, &product);
    state.merge({double(sum), double(product)});
  }

  void columns(int64_t begin, int64_t rows, int64_t width, int64_t n, State* states) const {
    static thread_local std::vector<A> upstream, values;
    alignas(64) A sums[kColumns] = {}, products[kColumns] = {};
    const Block<A> g = load_block(g_ + begin, width, rows, n, upstream);
    const Block<A> x = load_block(x_ + begin, width, rows, n, values);
    add_gradients<ACTIVATION>(g, x, rows, by_.mean.columns(begin), by_.gain.columns(begin),
                              by_.shift.columns(begin), slope_, n, sums, products);
    for (int64_t c = 0; c < n; ++c) states[c].merge({double(sums[c]), double(products[c])});
  }

 private:
  const T *g_, *x_;
  const Normalization<A>& by_;
  A slope_;
};

// d_x = gain * (g' - first - (x - mean) * second); CENTRED: with the last two.
template <int64_t ACTIVATION, bool CENTRED, typename A, typename V>
PYAEGPU_CLONES static void differentiate(const A* g, const A* x, A* to, V mean, V gain, V shift,
                                         V first, V second, A slope, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A d = x[i] - mean[i];
    A before = gradient_before<ACTIVATION>(g[i], d * gain[i] + shift[i], slope);
    if constexpr (CENTRED) before -= first[i] + d * second[i];
    to[i] = gain[i] * before;
  }
}

template <int64_t ACTIVATION, bool CENTRED, typename T, typename A>
void differentiate_all(const T* g, const T* x, T* to, const Normalization<A>& by,
                       const Pattern<A>& first, const Pattern<A>& second, A slope) {
  for_each_piece<T>(by.channels, [&](int64_t i, int64_t n, const auto& at) {
    A upstream[kTile], read[kTile], written[kTile];
    A* values = target_of(to + i, written);
    differentiate<ACTIVATION, CENTRED>(load(g + i, upstream, n), load(x + i, read, n), values,
                                       at(by.mean), at(by.gain), at(by.shift), at(first),
                                       at(second), slope, n);
    store(to + i, values, n);
  });
}

// Means over a channel of g' and of g' * (x - mean) / var, which a batch's own statistics take away
// from the gradient; zeros for fixed statistics.
template <typename A>
std::pair<std::vector<A>, std::vector<A>> corrections(const std::vector<GradientSums>& sums,
                                                      const std::vector<A>& invstd,
                                                      const Channels& channels, bool training) {
  std::vector<A> first(channels.count, A(0)), second(channels.count, A(0));
  for (int64_t c = 0; training && c < channels.count; ++c) {
    const double n = double(channels.per_channel()), scale = double(invstd[c]);
    first[c] = A(sums[c].g / n);
    second[c] = A(sums[c].product / n * scale * scale);
  }
  return {first, second};
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_act_bwd(Tensor g, Tensor input, MaybeTensor weight,
                                                      MaybeTensor bias, Tensor mean, Tensor invstd,
                                                      bool training, int64_t activation,
                                                      double slope, bool channels_last,
                                                      bool need_input, bool need_params) {
  Tensor d_input = new_images(input, shape_of(input), channels_last);
  g = matched(g, d_input);
  input = matched(input, d_input);
  const Channels channels(d_input);
  Tensor d_weight = none_like(input), d_bias = none_like(input);
  dispatch(input.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    const T *upstream = g.const_data_ptr<T>(), *x = input.const_data_ptr<T>();
    const std::vector<A> means = parameter<A>(mean, channels.count, A(0)),
                         scales = parameter<A>(invstd, channels.count, A(1));
    const Normalization<A> by(channels, means, scales, weight, bias);
    dispatch_activation(activation, [&](auto kind) {
      constexpr int64_t kKind = decltype(kind)::value;
      std::vector<GradientSums> sums;
      if (need_params || training) {
        sums = over_channels(channels, GradientSumsOf<kKind, T>(upstream, x, by, A(slope)));
      }
      if (need_input) {
        const auto [first, second] = corrections(sums, scales, channels, training);
        T* to = d_input.mutable_data_ptr<T>();
        const auto run =
            training ? differentiate_all<kKind, true, T, A> : differentiate_all<kKind, false, T, A>;
        run(upstream, x, to, by, Pattern<A>(channels, first), Pattern<A>(channels, second),
            A(slope));
      }
      if (need_params) {
        const ScalarType acc = accumulator(input.scalar_type());
        std::vector<A> by_weight(channels.count), by_bias(channels.count);
        for (int64_t c = 0; c < channels.count; ++c) {
          by_weight[c] = A(sums[c].product * double(scales[c]));
          by_bias[c] = A(sums[c].g);
        }
        d_weight = parameter_from(by_weight, input, weight ? weight->scalar_type() : acc);
        d_bias = parameter_from(by_bias, input, bias ? bias->scalar_type() : acc);
      }
    });
  });
  return {need_input ? d_input : none_like(input), d_weight, d_bias};
}

void implement(torch::stable::detail::StableLibrary& m) {
  m.impl("batch_norm_act_fwd", TORCH_BOX(&batch_norm_act_fwd));
  m.impl("batch_norm_act_bwd", TORCH_BOX(&batch_norm_act_bwd));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pyaegpu, CPU, m) { implement(m); }
STABLE_TORCH_LIBRARY_IMPL(pyaegpu_cpu, CPU, m) { implement(m); }

}  // namespace pyaegpu::cpu
