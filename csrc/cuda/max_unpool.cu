// Max-pooling with codes or plane indices, max-unpooling by either, and their gradients on a GPU.
// Schemas and autograd: pyaegpu/ops/max_unpool_graph.py.

#include <algorithm>
#include <tuple>

#include "../common/windows_call.h"
#include "arguments.h"
#include "max_pool.cuh"
#include "unpool_backward.cuh"
#include "unpool_rows.cuh"
#include "unpool_scatter.cuh"

namespace pyaegpu::cuda {
namespace {

using Numbers = std::vector<int64_t>;

// What max_pool_fwd is asked for.
enum Kind : int64_t { kNoIndices = 0, kCodeIndices = 1, kPlaneIndices = 2 };

// Up to so many elements of a window are read whole in the gradient of an unpooling.
constexpr int64_t kFewPositions = 16;

// A call, once the lists of its arguments are read.
struct Call {
  Windows<int64_t> windows;
  int64_t images, channels;  // of planes: all of them, and 1

  int64_t pooled_rows() const { return windows.axes[1].pooled; }
  int64_t elements() const {
    return images * channels * std::max(windows.image(), windows.pooled());
  }
  bool disjoint() const {
    return windows.axes[0].disjoint() && windows.axes[1].disjoint() && windows.axes[2].disjoint();
  }
  // Whether 32 bits hold the places of the planes, the steps of the windows and so many items.
  bool fits(int64_t items) const {
    for (const auto& axis : windows.axes) {
      const int64_t windows_end = axis.pooled * axis.stride + axis.kernel * axis.dilation;
      if (std::max({windows_end, axis.image + axis.padding + axis.stride}) >= INT32_MAX / 2) {
        return false;
      }
    }
    return std::max({windows.image(), windows.pooled(), items}) < INT32_MAX - kThreads;
  }
  // Windows of 2 x 2 side by side in planes, of which a row has one for each two elements, and all
  // begin inside the image.
  bool two_by_two() const {
    const auto single = [](const auto& a) {
      return a.kernel == 1 && a.stride == 1 && a.padding == 0 && a.image == a.pooled;
    };
    const auto pairs = [](const auto& a) {
      return a.kernel == 2 && a.stride == 2 && a.padding == 0 && a.dilation == 1 &&
             2 * (a.pooled - 1) < a.image;
    };
    const auto& [depth, height, width] = windows.axes;
    return channels == 1 && single(depth) && pairs(height) && pairs(width) &&
           width.image == 2 * width.pooled;
  }
};

Call call_of(const Tensor& t, const Numbers& image, const Numbers& pooled, const Numbers& kernel,
             const Numbers& stride, const Numbers& padding, const Numbers& dilation,
             bool channels_last) {
  const auto windows = windows_of<int64_t>(image, pooled, kernel, stride, padding, dilation);
  return channels_last ? Call{windows, t.size(0), t.size(1)}
                       : Call{windows, t.size(0) * t.size(1), 1};
}

template <typename I>
Pooling<I> pooling_of(const Call& call, const Items<I>& items) {
  Pooling<I> pooling;
  pooling.items = items;
  for (int d = 0; d < 3; ++d) {
    const auto& axis = call.windows.axes[d];
    pooling.windows.axes[d] = {I(axis.image),  I(axis.pooled),  I(axis.kernel),
                               I(axis.stride), I(axis.padding), I(axis.dilation)};
    pooling.strides[d] = Divider<I>(axis.stride);
  }
  pooling.image_height = Divider<I>(call.windows.axes[1].image);
  pooling.image_width = Divider<I>(call.windows.axes[2].image);
  pooling.kernel_height = Divider<I>(call.windows.axes[1].kernel);
  pooling.kernel_width = Divider<I>(call.windows.axes[2].kernel);
  pooling.channels = call.channels;
  pooling.image_size = call.windows.image() * call.channels;
  pooling.pooled_size = call.windows.pooled() * call.channels;
  return pooling;
}

template <typename I>
Items<I> image_items(const Call& call, int64_t group) {
  const auto* axes = call.windows.axes;
  return {call.images, axes[0].image, axes[1].image, axes[2].image, call.channels / group};
}

template <typename I>
Items<I> pooled_items(const Call& call, int64_t group) {
  const auto* axes = call.windows.axes;
  return {call.images, axes[0].pooled, axes[1].pooled, axes[2].pooled, call.channels / group};
}

// Strides, until the image is covered and every window has one.
Items<int32_t> cell_items(const Call& call, int64_t group) {
  const auto cells = [&](int d) {
    const auto& axis = call.windows.axes[d];
    return std::max(axis.pooled, ceil_div(axis.image + axis.padding, axis.stride));
  };
  return {call.images, cells(0), cells(1), cells(2), call.channels / group};
}

template <typename Args>
void run(const Launch& launch, const char* op, void (*kernel)(Args), int64_t items,
         const Args& args) {
  const unsigned blocks = blocks_for(ceil_div(items, kThreads));
  kernel<<<blocks, kThreads, 0, launch.stream()>>>(args);
  launch.check(op);
}

// [N, C, *spatial] in the memory format of the call, without a copy where it already is.
Tensor formatted(const Tensor& t, bool channels_last) {
  int64_t expected = 1;
  const auto next = [&](int64_t d) {
    const bool right = t.size(d) == 1 || t.stride(d) == expected;
    expected *= t.size(d);
    return right;
  };
  bool right = !channels_last || next(1);
  for (int64_t d = t.dim() - 1; d > (channels_last ? 1 : 0); --d) right = right && next(d);
  return right && next(0) ? t : in_format(t, channels_last);
}

// Calls f with a zero of unsigned bits as wide as an element: what copies values needs no more.
template <typename F>
void dispatch_bits(ScalarType dtype, const F& f) {
  dispatch(dtype, [&](auto zero) {
    if constexpr (sizeof(zero) == 8) {
      f(uint64_t{});
    } else if constexpr (sizeof(zero) == 4) {
      f(uint32_t{});
    } else {
      f(uint16_t{});
    }
  });
}

// Calls f with a zero of the C++ type of max_pool_fwd's indices.
template <typename F>
void dispatch_pooled_index(ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Byte:
      return f(uint8_t{});
    case ScalarType::Long:
      return f(int64_t{});
    default:
      STD_TORCH_CHECK(false, "pyaegpu: expected uint8 or int64 indices, got ",
                      torch::headeronly::toString(dtype));
  }
}

// And with one of the further type that max-unpooling takes.
template <typename F>
void dispatch_index(ScalarType dtype, const F& f) {
  return dtype == ScalarType::Int ? f(int32_t{}) : dispatch_pooled_index(dtype, f);
}

template <int N>
using Constant = std::integral_constant<int, N>;

// Whether N elements of each tensor, and N indices, can be one access where their places allow it.
template <int N, typename T, typename Index>
bool aligned(const Tensor& values, const Tensor& indices) {
  const auto lies_on = [](const Tensor& t, int64_t bytes) {
    return reinterpret_cast<uintptr_t>(t.const_data_ptr()) % std::min<int64_t>(bytes, 16) == 0;
  };
  return lies_on(values, N * sizeof(T)) && lies_on(indices, N * sizeof(Index));
}

// Calls f with the bytes of two rows of the image that a thread takes, where windows of 2 x 2 can
// go that way, and says whether they can.
template <typename T, typename Index, typename F>
bool dispatch_rows(const Call& call, const Tensor& image, const Tensor& pooled,
                   const Tensor& indices, const F& f) {
  if constexpr (sizeof(T) <= 4) {
    if (!call.two_by_two()) return false;
    const auto attempt = [&](auto bytes) {
      constexpr int kSize = bytes / sizeof(T);
      const bool whole =
          call.windows.axes[2].image % kSize == 0 && call.fits(call.elements() / kSize) &&
          aligned<kSize, T, Index>(image, indices) && aligned<kSize / 2, T, Index>(pooled, indices);
      if (whole) f(bytes);
      return whole;
    };
    return attempt(Constant<16>{}) || attempt(Constant<8>{});
  }
  return false;
}

// Pairs of rows, so many in each plane.
template <int BYTES, typename T>
Items<int32_t> row_items(const Call& call, int64_t rows) {
  const auto& [depth, height, width] = call.windows.axes;
  return {call.images, depth.image, rows, width.image / (BYTES / int(sizeof(T))), 1};
}

// Calls f with the channels that a thread takes, a vector of them where `vectors` are wanted, and a
// zero of the integer that its index arithmetic needs.
template <typename T, typename Index, typename F>
void dispatch_channels(const Call& call, const Tensor& image, const Tensor& pooled,
                       const Tensor& indices, bool vectors, const F& f) {
  constexpr int kSize = kWidth<T>;
  if constexpr (kSize > 1) {
    if (vectors && call.channels % kSize == 0 && call.fits(call.elements() / kSize) &&
        aligned<kSize, T, Index>(image, indices) && aligned<kSize, T, Index>(pooled, indices)) {
      return f(Constant<kSize>{}, int32_t{});
    }
  }
  return call.fits(call.elements()) ? f(Constant<1>{}, int32_t{}) : f(Constant<1>{}, int64_t{});
}

template <typename T, typename I>
void run_pool(const Launch& launch, const Call& call, const Items<I>& items,
              void (*kernel)(PoolArgs<T, I>), const Tensor& input, const Tensor& out,
              const Tensor& indices) {
  PoolArgs<T, I> args{pooling_of(call, items), input.const_data_ptr<T>(),
                      out.mutable_data_ptr<T>()};
  if (indices.numel() > 0) {
    const bool codes = indices.scalar_type() == ScalarType::Byte;
    args.codes = codes ? indices.mutable_data_ptr<uint8_t>() : nullptr;
    args.indices = codes ? nullptr : indices.mutable_data_ptr<int64_t>();
  }
  run(launch, "max_pool_fwd", kernel, items.count, args);
}

std::tuple<Tensor, Tensor> max_pool_fwd(Tensor input, Numbers pooled, Numbers kernel,
                                        Numbers stride, Numbers padding, Numbers dilation,
                                        int64_t kind, bool channels_last) {
  const Launch launch(input);
  input = formatted(input, channels_last);
  const Call call =
      call_of(input, shape_of(input, 2), pooled, kernel, stride, padding, dilation, channels_last);
  Numbers shape = shape_of(input);
  std::copy(pooled.begin(), pooled.end(), shape.begin() + 2);
  Tensor out = new_images(input, shape, channels_last);
  STD_TORCH_CHECK(kind >= 0 && kind <= 2, "pyaegpu: kind must be 0, 1 or 2, got ", kind);
  STD_TORCH_CHECK(kind != kCodeIndices || call.windows.positions() <= 256,
                  "pyaegpu: a code tells one of 256 positions at most");
  const ScalarType dtype = kind == kPlaneIndices ? ScalarType::Long : ScalarType::Byte;
  Tensor indices = kind == kNoIndices
                       ? new_empty(out, {0}, dtype)
                       : new_images(new_empty(out, {0}, dtype), shape, channels_last);
  if (out.numel() == 0) return {out, indices};
  dispatch(input.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    dispatch_pooled_index(dtype, [&](auto index) {
      using Index = decltype(index);
      const bool rows = dispatch_rows<T, Index>(call, input, out, indices, [&](auto bytes) {
        run_pool(launch, call, row_items<bytes, T>(call, call.pooled_rows()),
                 pool_rows_kernel<bytes, T>, input, out, indices);
      });
      if (rows) return;
      dispatch_channels<T, Index>(call, input, out, indices, true, [&](auto size, auto i) {
        using I = decltype(i);
        run_pool(launch, call, pooled_items<I>(call, size), pool_kernel<size, T, I>, input, out,
                 indices);
      });
    });
  });
  return {out, indices};
}

