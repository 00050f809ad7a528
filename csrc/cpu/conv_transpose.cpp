// Transposed convolution of few output channels on the CPU. Schemas and autograd:
// pyaegpu/ops/conv_transpose_graph.py.

#include <tuple>

#include "conv_transpose_backward.h"
#include "conv_transpose_forward.h"

namespace pyaegpu::cpu {
namespace {

using MaybeTensor = std::optional<Tensor>;

Tensor conv_transpose2d_small_fwd(Tensor input, Tensor weight, MaybeTensor bias, Sizes stride,
                                  Sizes padding, Sizes output_padding, int64_t activation,
                                  double slope, bool, bool channels_last) {
  const int64_t height = output_size(input, weight, 0, stride, padding, output_padding);
  const int64_t width = output_size(input, weight, 1, stride, padding, output_padding);
  Tensor out = new_images(input, {input.size(0), weight.size(1), height, width}, channels_last);
  const ConvTranspose call =
      call_of(input, weight, height, width, stride, padding, activation, slope);
  dispatch(input.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Stored<T> stored(call, out);
    Forward<T>(call, bias).run([&] { return stored; });
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> conv_transpose2d_small_bwd(Tensor g, Tensor input, Tensor weight,
                                                              MaybeTensor out, Sizes stride,
                                                              Sizes padding, int64_t activation,
                                                              double slope, bool,
                                                              bool channels_last, bool need_input,
                                                              bool need_weight, bool need_bias) {
  Gradients grads{
      need_input ? new_images(input, shape_of(input), channels_last) : none_like(input),
      need_weight ? new_images(weight, shape_of(weight), channels_last) : none_like(weight),
      new_empty(g, {need_bias ? weight.size(1) : 0}, g.scalar_type()),
      need_input,
      need_weight,
      need_bias};
  const ConvTranspose call =
      call_of(input, weight, g.size(2), g.size(3), stride, padding, activation, slope);
  dispatch(input.scalar_type(),
           [&](auto zero) { Backward<decltype(zero)>(call, g, out, grads).run(); });
  return {grads.input, grads.weight, grads.bias};
}

void implement(torch::stable::detail::StableLibrary& m) {
  m.impl("conv_transpose2d_small_fwd", TORCH_BOX(&conv_transpose2d_small_fwd));
  m.impl("conv_transpose2d_small_bwd", TORCH_BOX(&conv_transpose2d_small_bwd));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pyaegpu, CPU, m) { implement(m); }
STABLE_TORCH_LIBRARY_IMPL(pyaegpu_cpu, CPU, m) { implement(m); }

}  // namespace pyaegpu::cpu
