// Loops over values and the indices beside them: which of them belong at a place.
#pragma once

#include "pooling.h"

namespace pyaegpu::cpu {

// All bits, or none.
template <typename U>
PYAEGPU_HD U mask_of(bool on) {
  return U(0) - U(on);
}

// The code of a plane index in a 2 x 2 window that starts at `start`; 4 where it is not of it.
template <typename Index>
PYAEGPU_HD uint32_t code_of(Index index, uint32_t start, uint32_t width) {
  const uint32_t place = uint32_t(index) - start;
  const uint32_t beyond = sizeof(Index) == 8 ? uint32_t(uint64_t(index) >> 32) : 0;
  const uint32_t found = (mask_of<uint32_t>(place == 0) & 4) | (mask_of<uint32_t>(place == 1) & 3) |
                         (mask_of<uint32_t>(place == width) & 2) |
                         (mask_of<uint32_t>(place == width + 1) & 1);
  return (4 - found) | (mask_of<uint32_t>(beyond != 0) & 4);
}

// The codes of 2 x 2 windows that `indices` name, 4 or more where they name no place in them. The
// first window starts at place `start` of the plane, the others are `step` apart.
template <int64_t STRIP, typename U, typename Index>
PYAEGPU_HD void read_codes(const Index* indices, int64_t start, int64_t step, int64_t width,
                           U* codes) {
  if constexpr (kCodes<Index>) {
    convert<STRIP>(indices, codes);
  } else {
    alignas(64) uint32_t found[STRIP];
#pragma omp simd
    for (int64_t j = 0; j < STRIP; ++j) {
      found[j] =
          code_of(indices[j], uint32_t(start) + uint32_t(step) * uint32_t(j), uint32_t(width));
    }
    convert<STRIP>(found, codes);
  }
}

// Strays are zero as long as every index is of its own window.
template <int64_t STRIP, typename U>
PYAEGPU_HD bool all_zero(const U* lanes) {
  U any = 0;
  for (int64_t j = 0; j < STRIP; ++j) any |= lanes[j];
  return any == 0;
}

// The value in its place of four, zero in the others.
template <typename U>
PYAEGPU_HD void spread_one(U value, U code, U& first, U& second, U& third, U& fourth) {
  first = value & mask_of<U>(code == 0);
  second = value & mask_of<U>(code == 1);
  third = value & mask_of<U>(code == 2);
  fourth = value & mask_of<U>(code == 3);
}

// The reverse: the value of four at the place.
template <typename U>
PYAEGPU_HD U pick_one(U first, U second, U third, U fourth, U code) {
  return (first & mask_of<U>(code == 0)) | (second & mask_of<U>(code == 1)) |
         (third & mask_of<U>(code == 2)) | (fourth & mask_of<U>(code == 3));
}

// Rows of 2 x 2 windows, STRIP of a row at a time: every place of two rows of the image is written
// for each, up to the last window. Whether all indices are of their own windows.
template <int64_t STRIP, typename U, typename Index>
PYAEGPU_CLONES static bool spread_pairs(const U* values, const Index* indices, U* image,
                                        int64_t width, int64_t origin, int64_t rows, int64_t n) {
  alignas(64) U codes[STRIP], strays[STRIP] = {};
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < n; i += STRIP) {
      const int64_t at = std::min(i, n - STRIP), start = 2 * (r * width + at);
      const U* from = values + r * n + at;
      U *upper = image + start, *lower = upper + width;
      read_codes<STRIP>(indices + r * n + at, origin + start, 2, width, codes);
#pragma omp simd
      for (int64_t j = 0; j < STRIP; ++j) {
        spread_one(from[j], codes[j], upper[2 * j], upper[2 * j + 1], lower[2 * j],
                   lower[2 * j + 1]);
        strays[j] |= U(codes[j] >> 2);
      }
    }
  }
  return all_zero<STRIP>(strays);
}