template <typename T, typename Index, typename I>
void run_unpool(const Launch& launch, const char* op, const Call& call, const Items<I>& items,
                void (*kernel)(UnpoolArgs<T, Index, I>), const Tensor& input, const Tensor& indices,
                const Tensor& out, int32_t* foreign = nullptr) {
  const UnpoolArgs<T, Index, I> args{
      pooling_of(call, items), static_cast<const T*>(input.const_data_ptr()),
      indices.const_data_ptr<Index>(), static_cast<T*>(out.mutable_data_ptr()), foreign};
  run(launch, op, kernel, items.count, args);
}

// Windows side by side: an element of the image is in one at most, and copied from there.
template <typename T, typename Index>
bool unpool_disjoint(const Launch& launch, const char* op, const Call& call, const Tensor& input,
                     const Tensor& indices, const Tensor& out, int32_t* foreign) {
  if (!call.disjoint()) return false;
  const int64_t pairs = ceil_div(call.windows.axes[1].image, 2);
  const bool rows = dispatch_rows<T, Index>(call, out, input, indices, [&](auto bytes) {
    run_unpool(launch, op, call, row_items<bytes, T>(call, pairs),
               unpool_rows_kernel<bytes, T, Index>, input, indices, out, foreign);
  });
  if (rows) return true;
  bool done = false;
  dispatch_channels<T, Index>(call, out, input, indices, true, [&](auto size, auto i) {
    if constexpr (std::is_same_v<decltype(i), int32_t>) {
      const auto items = cell_items(call, size);
      if (!call.fits(items.count)) return;
      run_unpool(launch, op, call, items, cells_kernel<size, T, Index>, input, indices, out,
                 foreign);
      done = true;
    }
  });
  return done;
}

