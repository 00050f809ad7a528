// Transposed convolution to few output channels on a GPU. Schemas and autograd:
// pyaegpu/ops/conv_transpose_graph.py.

#include <algorithm>
#include <tuple>

#include "../common/conv_transpose_call.h"
#include "arguments.h"
#include "partials.cuh"
#include "small_backward.cuh"
#include "small_forward.cuh"

namespace pyaegpu::cuda {
namespace {

using Pair = std::vector<int64_t>;

// Blocks that share out the tiles of a backward, whatever the card, so that sums do not depend on
// it; enough for two on each of 132 multiprocessors.
constexpr int64_t kBackwardBlocks = 264;

template <typename T>
bool on_vector(const void* data, std::initializer_list<int64_t> multiples) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 &&
         std::all_of(multiples.begin(), multiples.end(),
                     [](int64_t n) { return n % Vector<T>::kSize == 0; });
}

// Vectors run along the channels.
template <typename T, typename Pointer>
Strides4<std::remove_pointer_t<Pointer>> strides_of(const Tensor& t, Pointer data) {
  const bool vectors =
      t.stride(1) == 1 && on_vector<T>(data, {t.size(1), t.stride(0), t.stride(2), t.stride(3)});
  return {data, t.stride(0), t.stride(1), t.stride(2), t.stride(3), vectors};
}

// Whether dimension 1 is the fastest that counts.
bool channels_first_in_memory(const Tensor& t) {
  return t.size(1) > 1 && t.stride(1) < (t.size(3) > 1 ? t.stride(3) : t.stride(2));
}

template <typename T>
bool whole_weight(const SmallArgs<T>& args, const Taps& taps) {
  const auto& w = args.weight;
  const auto in_order = [](int size, int64_t stride, int index) {
    return size == 1 || stride == index;
  };
  return taps.rows == args.rows.kernel && taps.columns == args.columns.kernel &&
         in_order(taps.channels, w.channel, taps.channels_last ? 1 : taps.rows * taps.columns) &&
         in_order(taps.rows, w.row, taps.columns * (taps.channels_last ? taps.channels : 1)) &&
         in_order(taps.columns, w.column, taps.channels_last ? taps.channels : 1) &&
         on_vector<T>(w.data, {w.image, taps.size()});
}

// What both directions share; the tiling is set before.
template <typename T>
void set_operands(SmallArgs<T>& args, const Tensor& input, const Tensor& weight) {
  args.input = strides_of<T>(input, input.const_data_ptr<T>());
  args.weight = strides_of<T>(weight, weight.const_data_ptr<T>());
  args.inputs = int(input.size(1));
  args.outputs = int(weight.size(1));
  args.elements = weight.numel();
  args.tiles = input.size(0) * args.tiling.down * args.tiling.across;
  args.taps_last = channels_first_in_memory(weight);
  args.whole_weight = whole_weight(
      args, {args.outputs, args.tiling.tap_rows, args.tiling.tap_columns, args.taps_last});
}

template <typename T>
using Kernel = void (*)(SmallArgs<T>);

template <typename T>
void run(const Launch& launch, const char* op, Kernel<T> kernel, dim3 blocks, int bytes,
         const SmallArgs<T>& args) {
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  STD_TORCH_CHECK(error == cudaSuccess, "pyaegpu: ", op, " needs ", bytes,
                  " bytes of shared memory: ", cudaGetErrorString(error));
  kernel<<<blocks, kThreads, bytes, launch.stream()>>>(args);
  launch.check(op);
}

// Calls f with the columns that a product of so many taps needs; for the rarer dtypes, of fewer
// kernels.
template <typename T, typename F>
void dispatch_columns(int taps, const F& f) {
  if constexpr (sizeof(T) == 2) {
    if (taps <= 16) return f(std::integral_constant<int, 16>{});
  }
  if constexpr (sizeof(T) <= 4) {
    if (taps <= 32) return f(std::integral_constant<int, 32>{});
    if (taps <= 48) return f(std::integral_constant<int, 48>{});
  }
  return f(std::integral_constant<int, 64>{});
}

int taps_at_once(const Tiling& tiling, int channels) {
  return tiling.tap_rows * tiling.tap_columns * channels;
}

Tensor conv_transpose2d_small_fwd(Tensor input, Tensor weight, MaybeTensor bias, Pair stride,
                                  Pair padding, Pair output_padding, int64_t activation,
                                  double slope, bool, bool channels_last) {
  const Launch launch(input);
  STD_TORCH_CHECK(weight.size(1) <= 4, "pyaegpu: up to 4 output channels are served");
  const int64_t height = output_size(input, weight, 0, stride, padding, output_padding);
  const int64_t width = output_size(input, weight, 1, stride, padding, output_padding);
  Tensor out = new_images(input, {input.size(0), weight.size(1), height, width}, channels_last);
  if (bias) bias = torch::stable::contiguous(*bias);
  dispatch(input.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using Form = SmallForward<T>;
    SmallArgs<T> args{};
    args.rows = axis_of(input, weight, height, 0, stride, padding);
    args.columns = axis_of(input, weight, width, 1, stride, padding);
    args.tiling = output_tiling(args.rows, args.columns, int(weight.size(1)), kMostTaps,
                                Form::kPixels, Form::kOutputs);
    set_operands(args, input, weight);
    args.bias = bias ? bias->const_data_ptr<T>() : nullptr;
    args.activation = activation;
    args.slope = static_cast<Accumulator<T>>(slope);
    args.result = strides_of<T>(out, out.mutable_data_ptr<T>());
    args.channels_last = channels_last && args.outputs > 1;
    const int64_t scale = args.channels_last ? args.outputs : 1;
    args.result.vectors =
        on_vector<T>(args.result.data, {width * scale, args.tiling.columns * scale});
    dispatch_columns<T>(taps_at_once(args.tiling, args.outputs), [&](auto columns) {
      run<T>(launch, "conv_transpose2d_small_fwd", small_forward_kernel<T, columns.value>,
             dim3(blocks_for(args.tiles)), Form::bytes(args, columns.value), args);
    });
  });
  return out;
}

