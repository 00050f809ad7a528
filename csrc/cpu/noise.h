// A tile's noise, drawn where it is used: words for whole quads, then what is made of them.
#pragma once

#include "tiles.h"
#include "words.h"

namespace pyaegpu::cpu {

// A tile that starts inside a quad touches one more; whole groups of quads are drawn.
constexpr int64_t kTileQuads = kTile / kQuad + kGroup;

template <typename A>
PYAEGPU_CLONES static void normals_of(const uint32_t* __restrict__ a,
                                      const uint32_t* __restrict__ b, A* __restrict__ first,
                                      A* __restrict__ second, int64_t quads) {
  for (int64_t q = 0; q < quads; ++q) {
    const auto pair = normal_pair<A>(a[q], b[q]);
    first[q] = pair.first;
    second[q] = pair.second;
  }
}

template <typename V>
PYAEGPU_CLONES static void interleave(const V* __restrict__ from, V* __restrict__ to,
                                      int64_t quads) {
  for (int64_t q = 0; q < quads; ++q) {
    for (int j = 0; j < kQuad; ++j) to[q * kQuad + j] = from[j * kTileQuads + q];
  }
}

// The words or normals of elements [begin, begin + n), n <= kTile.
class NoiseTile {
 public:
  NoiseTile(const Noise& noise, int64_t begin, int64_t n)
      : lead_(begin % kQuad), quads_((lead_ + n + kQuad - 1) / kQuad) {
    draw_words(noise, uint64_t(begin / kQuad), words_, kTileQuads, quads_);
  }

  // In `buffer` of kTileQuads * kQuad values.
  const uint32_t* words(uint32_t* buffer) {
    interleave(words_, buffer, quads_);
    return buffer + lead_;
  }

  template <typename A>
  const A* normals(A* buffer) {
    A planes[kQuad * kTileQuads];
    normals_of(plane(0), plane(1), planes, planes + kTileQuads, quads_);
    normals_of(plane(2), plane(3), planes + 2 * kTileQuads, planes + 3 * kTileQuads, quads_);
    interleave(planes, buffer, quads_);
    return buffer + lead_;
  }

 private:
  uint32_t* plane(int j) { return words_ + j * kTileQuads; }

  int64_t lead_, quads_;
  uint32_t words_[kQuad * kTileQuads];
};

// The noise of a tensor of T: normals rounded to T, so that what is returned is what was used.
template <typename T, typename A>
const A* draw_normals(const Noise& noise, int64_t begin, int64_t n, A* buffer) {
  const A* normals = NoiseTile(noise, begin, n).normals(buffer);
  if constexpr (!std::is_same_v<T, A>) {
    T rounded[kTile];
    narrow(normals, rounded, n);
    widen(rounded, buffer, n);
    return buffer;
  }
  return normals;
}

// The draw that an op's arguments name: its seed lies in a tensor where a graph draws it.
inline Noise noise_of(const std::optional<Tensor>& seed, int64_t value, int64_t offset) {
  return {uint64_t(seed ? *seed->const_data_ptr<int64_t>() : value), uint64_t(offset)};
}

}  // namespace pyaegpu::cpu
