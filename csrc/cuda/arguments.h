// Arguments and results as the ops of this folder share them.
#pragma once

#include <optional>
#include <vector>

#include "../common/losses.h"
#include "../common/tensor.h"

namespace pyaegpu::cuda {

using MaybeTensor = std::optional<Tensor>;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows that a reduction sums separately: one for a total.
inline int64_t rows_of_reduction(const Tensor& t, int64_t reduction) {
  return reduction == kRows ? t.size(0) : 1;
}

template <typename A>
struct Strided {
  const A* data = nullptr;
  int64_t stride = 0;
};

// An upstream gradient in the accumulator's dtype; `keep` holds a converted copy alive until the
// launch.
template <typename A>
Strided<A> upstream(const MaybeTensor& g, ScalarType dtype, std::vector<Tensor>& keep) {
  if (!g) return {};
  keep.push_back(torch::stable::to(*g, dtype));
  return {keep.back().template const_data_ptr<A>(), g->dim() == 0 ? 0 : keep.back().stride(0)};
}

inline std::vector<int64_t> result_shape(int64_t rows, int64_t reduction) {
  return reduction == kRows ? std::vector<int64_t>{rows} : std::vector<int64_t>{};
}

}  // namespace pyaegpu::cuda
