// Activations of runs of values in place, and their derivatives.
#pragma once

#include "../common/activations.h"
#include "../common/macros.h"

namespace pyaegpu::cpu {

template <int64_t ACTIVATION, typename A>
PYAEGPU_CLONES static void activate_all(A* __restrict__ values, A slope, int64_t n) {
  for (int64_t i = 0; i < n; ++i) values[i] = activate<ACTIVATION>(values[i], slope);
}

template <int64_t ACTIVATION, typename A>
PYAEGPU_CLONES static void differentiate_all(A* __restrict__ g, const A* __restrict__ out, A slope,
                                             int64_t n) {
  for (int64_t i = 0; i < n; ++i) g[i] = activation_gradient<ACTIVATION>(g[i], out[i], slope);
}

}  // namespace pyaegpu::cpu
