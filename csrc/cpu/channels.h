// How the channels of a layer's output lie in memory, and what each channel has one of.
#pragma once

#include <optional>
#include <vector>

#include "../common/tensor.h"

namespace pyaegpu::cpu {

using MaybeTensor = std::optional<Tensor>;

// [N, C, *spatial] in memory: either runs of one channel each, or the channels of one pixel after
// another.
struct Channels {
  int64_t total, count, run;

  explicit Channels(const Tensor& t) : total(t.numel()), count(t.size(1)), run(1) {
    for (int64_t d = 2; d < t.dim(); ++d) run *= t.size(d);
    if (count > 1 && run > 1 && t.stride(1) == 1) run = 1;
  }

  int64_t per_channel() const { return total / count; }
  // Shorter runs are walked as columns, one for each place of a run.
  bool in_columns() const { return run < 32; }
  int64_t width() const { return count * run; }
};

// Parameter `t`, or `missing` for every channel where there is none.
template <typename A>
std::vector<A> parameter(const MaybeTensor& t, int64_t channels, A missing) {
  std::vector<A> values(channels, missing);
  if (!t) return values;
  dispatch(t->scalar_type(), [&](auto zero) {
    const auto* data = t->const_data_ptr<decltype(zero)>();
    for (int64_t c = 0; c < channels; ++c) values[c] = static_cast<A>(data[c * t->stride(0)]);
  });
  return values;
}

// The inverse of `parameter`.
template <typename A>
Tensor parameter_from(const std::vector<A>& values, const Tensor& like, ScalarType dtype) {
  Tensor result = new_empty(like, {int64_t(values.size())}, dtype);
  dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    T* data = result.mutable_data_ptr<T>();
    for (size_t c = 0; c < values.size(); ++c) data[c] = static_cast<T>(values[c]);
  });
  return result;
}

}  // namespace pyaegpu::cpu
