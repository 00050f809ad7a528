// Max-pooling with its indices and max-unpooling on the CPU. Schemas and autograd:
// pyaegpu/ops/max_unpool_graph.py.

#include <tuple>

#include "max_pool.h"
#include "pick.h"
#include "spread.h"

namespace pyaegpu::cpu {
namespace {

enum Kind : int64_t { kNone, kCode, kPlaneIndex };

Sizes images_shape(const Tensor& like, const Sizes& spatial) {
  Sizes shape = {like.size(0), like.size(1)};
  shape.insert(shape.end(), spatial.begin(), spatial.end());
  return shape;
}

// Of the dtype of indices that lanes of 32 bits can be compared with.
Tensor indices_of(const Tensor& indices, const Pooling& call) {
  const bool wide = indices.scalar_type() == ScalarType::Int &&
                    call.windows.image() > std::numeric_limits<int32_t>::max();
  const Tensor like = wide ? new_empty(indices, {0}, ScalarType::Long) : indices;
  return matched(indices, new_images(like, shape_of(indices), call.channels_last));
}

void check_positions(const Pooling& call) {
  STD_TORCH_CHECK(call.windows.positions() <= 256,
                  "pyaegpu: codes are for windows of up to 256 positions");
}

void check_indices(const Pooling& call, const Tensor& indices, const Tensor& values, int64_t dims) {
  if (indices.scalar_type() == ScalarType::Byte) check_positions(call);
  bool equal = indices.dim() == values.dim();
  for (int64_t d = 0; equal && d < dims; ++d) equal = indices.size(d) == values.size(d);
  STD_TORCH_CHECK(equal, "pyaegpu: the shape of indices does not fit");
}

template <typename T, typename Index>
void max_pool(const Pooling& call, const Tensor& input, Tensor& out, Index* indices) {
  using M = Mark<Accumulator<T>>;
  const T* data = data_of<T>(input);
  T* to = data_of<T>(out);
  // The marks of a window are less than the elements of the image, and those of codes than 256.
  if (std::is_same_v<Index, int64_t> &&
      call.windows.image() > std::numeric_limits<int32_t>::max()) {
    MaxPool<T, Index, int64_t>(call, data, to, indices)();
  } else {
    MaxPool<T, Index, M>(call, data, to, indices)();
  }
}

std::tuple<Tensor, Tensor> max_pool_fwd(Tensor input, Sizes pooled, Sizes kernel, Sizes stride,
                                        Sizes padding, Sizes dilation, int64_t kind,
                                        bool channels_last) {
  const Pooling call = pooling_of(input, shape_of(input, 2), pooled, kernel, stride, padding,
                                  dilation, channels_last);
  STD_TORCH_CHECK(kind >= kNone && kind <= kPlaneIndex, "pyaegpu: kind must be 0, 1 or 2, got ",
                  kind);
  if (kind == kCode) check_positions(call);
  const Sizes shape = images_shape(input, pooled);
  Tensor out = new_images(input, shape, channels_last);
  Tensor indices = new_empty(input, {0}, kind == kPlaneIndex ? ScalarType::Long : ScalarType::Byte);
  if (kind != kNone) indices = new_images(indices, shape, channels_last);
  if (out.numel() == 0) return {out, indices};
  input = in_format(input, channels_last);
  dispatch(input.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    if (kind == kNone) {
      max_pool<T>(call, input, out, static_cast<NoIndices*>(nullptr));
    } else if (kind == kCode) {
      max_pool<T>(call, input, out, data_of<uint8_t>(indices));
    } else {
      max_pool<T>(call, input, out, data_of<int64_t>(indices));
    }
  });
  return {out, indices};
}

Tensor max_pool_bwd(Tensor g, Tensor indices, Sizes image, Sizes kernel, Sizes stride,
                    Sizes padding, Sizes dilation, bool channels_last) {
  const Pooling call =
      pooling_of(g, image, shape_of(g, 2), kernel, stride, padding, dilation, channels_last);
  check_indices(call, indices, g, g.dim());
  Tensor d_input = new_images(g, images_shape(g, image), channels_last);
  if (d_input.numel() == 0) return d_input;
  if (g.numel() == 0) return torch::stable::zero_(d_input);
  g = in_format(g, channels_last);
  indices = indices_of(indices, call);
  dispatch_indices(indices, [&](auto index) {
    using Index = decltype(index);
    const Index* at = data_of<Index>(indices);
    if (call.in_pairs()) {
      Strays strays(call);
      return dispatch_bits(g.scalar_type(), [&](auto zero) {
        using U = decltype(zero);
        spread_all_pairs(call, data_of<U>(g), at, data_of<U>(d_input), strays);
      });
    }
    dispatch(g.scalar_type(), [&](auto zero) {
      using T = decltype(zero);
      const auto run = channels_last ? add_all_pixels<T, Index> : add_all_planes<T, Index>;
      run(call, data_of<T>(g), at, data_of<T>(d_input));
    });
  });
  return d_input;
}

template <typename U, typename Index>
bool max_unpool(const Pooling& call, const U* values, const Index* indices, U* image) {
  Strays strays(call);
  const bool pairs = call.in_pairs(), ordered = !pairs && !call.channels_last;
  if (pairs) {
    spread_all_pairs(call, values, indices, image, strays);
  } else if (call.channels_last) {
    choose_all(call, values, indices, image, strays);
  }
  if (!ordered && !strays.any()) return true;
  if (!ordered && kCodes<Index>) return false;
  return scatter_all(call, values, indices, image, strays, ordered);
}

Tensor max_unpool_fwd(Tensor input, Tensor indices, Sizes image, Sizes kernel, Sizes stride,
                      Sizes padding, Sizes dilation, bool channels_last) {
  const Pooling call = pooling_of(input, image, shape_of(input, 2), kernel, stride, padding,
                                  dilation, channels_last);
  check_indices(call, indices, input, input.dim());
  Tensor out = new_images(input, images_shape(input, image), channels_last);
  if (input.numel() == 0) return torch::stable::zero_(out);
  input = in_format(input, channels_last);
  indices = indices_of(indices, call);
  dispatch_indices(indices, [&](auto index) {
    using Index = decltype(index);
    dispatch_bits(input.scalar_type(), [&](auto zero) {
      using U = decltype(zero);
      if (!max_unpool(call, data_of<U>(input), data_of<Index>(indices), data_of<U>(out))) {
        refuse_first<Index>(call, indices);
      }
    });
  });
  return out;
}

Tensor max_unpool_bwd(Tensor g, Tensor indices, Sizes kernel, Sizes stride, Sizes padding,
                      Sizes dilation, bool channels_last) {
  const Pooling call = pooling_of(g, shape_of(g, 2), shape_of(indices, 2), kernel, stride, padding,
                                  dilation, channels_last);
  check_indices(call, indices, g, 2);
  Tensor d_input = new_images(g, shape_of(indices), channels_last);
  if (d_input.numel() == 0) return d_input;
  if (g.numel() == 0) return torch::stable::zero_(d_input);
  g = in_format(g, channels_last);
  indices = indices_of(indices, call);
  dispatch_indices(indices, [&](auto index) {
    using Index = decltype(index);
    dispatch_bits(g.scalar_type(), [&](auto zero) {
      using U = decltype(zero);
      Pick<U, Index>(call, data_of<U>(g), data_of<Index>(indices), data_of<U>(d_input))();
    });
  });
  return d_input;
}

void implement(torch::stable::detail::StableLibrary& m) {
  m.impl("max_pool_fwd", TORCH_BOX(&max_pool_fwd));
  m.impl("max_pool_bwd", TORCH_BOX(&max_pool_bwd));
  m.impl("max_unpool_fwd", TORCH_BOX(&max_unpool_fwd));
  m.impl("max_unpool_bwd", TORCH_BOX(&max_unpool_bwd));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pyaegpu, CPU, m) { implement(m); }
STABLE_TORCH_LIBRARY_IMPL(pyaegpu_cpu, CPU, m) { implement(m); }

}  // namespace pyaegpu::cpu
