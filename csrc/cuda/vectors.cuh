// Memory accesses of 16 bytes.
#pragma once

namespace pyaegpu::cuda {

template <typename T>
struct alignas(16) Vector {
  static constexpr int kSize = 16 / sizeof(T);
  T values[kSize];
};

// One store of 16 bytes: assigned as a Vector, 2-byte elements would be stored one by one.
__device__ inline void store16(void* to, const void* from) {
  unsigned words[4];
  __builtin_memcpy(words, from, sizeof(words));
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(words[0]), "r"(words[1]),
               "r"(words[2]), "r"(words[3])
               : "memory");
}

// N is a whole vector or one element.
template <int N, typename T>
__device__ void read(const T* from, Vector<T>& to) {
  if constexpr (N == 1) {
    to.values[0] = *from;
  } else {
    to = *reinterpret_cast<const Vector<T>*>(from);
  }
}

template <int N, typename T>
__device__ void write(T* to, const Vector<T>& from) {
  if constexpr (N == 1) {
    *to = from.values[0];
  } else {
    store16(to, &from);
  }
}

}  // namespace pyaegpu::cuda
