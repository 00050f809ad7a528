// Activation, reconstruction loss and the gradient before the activation, of logits tile by tile.
#pragma once

#include <atomic>

#include "activate.h"
#include "reconstruction.h"

namespace pyaegpu::cpu {

template <typename T>
class LossPass {
 public:
  using A = Accumulator<T>;

  LossPass(int64_t activation, double slope, int64_t kind, double factor, bool need_grad)
      : activation_(activation),
        slope_(A(slope)),
        factor_(A(factor)),
        bounded_(kind == kBce),
        need_grad_(need_grad),
        loss_(need_grad ? loss_tile_of<true, true, A>(kind) : loss_tile_of<true, false, A>(kind)) {}

  // Of n logits, at most kTile.
  void activate(A* x, int64_t n) const {
    dispatch_activation(activation_, [&](auto activation) {
      constexpr int64_t kActivation = decltype(activation)::value;
      if constexpr (kActivation != kNoActivation) activate_all<kActivation>(x, slope_, n);
    });
  }

  // The sum of the losses of n logits, which become their activations; where it is needed, `grad`
  // gets the factor times the sum's derivative in each.
  double run(A* x, const T* target, T* grad, int64_t n) const {
    A t_buffer[kTile], loss[kTile], g_buffer[kTile];
    const A* t = load(target, t_buffer, n);
    A* g = need_grad_ ? target_of(grad, g_buffer) : nullptr;
    activate(x, n);
    if (bounded_ && any_outside(x, t, n)) outside_.store(true, std::memory_order_relaxed);
    loss_(x, t, loss, g, n, A(1), factor_);
    if (need_grad_) {
      dispatch_activation(activation_, [&](auto activation) {
        constexpr int64_t kActivation = decltype(activation)::value;
        if constexpr (kActivation != kNoActivation) differentiate_all<kActivation>(g, x, slope_, n);
      });
      store(grad, g, n);
    }
    return double(sum_of(loss, n));
  }

  // Whether `bce` was given what lies outside [0, 1].
  bool outside() const { return outside_.load(); }

 private:
  int64_t activation_;
  A slope_, factor_;
  bool bounded_, need_grad_;
  LossTile<A> loss_;
  mutable std::atomic<bool> outside_{false};
};

// Raises what reconstruction_loss says of values outside [0, 1].
template <typename T>
void refuse_outside(const Tensor& recon, const Tensor& target) {
  reconstruction_sums<T>(Reconstruction(recon, target, std::nullopt, kBce, 1.0, kTotal, 1.0),
                         static_cast<T*>(nullptr));
}

}  // namespace pyaegpu::cpu