// One launch: of everything, or where the taps take several products, of one gradient.
template <typename T>
void run_backward(const Launch& launch, SmallArgs<T> args, int64_t blocks, bool need_input,
                  bool need_weight, bool need_bias) {
  using Form = SmallBackward<T>;
  if (!need_input && !need_weight && !need_bias) return;
  args.need_input = need_input;
  args.need_weight = need_weight;
  args.need_bias = need_bias;
  const bool by_channels = need_input || need_weight;
  const int64_t parts = args.tiling.taps_down(args.rows) * args.tiling.taps_across(args.columns);
  const dim3 grid(unsigned(blocks), by_channels ? ceil_div(args.inputs, Form::kChannels) : 1,
                  need_weight ? parts : 1);
  dispatch_columns<T>(taps_at_once(args.tiling, args.outputs), [&](auto columns) {
    run<T>(launch, "conv_transpose2d_small_bwd", small_backward_kernel<T, columns.value>, grid,
           Form::bytes(columns.value), args);
  });
}

std::tuple<Tensor, Tensor, Tensor> conv_transpose2d_small_bwd(Tensor g, Tensor input, Tensor weight,
                                                              MaybeTensor out, Pair stride,
                                                              Pair padding, int64_t activation,
                                                              double slope, bool,
                                                              bool channels_last, bool need_input,
                                                              bool need_weight, bool need_bias) {
  STD_TORCH_CHECK(out || activation == kNoActivation, "pyaegpu: the output is needed");
  STD_TORCH_CHECK(weight.size(1) <= 4, "pyaegpu: up to 4 output channels are served");
  const Launch launch(g);
  const ScalarType acc = accumulator(g.scalar_type());
  Tensor d_input =
      need_input ? new_images(input, shape_of(input), channels_last) : none_like(input);
  Tensor d_weight =
      need_weight ? new_images(weight, shape_of(weight), channels_last) : none_like(weight);
  Tensor d_bias = new_empty(g, {need_bias ? weight.size(1) : 0}, g.scalar_type());
  dispatch(g.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    using Form = SmallBackward<T>;
    SmallArgs<T> args{};
    args.rows = axis_of(input, weight, g.size(2), 0, stride, padding);
    args.columns = axis_of(input, weight, g.size(3), 1, stride, padding);
    args.tiling = input_tiling(args.rows, args.columns, int(weight.size(1)), kMostTaps,
                               Form::kPixels, Form::kWindow);
    set_operands(args, input, weight);
    args.g = strides_of<T>(g, g.const_data_ptr<T>());
    args.g_channels_last = channels_first_in_memory(g);
    args.activation = activation;
    args.slope = static_cast<A>(slope);
    if (out) args.out = strides_of<T>(*out, out->const_data_ptr<T>());
    if (need_input) args.result = strides_of<T>(d_input, d_input.mutable_data_ptr<T>());

    const int64_t parts = args.tiling.taps_down(args.rows) * args.tiling.taps_across(args.columns);
    const int64_t sets = ceil_div(args.inputs, Form::kChannels) * parts;
    const int64_t blocks = std::min(args.tiles, std::max<int64_t>(1, kBackwardBlocks / sets));
    const Tensor weights = new_empty(g, {need_weight ? blocks * args.elements : 0}, acc);
    const Tensor biases = new_empty(g, {need_bias ? blocks * args.outputs : 0}, acc);
    args.d_weight = need_weight ? weights.mutable_data_ptr<A>() : nullptr;
    args.d_bias = need_bias ? biases.mutable_data_ptr<A>() : nullptr;
    if (parts == 1) {
      run_backward(launch, args, blocks, need_input, need_weight, need_bias);
    } else {
      run_backward(launch, args, blocks, need_input, false, need_bias);
      run_backward(launch, args, blocks, false, need_weight, false);
    }
    if (need_weight) weight_sum<T>(launch, weights, int(blocks), d_weight);
    if (need_bias) channel_sum<T>(launch, biases, 1, blocks, d_bias);
  });
  return {d_input, d_weight, d_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pyaegpu_cuda, CUDA, m) {
  m.impl("conv_transpose2d_small_fwd", TORCH_BOX(&conv_transpose2d_small_fwd));
  m.impl("conv_transpose2d_small_bwd", TORCH_BOX(&conv_transpose2d_small_bwd));
}

}  // namespace pyaegpu::cuda
