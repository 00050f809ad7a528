// Tensors as the kernels walk them: the dtype switch, accumulator types and memory layouts.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

namespace pyaegpu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Sums are kept in float64 for float64, in float32 for every other dtype.
template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

inline ScalarType accumulator(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Calls f with a zero of the C++ type of `dtype`.
template <typename F>
auto dispatch(ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Double:
      return f(double{});
    case ScalarType::Float:
      return f(float{});
    case ScalarType::Half:
      return f(torch::headeronly::Half{});
    case ScalarType::BFloat16:
      return f(torch::headeronly::BFloat16{});
    default:
      STD_TORCH_CHECK(false, "pyaegpu: expected float64, float32, float16 or bfloat16, got ",
                      torch::headeronly::toString(dtype));
  }
}

// Whether the elements fill one block of memory, each once, in any order of the dimensions.
inline bool is_dense(const Tensor& t) {
  std::vector<std::pair<int64_t, int64_t>> dims;
  for (int64_t d = 0; d < t.dim(); ++d) {
    if (t.size(d) != 1) dims.emplace_back(t.stride(d), t.size(d));
  }
  std::sort(dims.begin(), dims.end());
  int64_t expected = 1;
  for (const auto& [stride, size] : dims) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

// The tensor itself where it can be walked as one block (rows: with dim 0 outermost), else a
// contiguous copy.
inline Tensor dense(const Tensor& t, bool rows) {
  if (t.is_contiguous()) return t;
  const bool outermost = !rows || t.stride(0) * t.size(0) == t.numel();
  return outermost && is_dense(t) ? t : torch::stable::contiguous(t);
}

inline bool same_strides(const Tensor& a, const Tensor& b) {
  for (int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) != 1 && a.stride(d) != b.stride(d)) return false;
  }
  return true;
}

// `t` in the strides and dtype of the dense tensor `like`, of the same shape.
inline Tensor matched(const Tensor& t, const Tensor& like) {
  if (same_strides(t, like) && t.scalar_type() == like.scalar_type()) return t;
  Tensor copy = torch::stable::empty_like(like);
  return torch::stable::copy_(copy, t);
}

inline std::optional<Tensor> matched(const std::optional<Tensor>& t, const Tensor& like) {
  return t ? std::optional<Tensor>(matched(*t, like)) : std::nullopt;
}

inline Tensor new_empty(const Tensor& like, const std::vector<int64_t>& shape, ScalarType dtype) {
  return torch::stable::new_empty(
      like, torch::headeronly::IntHeaderOnlyArrayRef(shape.data(), shape.size()), dtype);
}

// [N, C, *spatial] of the dtype and device of `like`; two or three spatial dimensions can be
// channels last.
inline Tensor new_images(const Tensor& like, const std::vector<int64_t>& shape,
                         bool channels_last) {
  using torch::headeronly::MemoryFormat;
  return torch::stable::empty(torch::headeronly::IntHeaderOnlyArrayRef(shape.data(), shape.size()),
                              like.scalar_type(), std::nullopt, like.device(), std::nullopt,
                              !channels_last      ? MemoryFormat::Contiguous
                              : shape.size() == 5 ? MemoryFormat::ChannelsLast3d
                                                  : MemoryFormat::ChannelsLast);
}

inline std::vector<int64_t> shape_of(const Tensor& t, int64_t first = 0) {
  const auto sizes = t.sizes();
  return std::vector<int64_t>(sizes.begin() + first, sizes.end());
}

inline Tensor contiguous_like(const Tensor& t) {
  return new_empty(t, shape_of(t), t.scalar_type());
}

// What an op returns in place of a result that was not asked for.
inline Tensor none_like(const Tensor& t) { return new_empty(t, {0}, t.scalar_type()); }

// A tensor whose dim-0 rows are each contiguous, any distance apart.
struct Rows {
  Tensor tensor;
  int64_t width, stride;

  bool contiguous() const { return stride == width || tensor.numel() <= width; }
};

inline Rows rows_of(const Tensor& t) {
  if (t.dim() == 0) return {t, 1, 1};
  int64_t width = 1;
  for (int64_t d = 1; d < t.dim(); ++d) width *= t.size(d);
  int64_t expected = 1;
  for (int64_t d = t.dim() - 1; d > 0; --d) {
    if (t.size(d) != 1 && t.stride(d) != expected) {
      return {torch::stable::contiguous(t), width, width};
    }
    expected *= t.size(d);
  }
  return {t, width, t.stride(0)};
}

}  // namespace pyaegpu
