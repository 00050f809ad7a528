// The axes of a transposed convolution from the arguments of its ops.
#pragma once

#include <algorithm>
#include <vector>

#include "conv_transpose.h"
#include "tensor.h"

namespace pyaegpu {

// Height (d = 0) or width (d = 1) of the result.
inline int64_t output_size(const Tensor& input, const Tensor& weight, int d,
                           const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                           const std::vector<int64_t>& output_padding) {
  return (input.size(2 + d) - 1) * stride[d] - 2 * padding[d] + weight.size(2 + d) +
         output_padding[d];
}

inline Axis axis_of(const Tensor& input, const Tensor& weight, int64_t outputs, int d,
                    const std::vector<int64_t>& stride, const std::vector<int64_t>& padding) {
  const int64_t inputs = input.size(2 + d), kernel = weight.size(2 + d);
  STD_TORCH_CHECK(std::max(inputs, outputs) <= kMostSize, "pyaegpu: planes up to ", kMostSize,
                  " wide or high are served");
  STD_TORCH_CHECK(std::max({kernel, stride[d], padding[d]}) <= kMostStep,
                  "pyaegpu: kernel, stride and padding up to ", kMostStep, " are served");
  return {int(inputs), int(outputs), int(kernel), int(stride[d]), int(padding[d])};
}

}  // namespace pyaegpu