template <typename T, typename Index>
void unpool_any(const Launch& launch, const char* op, const Call& call, const Tensor& input,
                const Tensor& indices, const Tensor& out, int32_t* foreign) {
  constexpr int kSize = kWidth<T>;
  if constexpr (kSize > 1) {
    const int64_t width = call.windows.axes[2].image;
    if (call.channels == 1 && width % kSize == 0 && aligned<kSize, T, Index>(out, indices) &&
        call.fits(call.elements() / kSize)) {
      const auto* axes = call.windows.axes;
      const Items<int32_t> items{call.images, axes[0].image, axes[1].image, width / kSize, 1};
      return run_unpool(launch, op, call, items, strips_kernel<kSize, T, Index>, input, indices,
                        out, foreign);
    }
  }
  dispatch_channels<T, Index>(call, out, input, indices, true, [&](auto size, auto i) {
    using I = decltype(i);
    run_unpool(launch, op, call, image_items<I>(call, size), gather_kernel<size, T, Index, I>,
               input, indices, out, foreign);
  });
}

template <typename T, typename Index>
void scatter_foreign(const Launch& launch, const Call& call, const Tensor& input,
                     const Tensor& indices, const Tensor& out, const int32_t* foreign) {
  const bool planes = call.channels == 1;
  const ScatterArgs<T, Index> args{static_cast<const T*>(input.const_data_ptr()),
                                   indices.const_data_ptr<Index>(),
                                   static_cast<T*>(out.mutable_data_ptr()),
                                   foreign,
                                   call.images * call.channels,
                                   call.channels,
                                   call.windows.image(),
                                   call.windows.pooled()};
  const int64_t most = kScatterBlocks * kThreads;
  run(launch, "max_unpool_fwd",
      planes ? scatter_planes_kernel<T, Index> : scatter_channels_kernel<T, Index>,
      std::min(args.columns * (planes ? 32 : 1), most), args);
}