template <int64_t STRIP, typename U, typename Index>
PYAEGPU_CLONES static bool pick_pairs(const U* image, int64_t width, const Index* indices,
                                      U* values, int64_t origin, int64_t rows, int64_t n) {
  alignas(64) U codes[STRIP], strays[STRIP] = {};
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < n; i += STRIP) {
      const int64_t at = std::min(i, n - STRIP), start = 2 * (r * width + at);
      const U *upper = image + start, *lower = upper + width;
      U* to = values + r * n + at;
      read_codes<STRIP>(indices + r * n + at, origin + start, 2, width, codes);
#pragma omp simd
      for (int64_t j = 0; j < STRIP; ++j) {
        to[j] = pick_one(upper[2 * j], upper[2 * j + 1], lower[2 * j], lower[2 * j + 1], codes[j]);
        strays[j] |= U(codes[j] >> 2);
      }
    }
  }
  return all_zero<STRIP>(strays);
}

// The same for pixels of `channels`.
template <int64_t STRIP, typename U, typename Index>
PYAEGPU_CLONES static bool spread_pixel_pairs(const U* values, const Index* indices, U* image,
                                              int64_t width, int64_t origin, int64_t rows,
                                              int64_t n, int64_t channels) {
  alignas(64) U codes[STRIP], strays[STRIP] = {};
  for (int64_t i = 0; i < rows * n; ++i) {
    const int64_t start = 2 * (i / n * width + i % n);
    for (int64_t c = 0; c < channels; c += STRIP) {
      const int64_t at = std::min(c, channels - STRIP);
      const U* from = values + i * channels + at;
      U *first = image + start * channels + at, *second = first + channels;
      U *third = first + width * channels, *fourth = third + channels;
      read_codes<STRIP>(indices + i * channels + at, origin + start, 0, width, codes);
#pragma omp simd
      for (int64_t j = 0; j < STRIP; ++j) {
        spread_one(from[j], codes[j], first[j], second[j], third[j], fourth[j]);
        strays[j] |= U(codes[j] >> 2);
      }
    }
  }
  return all_zero<STRIP>(strays);
}

template <int64_t STRIP, typename U, typename Index>
PYAEGPU_CLONES static bool pick_pixel_pairs(const U* image, int64_t width, const Index* indices,
                                            U* values, int64_t origin, int64_t rows, int64_t n,
                                            int64_t channels) {
  alignas(64) U codes[STRIP], strays[STRIP] = {};
  for (int64_t i = 0; i < rows * n; ++i) {
    const int64_t start = 2 * (i / n * width + i % n);
    for (int64_t c = 0; c < channels; c += STRIP) {
      const int64_t at = std::min(c, channels - STRIP);
      const U *first = image + start * channels + at, *second = first + channels;
      const U *third = first + width * channels, *fourth = third + channels;
      U* to = values + i * channels + at;
      read_codes<STRIP>(indices + i * channels + at, origin + start, 0, width, codes);
#pragma omp simd
      for (int64_t j = 0; j < STRIP; ++j) {
        to[j] = pick_one(first[j], second[j], third[j], fourth[j], codes[j]);
        strays[j] |= U(codes[j] >> 2);
      }
    }
  }
  return all_zero<STRIP>(strays);
}

// out = from where the index is `key`; elsewhere zero if FIRST, else as it was. How many there are.
template <bool FIRST, typename U, typename Index>
PYAEGPU_CLONES static int64_t choose(const U* __restrict__ from, const Index* __restrict__ indices,
                                     Index key, U* __restrict__ out, int64_t n) {
  int32_t found = 0;
  for (int64_t i = 0; i < n; ++i) {
    const bool here = indices[i] == key;
    out[i] = here ? from[i] : FIRST ? U(0) : out[i];
    found += here ? 1 : 0;
  }
  return found;
}

// The same for sums.
template <bool FIRST, typename T, typename A, typename Index>
PYAEGPU_CLONES static void add_chosen(const T* __restrict__ from, const Index* __restrict__ indices,
                                      Index key, A* __restrict__ sums, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const A value = indices[i] == key ? A(from[i]) : A(0);
    sums[i] = FIRST ? value : A(sums[i] + value);
  }
}

}  // namespace pyaegpu::cpu
