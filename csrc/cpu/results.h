// Results and upstream gradients of the ops that sum over rows.
#pragma once

#include <optional>
#include <vector>

#include "../common/losses.h"
#include "../common/tensor.h"

namespace pyaegpu::cpu {

using MaybeTensor = std::optional<Tensor>;

// `values` as a tensor in the accumulator's dtype: 0-d for a total, else one for each row.
inline Tensor as_result(const std::vector<double>& values, const Tensor& like, int64_t reduction) {
  std::vector<int64_t> shape;
  if (reduction == kRows) shape.push_back(values.size());
  const ScalarType dtype = accumulator(like.scalar_type());
  Tensor result = new_empty(like, shape, dtype);
  dispatch(dtype, [&](auto zero) {
    using A = decltype(zero);
    A* out = result.mutable_data_ptr<A>();
    for (size_t i = 0; i < values.size(); ++i) out[i] = static_cast<A>(values[i]);
  });
  return result;
}

// An upstream gradient of one value for each of `rows`, as doubles; zeros where there is none.
inline std::vector<double> upstream_rows(const MaybeTensor& g, int64_t rows) {
  std::vector<double> values(rows, 0.0);
  if (!g) return values;
  const int64_t stride = g->dim() == 0 ? 0 : g->stride(0);
  dispatch(g->scalar_type(), [&](auto zero) {
    const auto* data = g->const_data_ptr<decltype(zero)>();
    for (int64_t r = 0; r < rows; ++r) values[r] = static_cast<double>(data[r * stride]);
  });
  return values;
}

}  // namespace pyaegpu::cpu