// Of the values on one side and the indices: how many sizes they must share.
void check_sizes(const char* op, const Tensor& values, const Tensor& indices, int64_t shared) {
  bool same = values.dim() == indices.dim();
  for (int64_t d = 0; same && d < shared; ++d) same = values.size(d) == indices.size(d);
  STD_TORCH_CHECK(same, "pyaegpu: ", op, ": the shapes of values and indices do not fit");
}

Tensor image_like(const Tensor& pooled, const Numbers& image, bool channels_last) {
  Numbers shape = shape_of(pooled);
  std::copy(image.begin(), image.end(), shape.begin() + 2);
  return new_images(pooled, shape, channels_last);
}

Tensor max_pool_bwd(Tensor g, Tensor indices, Numbers image, Numbers kernel, Numbers stride,
                    Numbers padding, Numbers dilation, bool channels_last) {
  const char* op = "max_pool_bwd";
  check_sizes(op, g, indices, g.dim());
  const Launch launch(g);
  g = formatted(g, channels_last);
  indices = formatted(indices, channels_last);
  const Call call =
      call_of(g, image, shape_of(g, 2), kernel, stride, padding, dilation, channels_last);
  Tensor d_input = image_like(g, image, channels_last);
  if (d_input.numel() == 0) return d_input;
  dispatch_pooled_index(indices.scalar_type(), [&](auto index) {
    using Index = decltype(index);
    bool done = false;
    dispatch_bits(g.scalar_type(), [&](auto zero) {
      done = unpool_disjoint<decltype(zero), Index>(launch, op, call, g, indices, d_input, nullptr);
    });
    if (done) return;
    dispatch(g.scalar_type(), [&](auto zero) {
      unpool_any<decltype(zero), Index>(launch, op, call, g, indices, d_input, nullptr);
    });
  });
  return d_input;
}

