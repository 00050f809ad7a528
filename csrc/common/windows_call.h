// The windows of a pooling from the arguments of its ops.
#pragma once

#include <vector>

#include "tensor.h"
#include "windows.h"

namespace pyaegpu {

// Sizes and window have a number for each of one to three spatial dimensions. I: an integer that
// holds the element count of the image.
template <typename I>
Windows<I> windows_of(const std::vector<int64_t>& image, const std::vector<int64_t>& pooled,
                      const std::vector<int64_t>& kernel, const std::vector<int64_t>& stride,
                      const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation) {
  const size_t dims = image.size();
  STD_TORCH_CHECK(dims >= 1 && dims <= 3, "pyaegpu: one to three spatial dimensions are served");
  for (const auto* list : {&pooled, &kernel, &stride, &padding, &dilation}) {
    STD_TORCH_CHECK(list->size() == dims, "pyaegpu: expected a number for each of ", dims,
                    " spatial dimensions, got ", list->size());
  }
  const WindowAxis<I> single{1, 1, 1, 1, 0, 1};
  Windows<I> windows{{single, single, single}};
  for (size_t d = 0; d < dims; ++d) {
    STD_TORCH_CHECK(kernel[d] > 0 && stride[d] > 0 && padding[d] >= 0 && dilation[d] > 0,
                    "pyaegpu: kernel, stride and dilation must be positive, padding not negative");
    windows.axes[3 - dims + d] = {I(image[d]),  I(pooled[d]),  I(kernel[d]),
                                  I(stride[d]), I(padding[d]), I(dilation[d])};
  }
  return windows;
}

// [N, C, *spatial] in the memory format of the call, without a copy where it already is.
inline Tensor in_format(const Tensor& t, bool channels_last) {
  return matched(t, new_images(t, shape_of(t), channels_last));
}

}  // namespace pyaegpu
