// Activations of a layer's output, and their derivatives as functions of that output.
#pragma once

#include <cstdint>
#include <type_traits>

#include "math.h"

namespace pyaegpu {

// In the order of pyaegpu/reference/activations.py.
enum Activation : int64_t { kNoActivation, kRelu, kLeakyRelu, kTanh, kSigmoid };

// Calls f with the activation as a compile-time constant, so that loops hold no switch.
template <typename F>
void dispatch_activation(int64_t activation, const F& f) {
  switch (activation) {
    case kRelu:
      return f(std::integral_constant<int64_t, kRelu>{});
    case kLeakyRelu:
      return f(std::integral_constant<int64_t, kLeakyRelu>{});
    case kTanh:
      return f(std::integral_constant<int64_t, kTanh>{});
    case kSigmoid:
      return f(std::integral_constant<int64_t, kSigmoid>{});
    default:
      return f(std::integral_constant<int64_t, kNoActivation>{});
  }
}

template <typename A>
PYAEGPU_HD A tanh_of(A x) {
#if defined(__CUDA_ARCH__)
  return ::tanh(x);
#else
  // Of -2|x|, which cannot overflow.
  const A magnitude = x < A(0) ? -x : x;
  const A e = expm1_pair(A(-2) * magnitude).value;
  const A value = -e / (e + A(2));
  return x < A(0) ? -value : value;
#endif
}

// `slope` is read by kLeakyRelu only, and at least 0 there.
template <int64_t ACTIVATION, typename A>
PYAEGPU_HD A activate(A x, A slope) {
  if constexpr (ACTIVATION == kRelu) return x <= A(0) ? A(0) : x;  // NaN stays
  if constexpr (ACTIVATION == kLeakyRelu) return x > A(0) ? x : x * slope;
  if constexpr (ACTIVATION == kTanh) return tanh_of(x);
  if constexpr (ACTIVATION == kSigmoid) return A(1) / (A(1) + fast_exp(-x));
  return x;
}

// The gradient at the activation's input, from that at its output and the output itself.
template <int64_t ACTIVATION, typename A>
PYAEGPU_HD A activation_gradient(A g, A out, A slope) {
  if constexpr (ACTIVATION == kRelu) return out <= A(0) ? A(0) : g;
  if constexpr (ACTIVATION == kLeakyRelu) return out > A(0) ? g : g * slope;
  if constexpr (ACTIVATION == kTanh) return g * (A(1) - out * out);
  if constexpr (ACTIVATION == kSigmoid) return g * (A(1) - out) * out;
  return g;
}

// The same from the activation's input: its sign decides, so that leaky_relu's slope may be
// negative, and nothing cancels where tanh or sigmoid are near their limits.
template <int64_t ACTIVATION, typename A>
PYAEGPU_HD A gradient_before(A g, A in, A slope) {
  if constexpr (ACTIVATION == kTanh || ACTIVATION == kSigmoid) {
    const A size = in < A(0) ? -in : in;
    const A e = fast_exp(ACTIVATION == kTanh ? A(-2) * size : -size);
    const A factor = ACTIVATION == kTanh ? A(4) : A(1);
    return g * (factor * e / ((A(1) + e) * (A(1) + e)));
  }
  return activation_gradient<ACTIVATION>(g, in, slope);
}

}  // namespace pyaegpu
