// Max-pooling by 2 x 2 windows on the CPU: all four elements at once, for a strip of windows.
#pragma once

#include "pooling.h"

namespace pyaegpu::cpu {

// In place of the type of indices that nobody asked for.
struct NoIndices {};

// A lane for the mark of a position, as wide as that of the value: its code, or its distance in the
// plane from the start of the window.
template <typename A>
using Mark = std::conditional_t<sizeof(A) == 8, int64_t, int32_t>;

template <typename A, typename M>
PYAEGPU_HD void challenge(A value, M mark, A& best, M& marked) {
  const bool over = takes_over(value, best);
  best = over ? value : best;
  marked = over ? mark : marked;
}

template <typename T>
constexpr bool kHalf = sizeof(T) == 2;

// The lanes of marks beside values of T.
template <typename T>
using CodeLane = std::conditional_t<kHalf<T>, int16_t, Mark<Accumulator<T>>>;

// Values of two bytes are compared as integers.
template <typename T>
using Moved = std::conditional_t<kHalf<T>, int16_t, T>;

constexpr int16_t kNaNOrder = 0x7fff;

// All bits where it holds: as masks the lanes stay 16 bits wide.
PYAEGPU_HD int16_t mask_if(bool holds) { return int16_t(-int16_t(holds)); }

PYAEGPU_HD int16_t blend(int16_t mask, int16_t there, int16_t elsewhere) {
  return int16_t(elsewhere ^ ((elsewhere ^ there) & mask));
}

// An integer in the order of the values: -0 is 0, every NaN comes last.
template <typename T>
PYAEGPU_HD int16_t order_of(int16_t bits) {
  const int16_t infinity = std::is_same_v<T, torch::headeronly::BFloat16> ? 0x7f80 : 0x7c00;
  const int16_t size = int16_t(bits & kNaNOrder), sign = int16_t(bits >> 15);
  const int16_t order = int16_t((size ^ sign) - sign);
  return blend(mask_if(size > infinity), kNaNOrder, order);
}

template <typename T>
PYAEGPU_HD void challenge_half(int16_t bits, int16_t mark, int16_t& order, int16_t& best,
                               int16_t& marked) {
  const int16_t other = order_of<T>(bits);
  const int16_t over = int16_t(mask_if(other > order) | mask_if(other == kNaNOrder));
  order = blend(over, other, order);
  best = blend(over, bits, best);
  marked = blend(over, mark, marked);
}

// The first of four elements, in the order of the window, against the others. Its code too.
template <typename T, typename V, typename L>
PYAEGPU_HD V pool_four(V first, V second, V third, V fourth, L& code) {
  code = 0;
  if constexpr (kHalf<T>) {
    V order = order_of<T>(first), best = first;
    challenge_half<T>(second, 1, order, best, code);
    challenge_half<T>(third, 2, order, best, code);
    challenge_half<T>(fourth, 3, order, best, code);
    return best;
  } else {
    V best = first;
    challenge(second, L(1), best, code);
    challenge(third, L(2), best, code);
    challenge(fourth, L(3), best, code);
    return best;
  }
}

// The codes, or the plane indices of the windows from `origin` on, `step` apart.
template <int64_t STRIP, typename Index, typename M>
PYAEGPU_HD void write_codes(const M* codes, int64_t origin, int64_t step, int64_t width,
                            Index* indices) {
  if constexpr (kCodes<Index>) {
    convert<STRIP>(codes, indices);
  } else if constexpr (!std::is_same_v<Index, NoIndices>) {
    alignas(64) int32_t places[STRIP];
    convert<STRIP>(codes, places);
    for (int64_t j = 0; j < STRIP; ++j) {
      const int32_t code = places[j];
      places[j] = int32_t(code & 1) + int32_t(code >> 1) * int32_t(width);
    }
    for (int64_t j = 0; j < STRIP; ++j) indices[j] = origin + j * step + places[j];
  }
}

// Rows of 2 x 2 windows, STRIP of a row at a time; the image is `width` wide.
template <int64_t STRIP, typename T, typename Index>
PYAEGPU_CLONES static void pool_pairs(const Moved<T>* image, int64_t width, Moved<T>* out,
                                      Index* indices, int64_t origin, int64_t rows, int64_t n) {
  alignas(64) CodeLane<T> codes[STRIP];
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < n; i += STRIP) {
      const int64_t at = std::min(i, n - STRIP), start = 2 * (r * width + at);
      const auto *upper = image + start, *lower = upper + width;
      auto* to = out + r * n + at;
#pragma omp simd
      for (int64_t j = 0; j < STRIP; ++j) {
        to[j] =
            pool_four<T>(upper[2 * j], upper[2 * j + 1], lower[2 * j], lower[2 * j + 1], codes[j]);
      }
      write_codes<STRIP>(codes, origin + start, 2, width, indices + r * n + at);
    }
  }
}

// Asks the memory for two pixels of a row a little ahead: four streams at once are more than the
// processor sees by itself.
template <typename T>
PYAEGPU_HD void prefetch_pair(const T* pixels, int64_t channels) {
  constexpr int64_t kLine = 64 / sizeof(T), kAhead = 2048 / sizeof(T);
  for (int64_t c = 0; c < 2 * channels; c += kLine) __builtin_prefetch(pixels + kAhead + c);
}

// The same for pixels of `channels`.
template <int64_t STRIP, typename T, typename Index>
PYAEGPU_CLONES static void pool_pixel_pairs(const Moved<T>* image, int64_t width, Moved<T>* out,
                                            Index* indices, int64_t origin, int64_t rows, int64_t n,
                                            int64_t channels) {
  alignas(64) CodeLane<T> codes[STRIP];
  for (int64_t i = 0; i < rows * n; ++i) {
    const int64_t start = 2 * (i / n * width + i % n);
    prefetch_pair(image + start * channels, channels);
    prefetch_pair(image + (start + width) * channels, channels);
    for (int64_t c = 0; c < channels; c += STRIP) {
      const int64_t at = std::min(c, channels - STRIP);
      const auto* first = image + start * channels + at;
      const auto *second = first + channels, *third = first + width * channels;
      const auto* fourth = third + channels;
      auto* to = out + i * channels + at;
#pragma omp simd
      for (int64_t j = 0; j < STRIP; ++j) {
        to[j] = pool_four<T>(first[j], second[j], third[j], fourth[j], codes[j]);
      }
      write_codes<STRIP>(codes, origin + start, 0, width, indices + i * channels + at);
    }
  }
}

}  // namespace pyaegpu::cpu
