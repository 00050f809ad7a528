// Philox words for a run of quads: one plane of memory for each of a quad's four words.
#pragma once

#include "../common/philox.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#define PYAEGPU_DEFAULT_TARGET __attribute__((target("default")))
#else
#define PYAEGPU_DEFAULT_TARGET
#endif

namespace pyaegpu::cpu {

// Quads drawn at a time; the planes have room for whole groups.
constexpr int64_t kGroup = 8;

PYAEGPU_DEFAULT_TARGET static void draw_words(Noise noise, uint64_t first, uint32_t* planes,
                                              int64_t distance, int64_t quads) {
  for (int64_t q = 0; q < quads; ++q) {
    const Quad words = noise.quad(first + uint64_t(q));
    planes[q] = words.x0;
    planes[distance + q] = words.x1;
    planes[2 * distance + q] = words.x2;
    planes[3 * distance + q] = words.x3;
  }
}

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)

// The vectoriser multiplies 32-bit lanes and shuffles the halves of each product together. Here a
// word lies in the low half of a 64-bit lane throughout; the high halves, which the multiplication
// ignores, hold what they will.
struct Lanes {
  __m256i c0, c1, c2, c3;
};

struct Keys {
  __m256i first[kPhiloxRounds], second[kPhiloxRounds];
};

__attribute__((target("avx2"))) inline Keys keys_of(uint64_t seed) {
  Keys keys;
  for (int round = 0; round < kPhiloxRounds; ++round) {
    keys.first[round] = _mm256_set1_epi64x(uint32_t(seed) + uint32_t(round) * kPhiloxKeyA);
    keys.second[round] = _mm256_set1_epi64x(uint32_t(seed >> 32) + uint32_t(round) * kPhiloxKeyB);
  }
  return keys;
}

__attribute__((target("avx2"))) inline Lanes four_quads(const Keys& keys, uint64_t offset,
                                                        uint64_t first) {
  const __m256i index =
      _mm256_add_epi64(_mm256_set1_epi64x(int64_t(first)), _mm256_set_epi64x(3, 2, 1, 0));
  Lanes c{_mm256_set1_epi64x(int64_t(offset)), _mm256_set1_epi64x(int64_t(offset >> 32)), index,
          _mm256_srli_epi64(index, 32)};
  PYAEGPU_UNROLL
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const __m256i a = _mm256_mul_epu32(c.c0, _mm256_set1_epi64x(kPhiloxA));
    const __m256i b = _mm256_mul_epu32(c.c2, _mm256_set1_epi64x(kPhiloxB));
    c.c0 = _mm256_xor_si256(_mm256_srli_epi64(b, 32), _mm256_xor_si256(c.c1, keys.first[round]));
    c.c2 = _mm256_xor_si256(_mm256_srli_epi64(a, 32), _mm256_xor_si256(c.c3, keys.second[round]));
    c.c1 = b;
    c.c3 = a;
  }
  return c;
}

// The low halves of eight 64-bit lanes, in order.
__attribute__((target("avx2"))) inline void store_low(uint32_t* to, __m256i first, __m256i second) {
  const __m256i mixed = _mm256_castps_si256(
      _mm256_shuffle_ps(_mm256_castsi256_ps(first), _mm256_castsi256_ps(second), 0x88));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permute4x64_epi64(mixed, 0xD8));
}

__attribute__((target("avx2"))) static void draw_words(Noise noise, uint64_t first,
                                                       uint32_t* planes, int64_t distance,
                                                       int64_t quads) {
  const Keys keys = keys_of(noise.seed);
  for (int64_t q = 0; q < quads; q += kGroup) {
    const Lanes low = four_quads(keys, noise.offset, first + uint64_t(q));
    const Lanes high = four_quads(keys, noise.offset, first + uint64_t(q) + kGroup / 2);
    store_low(planes + q, low.c0, high.c0);
    store_low(planes + distance + q, low.c1, high.c1);
    store_low(planes + 2 * distance + q, low.c2, high.c2);
    store_low(planes + 3 * distance + q, low.c3, high.c3);
  }
}

#endif

}  // namespace pyaegpu::cpu
