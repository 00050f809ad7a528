// Philox 4x32-10: word j of quad q is a function of (seed, offset, q) alone, so that any thread can
// draw any element's noise, and draw it again. Source: Salmon, Moraes, Dror and Shaw, "Parallel
// random numbers: as easy as 1, 2, 3", SC 2011.
#pragma once

#include "math.h"

namespace pyaegpu {

struct Quad {
  uint32_t x0, x1, x2, x3;
};

constexpr int kPhiloxRounds = 10;
constexpr uint32_t kPhiloxA = 0xD2511F53u, kPhiloxB = 0xCD9E8D57u;
constexpr uint32_t kPhiloxKeyA = 0x9E3779B9u, kPhiloxKeyB = 0xBB67AE85u;

PYAEGPU_HD Quad philox(Quad counter, uint32_t key0, uint32_t key1) {
  auto [c0, c1, c2, c3] = counter;
  PYAEGPU_UNROLL
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t a = uint64_t(kPhiloxA) * c0;
    const uint64_t b = uint64_t(kPhiloxB) * c2;
    c0 = uint32_t(b >> 32) ^ c1 ^ key0;
    c2 = uint32_t(a >> 32) ^ c3 ^ key1;
    c1 = uint32_t(b);
    c3 = uint32_t(a);
    key0 += kPhiloxKeyA;
    key1 += kPhiloxKeyB;
  }
  return {c0, c1, c2, c3};
}

// One draw of a tensor's noise. The offset, in Philox calls, goes where torch's own kernels count
// theirs, the quad where they put the thread, so that draws at other offsets share no counter.
struct Noise {
  uint64_t seed, offset;

  PYAEGPU_HD Quad quad(uint64_t index) const {
    const Quad counter{uint32_t(offset), uint32_t(offset >> 32), uint32_t(index),
                       uint32_t(index >> 32)};
    return philox(counter, uint32_t(seed), uint32_t(seed >> 32));
  }
};

constexpr int kQuad = 4;

namespace detail {

// sin(t) and cos(t) for |t| <= pi / 4: in float by polynomials that are right to 4e-9, else by
// their series.
template <typename A>
struct SinCos {
  A sin, cos;
};

PYAEGPU_HD SinCos<float> sin_cos_of_small(float t) {
  const float s = t * t;
  const float sin = (s * -0.0001951729843f + 0.008332178142f) * s - 0.1666665494f;
  const float cos = (s * 2.439045016e-5f - 0.001388676379f) * s + 0.04166662332f;
  return {sin * s * t + t, (cos * s - 0.4999999973f) * s + 1.0f};
}

PYAEGPU_HD SinCos<double> sin_cos_of_small(double t) {
  const double s = t * t;
  double sin = 1, cos = 1;
  PYAEGPU_UNROLL
  for (int k = 9; k > 0; --k) {
    sin = 1 - sin * s * (1.0 / (2 * k * (2 * k + 1)));
    cos = 1 - cos * s * (1.0 / ((2 * k - 1) * 2 * k));
  }
  return {sin * t, cos};
}

// On a GPU the exact square root of float takes a correction that a radius does not need.
template <typename A>
PYAEGPU_HD A radius_root(A x) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(A) == sizeof(float)) {
    float root;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(x));
    return root;
  }
#endif
  return std::sqrt(x);
}

}  // namespace detail

template <typename A>
struct NormalPair {
  A first, second;
};

// Two independent standard normals (Box and Muller 1958) of two words: the radius from the first,
// the angle, in quadrants with an exact remainder, from the second.
template <typename A>
PYAEGPU_HD NormalPair<A> normal_pair(uint32_t a, uint32_t b) {
  constexpr double kWord = 1.0 / 4294967296.0;
  const A uniform = A(a) * A(kWord) + A(0.5 * kWord);
  const A radius = detail::radius_root(A(-2) * log_of_normal(uniform));
  const uint32_t quadrant = (b + 0x20000000u) >> 30;
  const int32_t rest = int32_t(b - (quadrant << 30));
  const auto [s, c] = detail::sin_cos_of_small(A(rest) * A(3.14159265358979323846 * 2 * kWord));
  const bool odd = (quadrant & 1u) != 0;
  const A x = odd ? s : c, y = odd ? c : s;
  return {radius * (((quadrant + 1u) & 2u) != 0 ? -x : x),
          radius * ((quadrant & 2u) != 0 ? -y : y)};
}

}  // namespace pyaegpu
