// The reconstruction part of the loss family: sums, elementwise values and gradients.
#pragma once

#include <atomic>
#include <limits>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "../common/losses.h"
#include "tiles.h"

namespace pyaegpu::cpu {

struct Reconstruction {
  Tensor recon, target;
  std::optional<Tensor> weight;
  int64_t kind, reduction;
  double threshold, factor;

  Reconstruction(const Tensor& recon_, const Tensor& target_, const std::optional<Tensor>& weight_,
                 int64_t kind_, double threshold_, int64_t reduction_, double factor_)
      : recon(dense(recon_, reduction_ == kRows)),
        target(matched(target_, recon)),
        weight(matched(weight_, recon)),
        kind(kind_),
        reduction(reduction_),
        threshold(threshold_),
        factor(factor_) {}

  Split split() const {
    const int64_t numel = recon.numel();
    if (reduction != kRows) return Split(1, numel);
    const int64_t rows = recon.size(0);
    return Split(rows, rows == 0 ? 0 : numel / rows);
  }
};

template <int KIND, bool LOSS, bool GRAD, typename A>
PYAEGPU_CLONES static void loss_tile(const A* __restrict__ x, const A* __restrict__ t,
                                     A* __restrict__ loss, A* __restrict__ grad, int64_t n,
                                     A threshold, A factor) {
  for (int64_t i = 0; i < n; ++i) {
    const LossPoint<A> point = loss_point<KIND>(x[i], t[i], threshold);
    if constexpr (LOSS) loss[i] = point.loss;
    if constexpr (GRAD) grad[i] = point.grad * factor;
  }
}

template <typename A>
using LossTile = void (*)(const A* __restrict__, const A* __restrict__, A* __restrict__,
                          A* __restrict__, int64_t, A, A);

template <bool LOSS, bool GRAD, typename A>
LossTile<A> loss_tile_of(int64_t kind) {
  switch (kind) {
    case kBce:
      return loss_tile<kBce, LOSS, GRAD, A>;
    case kBceLogits:
      return loss_tile<kBceLogits, LOSS, GRAD, A>;
    case kMse:
      return loss_tile<kMse, LOSS, GRAD, A>;
    case kL1:
      return loss_tile<kL1, LOSS, GRAD, A>;
    case kSmoothL1:
      return loss_tile<kSmoothL1, LOSS, GRAD, A>;
    default:
      STD_TORCH_CHECK(false, "pyaegpu: unknown kind of loss ", kind);
  }
}

template <typename A>
PYAEGPU_CLONES static int any_outside(const A* __restrict__ x, const A* __restrict__ t, int64_t n) {
  int outside = 0;
#pragma omp simd reduction(| : outside)
  for (int64_t i = 0; i < n; ++i) {
    outside |= !(x[i] >= A(0)) | !(x[i] <= A(1)) | !(t[i] >= A(0)) | !(t[i] <= A(1));
  }
  return outside;
}

// Remembers the first tile with a value outside [0, 1]: parallel_for would lose the text of an
// exception.
class UnitInterval {
 public:
  void note(int64_t begin) {
    int64_t seen = first_.load(std::memory_order_relaxed);
    while (begin < seen && !first_.compare_exchange_weak(seen, begin)) {
    }
  }

  template <typename T>
  void raise(const T* recon, const T* target, int64_t numel) const {
    const int64_t begin = first_.load();
    if (begin == kNone_) return;
    for (int64_t i = begin; i < std::min(begin + kTile, numel); ++i) {
      check("recon", double(recon[i]), i);
      check("target", double(target[i]), i);
    }
  }

 private:
  static void check(const char* name, double value, int64_t index) {
    if (in_unit_interval(value)) return;
    std::ostringstream message;
    message << "all elements of " << name << " should be between 0 and 1 for kind 'bce'; found "
            << value << " at position " << index
            << " of its memory. kind='bce_logits' takes any value.";
    throw std::runtime_error(message.str());
  }