Tensor max_unpool_fwd(Tensor input, Tensor indices, Numbers image, Numbers kernel, Numbers stride,
                      Numbers padding, Numbers dilation, bool channels_last) {
  const char* op = "max_unpool_fwd";
  check_sizes(op, input, indices, input.dim());
  const Launch launch(input);
  input = formatted(input, channels_last);
  indices = formatted(indices, channels_last);
  const Call call =
      call_of(input, image, shape_of(input, 2), kernel, stride, padding, dilation, channels_last);
  Tensor out = image_like(input, image, channels_last);
  if (out.numel() == 0) return out;
  const Tensor flag = new_empty(input, {1}, ScalarType::Int);
  dispatch_index(indices.scalar_type(), [&](auto index) {
    using Index = decltype(index);
    int32_t* foreign = nullptr;
    if (!kCodes<Index>) {
      foreign = flag.mutable_data_ptr<int32_t>();
      const cudaError_t error = cudaMemsetAsync(foreign, 0, sizeof(int32_t), launch.stream());
      STD_TORCH_CHECK(error == cudaSuccess, "pyaegpu: ", op, ": ", cudaGetErrorString(error));
    }
    dispatch_bits(input.scalar_type(), [&](auto zero) {
      using T = decltype(zero);
      if (!unpool_disjoint<T, Index>(launch, op, call, input, indices, out, foreign)) {
        unpool_any<T, Index>(launch, op, call, input, indices, out, foreign);
      }
      if constexpr (!kCodes<Index>) {
        scatter_foreign<T, Index>(launch, call, input, indices, out, foreign);
      }
    });
  });
  return out;
}

Tensor max_unpool_bwd(Tensor g, Tensor indices, Numbers kernel, Numbers stride, Numbers padding,
                      Numbers dilation, bool channels_last) {
  const char* op = "max_unpool_bwd";
  check_sizes(op, g, indices, 2);
  const Launch launch(g);
  g = formatted(g, channels_last);
  indices = formatted(indices, channels_last);
  const Call call = call_of(g, shape_of(g, 2), shape_of(indices, 2), kernel, stride, padding,
                            dilation, channels_last);
  Tensor d_input = new_images(g, shape_of(indices), channels_last);
  if (d_input.numel() == 0) return d_input;
  // A vector is read from each element of a window: of many, most would be in vain.
  const bool vectors = call.windows.positions() <= kFewPositions;
  dispatch_index(indices.scalar_type(), [&](auto index) {
    using Index = decltype(index);
    dispatch_bits(g.scalar_type(), [&](auto zero) {
      using T = decltype(zero);
      const bool rows = dispatch_rows<T, Index>(call, g, d_input, indices, [&](auto bytes) {
        run_unpool(launch, op, call, row_items<bytes, T>(call, call.pooled_rows()),
                   unpool_rows_backward_kernel<bytes, T, Index>, g, indices, d_input);
      });
      if (rows) return;
      dispatch_channels<T, Index>(call, g, d_input, indices, vectors, [&](auto size, auto i) {
        using I = decltype(i);
        if constexpr (size > 1) {
          return run_unpool(launch, op, call, pooled_items<I>(call, size),
                            choose_kernel<size, T, Index>, g, indices, d_input);
        } else {
          run_unpool(launch, op, call, pooled_items<I>(call, 1), place_kernel<T, Index, I>, g,
                     indices, d_input);
        }
      });
    });
  });
  return d_input;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pyaegpu_cuda, CUDA, m) {
  m.impl("max_pool_fwd", TORCH_BOX(&max_pool_fwd));
  m.impl("max_pool_bwd", TORCH_BOX(&max_pool_bwd));
  m.impl("max_unpool_fwd", TORCH_BOX(&max_unpool_fwd));
  m.impl("max_unpool_bwd", TORCH_BOX(&max_unpool_bwd));
}

}  // namespace pyaegpu::cuda
