// How the sampling family deals out its elements. A thread takes groups: whole quads of noise that
// are also whole 16-byte vectors, counted in the logical order of the tensor. A team of threads, a
// block or, where rows are short, a warp, takes a chunk of one row of the reduction.
#pragma once

#include <type_traits>

#include "../common/philox.h"
#include "launch.h"
#include "vectors.cuh"

namespace pyaegpu::cuda {

template <typename T>
constexpr int kGroup = Vector<T>::kSize > kQuad ? Vector<T>::kSize : kQuad;

// N elements of a thread, in registers.
template <typename T, int N>
struct Group {
  static constexpr int kSize = Vector<T>::kSize;
  Vector<T> vectors[(N + kSize - 1) / kSize];

  __device__ T& operator[](int j) { return vectors[j / kSize].values[j % kSize]; }
  __device__ const T& operator[](int j) const { return vectors[j / kSize].values[j % kSize]; }
};

struct Walk {
  int64_t rows, inner, parts;  // of the reduction: `rows` of `inner` elements, `parts` chunks each
  int64_t chunk;               // groups that a team takes
  int64_t width;               // elements of an operand's own row
  bool by_warp;                // a team is a warp, else the block
  bool flat;                   // every operand is one row
  bool vectors;                // a whole group is whole 16-byte vectors in every tensor

  __device__ int team() const { return by_warp ? 32 : kThreads; }
  __device__ int lane() const { return by_warp ? threadIdx.x % 32 : threadIdx.x; }
};

// A team's part of a row; empty for the teams of the last block that are left over.
template <int N>
struct Chunk {
  int64_t id, row, begin, end;  // elements of the row
  int64_t first, last;          // groups of the chunk

  __device__ explicit Chunk(const Walk& walk) {
    id = walk.by_warp ? int64_t(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32 : blockIdx.x;
    row = walk.rows == 1 ? (id < walk.parts ? 0 : 1) : id / walk.parts;
    begin = row * walk.inner;
    end = begin + walk.inner;
    first = begin / N + (id - row * walk.parts) * walk.chunk;
    last = exists(walk) ? min(first + walk.chunk, (end + N - 1) / N) : first;
  }

  __device__ bool exists(const Walk& walk) const { return row < walk.rows; }
};

// The elements [begin, end) of those from logical index `first` on, which lies at `row` and
// `column` of the operands.
struct Span {
  int64_t first, row, column;
  int begin, end;

  __device__ bool holds(int j) const { return j >= begin && j < end; }
};

template <int N>
__device__ Span span_at(const Walk& walk, const Chunk<N>& chunk, int64_t first) {
  const int64_t row = walk.flat ? 0 : first / walk.width;
  return {first, row, first - row * walk.width, int(max(chunk.begin - first, int64_t(0))),
          int(min(chunk.end - first, int64_t(N)))};
}

// Calls f(vectors, span) for each of this thread's groups, `vectors` being a constant: a group as
// whole vectors, or one quad of it.
template <int N, typename F>
__device__ void for_each_span(const Walk& walk, const Chunk<N>& chunk, const F& f) {
  for (int64_t group = chunk.first + walk.lane(); group < chunk.last; group += walk.team()) {
    const Span span = span_at(walk, chunk, group * N);
    if (walk.vectors && span.begin == 0 && span.end == N) {
      f(std::true_type{}, span);
    } else {
#pragma unroll 1
      for (int j = 0; j < N; j += kQuad) f(std::false_type{}, span_at(walk, chunk, span.first + j));
    }
  }
}

// Elements that f above takes at once.
template <bool VECTORS, typename T>
constexpr int kSpan = VECTORS ? kGroup<T> : kQuad;

// An input as rows, `stride` elements apart; null where it is absent.
template <typename T>
struct Operand {
  const T* data;
  int64_t stride;
};

template <bool VECTORS, int N, typename T>
__device__ Group<T, N> load(const Operand<T>& from, const Walk& walk, const Span& span) {
  constexpr int kSize = Vector<T>::kSize;
  Group<T, N> group;
  if constexpr (VECTORS) {
    static_assert(N % kSize == 0, "whole vectors");
    const T* at = from.data + span.row * from.stride + span.column;
#pragma unroll
    for (int v = 0; v < N / kSize; ++v) read<kSize>(at + v * kSize, group.vectors[v]);
    return group;
  }
  int64_t row = span.row, column = span.column;
#pragma unroll
  for (int j = 0; j < N; ++j) {
    group[j] = span.holds(j) ? from.data[row * from.stride + column] : T(0);
    if (++column == walk.width) {
      column = 0;
      ++row;
    }
  }
  return group;
}

// Results are contiguous.
template <bool VECTORS, typename T, int N>
__device__ void store(T* to, const Span& span, const Group<T, N>& group) {
  constexpr int kSize = Vector<T>::kSize;
  if constexpr (VECTORS) {
#pragma unroll
    for (int v = 0; v < N / kSize; ++v) {
      write<kSize>(to + span.first + v * kSize, group.vectors[v]);
    }
  } else {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      if (span.holds(j)) to[span.first + j] = group[j];
    }
  }
}

}  // namespace pyaegpu::cuda