  static constexpr int64_t kNone_ = std::numeric_limits<int64_t>::max();
  std::atomic<int64_t> first_{kNone_};
};

// factor * sum of the losses in each row; with `grad`, also factor * dloss/drecon in one pass.
template <typename T>
std::vector<double> reconstruction_sums(const Reconstruction& call, T* grad) {
  using A = Accumulator<T>;
  const Split split = call.split();
  const T* recon = call.recon.template const_data_ptr<T>();
  const T* target = call.target.template const_data_ptr<T>();
  const T* weight = call.weight ? call.weight->template const_data_ptr<T>() : nullptr;
  const auto tile =
      grad ? loss_tile_of<true, true, A>(call.kind) : loss_tile_of<true, false, A>(call.kind);
  Sums sums(split);
  UnitInterval interval;
  for_each_tile(split, [&](int64_t i, int64_t n, int64_t) {
    A x_buffer[kTile], t_buffer[kTile], w_buffer[kTile], loss[kTile], grad_buffer[kTile];
    const A* x = load(recon + i, x_buffer, n);
    const A* t = load(target + i, t_buffer, n);
    A* out = grad ? target_of(grad + i, grad_buffer) : nullptr;
    if (call.kind == kBce && any_outside(x, t, n)) interval.note(i);
    tile(x, t, loss, out, n, A(call.threshold), A(call.factor));
    if (weight) {
      const A* w = load(weight + i, w_buffer, n);
      multiply(loss, w, n);
      if (grad) multiply(out, w, n);
    }
    if (grad) store(grad + i, out, n);
    sums.add(loss, i, n);
  });
  interval.raise(recon, target, call.recon.numel());
  std::vector<double> values(split.rows);
  for (int64_t r = 0; r < split.rows; ++r) values[r] = call.factor * sums.row(r);
  return values;
}

// factor * loss of every element.
template <typename T>
void reconstruction_values(const Reconstruction& call, T* value) {
  using A = Accumulator<T>;
  const T* recon = call.recon.template const_data_ptr<T>();
  const T* target = call.target.template const_data_ptr<T>();
  const T* weight = call.weight ? call.weight->template const_data_ptr<T>() : nullptr;
  const auto tile = loss_tile_of<true, false, A>(call.kind);
  UnitInterval interval;
  for_each_tile(call.split(), [&](int64_t i, int64_t n, int64_t) {
    A x_buffer[kTile], t_buffer[kTile], w_buffer[kTile], loss_buffer[kTile];
    const A* x = load(recon + i, x_buffer, n);
    const A* t = load(target + i, t_buffer, n);
    A* loss = target_of(value + i, loss_buffer);
    if (call.kind == kBce && any_outside(x, t, n)) interval.note(i);
    tile(x, t, loss, nullptr, n, A(call.threshold), A(1));
    scale(loss, A(call.factor), n);
    if (weight) multiply(loss, load(weight + i, w_buffer, n), n);
    store(value + i, loss, n);
  });
  interval.raise(recon, target, call.recon.numel());
}

// Multiplies values[begin, begin + n) by the factor of the row each belongs to.
template <typename A>
void scale_by_row(A* values, const std::vector<double>& by, const Split& split, int64_t begin,
                  int64_t n) {
  for (int64_t i = begin, end = begin + n; i < end;) {
    const int64_t stop = split.row_end(i, end);
    const double factor = by[i / split.inner];
    if (factor != 1.0) scale(values + (i - begin), A(factor), stop - i);
    i = stop;
  }
}

// grad = upstream * factor * dloss/drecon: upstream is one value for each row, or with `each` one
// for each element.
template <typename T>
void reconstruction_gradient(const Reconstruction& call, const std::vector<double>& by_row,
                             const T* each, T* grad) {
  using A = Accumulator<T>;
  const Split split = call.split();
  const T* recon = call.recon.template const_data_ptr<T>();
  const T* target = call.target.template const_data_ptr<T>();
  const T* weight = call.weight ? call.weight->template const_data_ptr<T>() : nullptr;
  const auto tile = loss_tile_of<false, true, A>(call.kind);
  for_each_tile(split, [&](int64_t i, int64_t n, int64_t) {
    A x_buffer[kTile], t_buffer[kTile], w_buffer[kTile], grad_buffer[kTile];
    A* out = target_of(grad + i, grad_buffer);
    tile(load(recon + i, x_buffer, n), load(target + i, t_buffer, n), nullptr, out, n,
         A(call.threshold), A(call.factor));
    if (weight) multiply(out, load(weight + i, w_buffer, n), n);
    if (each) {
      multiply(out, load(each + i, w_buffer, n), n);
    } else {
      scale_by_row(out, by_row, split, i, n);
    }
    store(grad + i, out, n);
  });
}

// grad *= upstream of its row; rows whose upstream is exactly 1 are not touched.
template <typename T>
void scale_gradient(T* grad, const std::vector<double>& by_row, const Split& split) {
  using A = Accumulator<T>;
  if (std::all_of(by_row.begin(), by_row.end(), [](double g) { return g == 1.0; })) return;
  for_each_tile(split, [&](int64_t i, int64_t n, int64_t) {
    A buffer[kTile];
    A* values = target_of(grad + i, buffer);
    if constexpr (!std::is_same_v<T, A>) widen(grad + i, values, n);
    scale_by_row(values, by_row, split, i, n);
    store(grad + i, values, n);
  });
}

}  // namespace pyaegpu::cpu
