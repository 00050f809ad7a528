// Activations that a kernel takes as an argument: one branch for all of its threads.
#pragma once

#include "../common/activations.h"

namespace pyaegpu::cuda {

template <typename A>
__device__ A activate_by(int64_t activation, A x, A slope) {
  switch (activation) {
    case kRelu:
      return activate<kRelu>(x, slope);
    case kLeakyRelu:
      return activate<kLeakyRelu>(x, slope);
    case kTanh:
      return activate<kTanh>(x, slope);
    case kSigmoid:
      return activate<kSigmoid>(x, slope);
    default:
      return x;
  }
}

template <typename A>
__device__ A gradient_by(int64_t activation, A g, A out, A slope) {
  switch (activation) {
    case kRelu:
      return activation_gradient<kRelu>(g, out, slope);
    case kLeakyRelu:
      return activation_gradient<kLeakyRelu>(g, out, slope);
    case kTanh:
      return activation_gradient<kTanh>(g, out, slope);
    case kSigmoid:
      return activation_gradient<kSigmoid>(g, out, slope);
    default:
      return g;
  }
}

}  // namespace pyaegpu::cuda
