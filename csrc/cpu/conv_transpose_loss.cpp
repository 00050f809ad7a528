// A transposed convolution's reconstruction loss on the CPU, without the reconstruction. Schemas
// and autograd: pyaegpu/ops/conv_transpose_loss_graph.py.

#include <optional>
#include <tuple>

#include "conv_transpose_forward.h"
#include "loss_pass.h"
#include "results.h"

namespace pyaegpu::cpu {
namespace {

// Keeps the logits of a strip, and passes over them while they are in the cache.
template <typename T>
class Losses {
 public:
  using A = Accumulator<T>;

  // `grad` tells the layout of the target too, and is written where the pass needs it.
  Losses(const ConvTranspose& call, const LossPass<T>& pass, const T* target,
         const Written<T>& grad, const Strips& strips, std::vector<double>& sums)
      : call_(call),
        pass_(pass),
        target_(target),
        grad_(grad),
        sums_(sums),
        plane_(width() * most_rows(call.rows, strips)),
        logits_(call.channels_out * plane_) {}

  void row(const Strip& strip, int row, const Lanes<A>& lines) const {
    A* to = logits_.data() + first_pixel(strip, row) * (in_planes() ? 1 : call_.channels_out);
    if (!in_planes()) return interleave(lines.data, lines.row, call_.channels_out, to, width());
    for (int64_t c = 0; c < call_.channels_out; ++c) {
      widen(lines.data + c * lines.row, to + c * plane_, width());
    }
  }

  void end(const Strip& strip, int64_t index) const {
    if (strip.first_output >= strip.end_output) return;
    const int64_t pixels = first_pixel(strip, strip.end_output);
    T* to = grad_.at(strip.image, strip.first_output * width());
    const int64_t runs = in_planes() ? call_.channels_out : 1;
    const int64_t length = in_planes() ? pixels : pixels * call_.channels_out;
    for (int64_t r = 0; r < runs; ++r) {
      sums_[index] += sum(logits_.data() + r * plane_, to + r * grad_.images.channel, length);
    }
  }

 private:
  static int most_rows(const Axis& axis, const Strips& strips) {
    return std::min(axis.outputs, (strips.rows + 1) * axis.stride + axis.kernel);
  }

  bool in_planes() const { return grad_.images.in_planes(); }
  int64_t width() const { return call_.columns.outputs; }
  int64_t first_pixel(const Strip& strip, int row) const {
    return (row - strip.first_output) * width();
  }

  double sum(A* logits, T* grad, int64_t n) const {
    const T* target = target_ + (grad - grad_.data);
    double sum = 0;
    for (int64_t i = 0; i < n; i += kTile) {
      sum += pass_.run(logits + i, target + i, grad + i, std::min(kTile, n - i));
    }
    return sum;
  }

  const ConvTranspose& call_;
  const LossPass<T>& pass_;
  const T* target_;
  const Written<T>& grad_;
  std::vector<double>& sums_;
  int64_t plane_;
  Scratch<A> logits_;
};

double total(const std::vector<double>& sums) {
  double sum = 0;
  for (double each : sums) sum += each;
  return sum;
}

template <typename T>
double sum_losses(const ConvTranspose& call, const std::optional<Tensor>& bias,
                  const Tensor& target, const Tensor& grad, const LossPass<T>& pass) {
  const Forward<T> forward(call, bias);
  const Written<T> written(grad);
  std::vector<double> sums(forward.strips().count, 0.0);
  forward.run([&] {
    return Losses<T>(call, pass, target.const_data_ptr<T>(), written, forward.strips(), sums);
  });
  if (pass.outside()) {
    const Tensor recon = torch::stable::empty_like(grad);
    const Stored<T> stored(call, recon);
    forward.run([&] { return stored; });
    refuse_outside<T>(recon, target);
  }
  return total(sums);
}

std::tuple<Tensor, Tensor> conv_transpose2d_small_loss_fwd(
    Tensor input, Tensor weight, MaybeTensor bias, Tensor target, Sizes stride, Sizes padding,
    Sizes output_padding, int64_t activation, double slope, int64_t kind, double factor,
    bool need_grad, bool, bool channels_last) {
  const int64_t height = output_size(input, weight, 0, stride, padding, output_padding);
  const int64_t width = output_size(input, weight, 1, stride, padding, output_padding);
  const Tensor grad =
      new_images(input, {input.size(0), weight.size(1), height, width}, channels_last);
  const ConvTranspose call =
      call_of(input, weight, height, width, stride, padding, activation, slope);
  const double sum = dispatch(input.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const LossPass<T> pass(activation, slope, kind, factor, need_grad);
    return sum_losses<T>(call, bias, matched(target, grad), grad, pass);
  });
  return {as_result({factor * sum}, input, kTotal), need_grad ? grad : none_like(input)};
}

template <typename T>
double sum_losses(const Tensor& logits, const Tensor& target, T* grad, const LossPass<T>& pass) {
  using A = Accumulator<T>;
  const T *from = logits.const_data_ptr<T>(), *t = target.const_data_ptr<T>();
  const Split split(1, logits.numel());
  std::vector<double> sums(split.items(), 0.0);
  for_each_tile(split, [&](int64_t i, int64_t n, int64_t item) {
    A x[kTile];
    widen(from + i, x, n);
    sums[item] += pass.run(x, t + i, grad ? grad + i : nullptr, n);
  });
  if (pass.outside()) {
    Tensor recon = torch::stable::empty_like(logits);
    T* to = recon.mutable_data_ptr<T>();
    for_each_tile(split, [&](int64_t i, int64_t n, int64_t) {
      A x[kTile];
      widen(from + i, x, n);
      pass.activate(x, n);
      narrow(x, to + i, n);
    });
    refuse_outside<T>(recon, target);
  }
  return total(sums);
}

std::tuple<Tensor, Tensor> activation_loss_fwd(Tensor logits, Tensor target, int64_t activation,
                                               double slope, int64_t kind, double factor,
                                               bool need_grad) {
  logits = dense(logits, false);
  Tensor grad = need_grad ? torch::stable::empty_like(logits) : none_like(logits);
  const double sum = dispatch(logits.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const LossPass<T> pass(activation, slope, kind, factor, need_grad);
    T* to = need_grad ? grad.mutable_data_ptr<T>() : nullptr;
    return sum_losses<T>(logits, matched(target, logits), to, pass);
  });
  return {as_result({factor * sum}, logits, kTotal), grad};
}

void implement(torch::stable::detail::StableLibrary& m) {
  m.impl("conv_transpose2d_small_loss_fwd", TORCH_BOX(&conv_transpose2d_small_loss_fwd));
  m.impl("activation_loss_fwd", TORCH_BOX(&activation_loss_fwd));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pyaegpu, CPU, m) { implement(m); }
STABLE_TORCH_LIBRARY_IMPL(pyaegpu_cpu, CPU, m) { implement(m); }

}  // namespace pyaegpu::cpu
