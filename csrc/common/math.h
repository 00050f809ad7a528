// exp, expm1, log and log1p without branches or calls, so that the loops around them vectorise;
// right for NaN, Inf and zero. On a GPU the device's own functions serve.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "macros.h"

namespace pyaegpu {

template <typename A>
struct FloatTraits;

template <>
struct FloatTraits<float> {
  using Bits = int32_t;
  static constexpr int kMantissa = 23;
  static constexpr int kBias = 127;
  static constexpr Bits kSqrtHalfBits = 0x3f3504f3;
  static constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float kLn2Hi = 0.693359375f;
  static constexpr float kLn2Lo = -2.12194440e-4f;
  static constexpr float kExpMin = -104.0f, kExpMax = 89.0f, kExpMinNormal = -87.33f;
  static constexpr int kExpTerms = 6, kLogTerms = 5;
};

template <>
struct FloatTraits<double> {
  using Bits = int64_t;
  static constexpr int kMantissa = 52;
  static constexpr int kBias = 1023;
  static constexpr Bits kSqrtHalfBits = 0x3fe6a09e667f3bcd;
  static constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLn2Hi = 6.93147180369123816490e-01;
  static constexpr double kLn2Lo = 1.90821492927058770002e-10;
  static constexpr double kExpMin = -746.0, kExpMax = 710.0, kExpMinNormal = -708.39;
  static constexpr int kExpTerms = 12, kLogTerms = 11;
};

namespace detail {

template <typename To, typename From>
PYAEGPU_HD To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

// (e^r - 1 - r) / r^2 = 1/2! + r/3! + ... for |r| <= ln(2) / 2.
template <typename A>
PYAEGPU_HD A exp_tail(A r) {
  constexpr double kInverseFactorial[] = {0.5,
                                          1.0 / 6,
                                          1.0 / 24,
                                          1.0 / 120,
                                          1.0 / 720,
                                          1.0 / 5040,
                                          1.0 / 40320.0,
                                          1.0 / 362880.0,
                                          1.0 / 3628800.0,
                                          1.0 / 39916800.0,
                                          1.0 / 479001600.0,
                                          1.0 / 6227020800.0};
  A sum = A(kInverseFactorial[FloatTraits<A>::kExpTerms - 1]);
  PYAEGPU_UNROLL
  for (int k = FloatTraits<A>::kExpTerms - 2; k >= 0; --k) {
    sum = sum * r + A(kInverseFactorial[k]);
  }
  return sum;
}

// x = n ln 2 + r with |r| <= ln(2) / 2.
template <typename A>
struct Reduced {
  A r;
  typename FloatTraits<A>::Bits n;
};

template <typename A>
PYAEGPU_HD Reduced<A> reduced(A x) {
  using Traits = FloatTraits<A>;
  using Bits = typename Traits::Bits;
  const A shifted = x * A(1.44269504088896340736) + Traits::kMagic;
  const A whole = shifted - Traits::kMagic;
  return {(x - whole * Traits::kLn2Hi) - whole * Traits::kLn2Lo,
          bits_as<Bits>(shifted) - bits_as<Bits>(Traits::kMagic)};
}

// 2^n for an exponent of normal numbers.
template <typename A>
PYAEGPU_HD A power_of_two(typename FloatTraits<A>::Bits n) {
  return bits_as<A>((n + FloatTraits<A>::kBias) << FloatTraits<A>::kMantissa);
}

// 2^n is low * high, so that neither overflows where the result does not.
template <typename A>
struct ExpParts {
  A r, low, high;
  typename FloatTraits<A>::Bits n;
};

template <typename A>
PYAEGPU_HD ExpParts<A> exp_parts(A x) {
  using Traits = FloatTraits<A>;
  // Written so that NaN passes both comparisons unchanged.
  x = x < Traits::kExpMin ? Traits::kExpMin : x;
  x = x > Traits::kExpMax ? Traits::kExpMax : x;
  const Reduced<A> y = reduced(x);
  const auto half = y.n >> 1;
  return {y.r, power_of_two<A>(half), power_of_two<A>(y.n - half), y.n};
}

// 2 artanh(s) = log((1 + s) / (1 - s)) for |s| <= 0.172.
template <typename A>
PYAEGPU_HD A log_from_ratio(A s) {
  using Traits = FloatTraits<A>;
  const A s2 = s * s;
  A sum = A(2.0 / (2 * Traits::kLogTerms - 1));
  PYAEGPU_UNROLL
  for (int k = Traits::kLogTerms - 2; k >= 0; --k) {
    sum = sum * s2 + A(2.0 / (2 * k + 1));
  }
  return s * sum;
}

// x = m 2^e for a positive normal number, m within a factor of sqrt(2) of one; e comes as a number.
template <typename A>
struct LogParts {
  A m, e;
  bool near_one;
};

template <typename A>
PYAEGPU_HD LogParts<A> log_parts(A x) {
  using Traits = FloatTraits<A>;
  using Bits = typename Traits::Bits;
  const Bits bits = bits_as<Bits>(x);
  const Bits e = (bits - Traits::kSqrtHalfBits) >> Traits::kMantissa;
  const Bits magic = bits_as<Bits>(Traits::kMagic);
  return {bits_as<A>(bits - (e << Traits::kMantissa)), bits_as<A>(e + magic) - Traits::kMagic,
          e == 0};
}

// e ln 2 + 2 artanh(s)
template <typename A>
PYAEGPU_HD A log_from_parts(A e, A s) {
  return e * FloatTraits<A>::kLn2Hi + (e * FloatTraits<A>::kLn2Lo + log_from_ratio(s));
}

// log(x) given the argument's exact offset from one: `offset` replaces x - 1 where x itself lost
// digits of it.
template <typename A>
PYAEGPU_HD A log_of(A x, A offset) {
  using Traits = FloatTraits<A>;
  using Bits = typename Traits::Bits;
  constexpr A kTiny = std::numeric_limits<A>::min();
  constexpr A kInf = std::numeric_limits<A>::infinity();
  const A lift = A(Bits(1) << Traits::kMantissa);
  const bool subnormal = x < kTiny;
  const auto [m, e, near_one] = log_parts(subnormal ? x * lift : x);
  const A numerator = near_one ? offset : m - A(1);
  const A denominator = near_one ? A(2) + offset : m + A(1);
  const A finite =
      log_from_parts(e - (subnormal ? A(Traits::kMantissa) : A(0)), numerator / denominator);
  const A edge = x == A(0) ? -kInf : (x == kInf ? kInf : std::numeric_limits<A>::quiet_NaN());
  return x > A(0) && x < kInf ? finite : edge;
}

}  // namespace detail

template <typename A>
PYAEGPU_HD A fast_exp(A x) {
#if defined(__CUDA_ARCH__)
  return ::exp(x);
#else
  const auto parts = detail::exp_parts(x);
  const A value = A(1) + (parts.r + parts.r * parts.r * detail::exp_tail(parts.r));
  return value * parts.low * parts.high;
#endif
}

// exp(x) for x <= 0, in fewer steps: a result below the smallest normal number comes as that
// number.
template <typename A>
PYAEGPU_HD A exp_of_negative(A x) {
#if defined(__CUDA_ARCH__)
  return ::exp(x);
#else
  x = x < FloatTraits<A>::kExpMinNormal ? FloatTraits<A>::kExpMinNormal : x;
  const auto [r, n] = detail::reduced(x);
  const A scale = detail::power_of_two<A>(n);
  return scale + scale * (r + r * r * detail::exp_tail(r));
#endif
}

template <typename A>
PYAEGPU_HD A fast_log(A x) {
#if defined(__CUDA_ARCH__)
  return ::log(x);
#else
  return detail::log_of(x, x - A(1));
#endif
}

// log(x) for a positive normal number, in fewer steps.
template <typename A>
PYAEGPU_HD A log_of_normal(A x) {
#if defined(__CUDA_ARCH__)
  return ::log(x);
#else
  const auto [m, e, near_one] = detail::log_parts(x);
  return detail::log_from_parts(e, (m - A(1)) / (m + A(1)));
#endif
}

template <typename A>
PYAEGPU_HD A fast_log1p(A x) {
#if defined(__CUDA_ARCH__)
  return ::log1p(x);
#else
  return detail::log_of(A(1) + x, x);
#endif
}

// log(1 + z) and 1 / (1 + z) for z in [0, 1], as the exponential of a negative number gives it.
template <typename A>
struct SoftplusTail {
  A log1p, inverse;
};

template <typename A>
PYAEGPU_HD SoftplusTail<A> softplus_tail(A z) {
#if defined(__CUDA_ARCH__)
  return {::log1p(z), A(1) / (A(1) + z)};
#else
  // log(1 + z) = 2 artanh(z / (2 + z)), above sqrt(2) - 1 as ln 2 + log((1 + z) / 2); one division
  // gives both results.
  const bool halved = z > A(0.41421356237309503);
  const A numerator = halved ? z - A(1) : z;
  const A denominator = halved ? z + A(3) : z + A(2);
  const A whole = A(1) + z;
  const A quotient = A(1) / (whole * denominator);
  const A log1p = detail::log_from_ratio(numerator * whole * quotient);
  return {halved ? log1p + A(0.69314718055994530942) : log1p, denominator * quotient};
#endif
}

// expm1(x), expm1(x) - x without the cancellation at small x, and exp(x).
template <typename A>
struct Expm1 {
  A value, minus_x, exp;
};

template <typename A>
PYAEGPU_HD Expm1<A> expm1_pair(A x) {
#if defined(__CUDA_ARCH__)
  const A value = ::expm1(x);
  const A small = x > A(-0.34) && x < A(0.34) ? x : A(0);
  return {value, small == x ? small * small * detail::exp_tail(small) : value - x, ::exp(x)};
#else
  const auto parts = detail::exp_parts(x);
  const A tail = parts.r * parts.r * detail::exp_tail(parts.r);
  const A reduced = parts.r + tail;
  const A scale = parts.low * parts.high;
  const A far = (A(1) + reduced) * parts.low * parts.high;
  // Far up, the 1 is below the rounding, and scale alone may overflow where the result does not.
  const A scaled = parts.n > 60 ? far : scale * reduced + (scale - A(1));
  const bool whole = parts.n == 0;
  const A value = whole ? reduced : scaled;
  return {value, whole ? tail : scaled - x, far};
#endif
}

}  // namespace pyaegpu
