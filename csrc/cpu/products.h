// Products of matrices that stay in the second-level cache, by tiles that stay in registers.
#pragma once

#include <memory>

#include "../common/macros.h"
#include "../common/tensor.h"

namespace pyaegpu::cpu {

// Columns of a tile, 64 bytes: one register of AVX-512, two of AVX2.
template <typename A>
constexpr int64_t kLanes = 64 / sizeof(A);
// More rows would not fit the registers of AVX2, and these hide the latency.
constexpr int64_t kTileRows = 6;

template <typename A>
int64_t whole_lanes(int64_t n) {
  return (n + kLanes<A> - 1) / kLanes<A> * kLanes<A>;
}

// Memory on whole lanes that is not filled: to clear a scratch would take as long as its use.
template <typename A>
class Scratch {
 public:
  explicit Scratch(int64_t n) : memory_(new A[n + kLanes<A>]) {}

  A* data() const {
    const auto address = reinterpret_cast<uintptr_t>(memory_.get());
    return memory_.get() + (64 - address % 64) % 64 / sizeof(A);
  }

 private:
  std::unique_ptr<A[]> memory_;
};

// The left matrix of a product, its elements anywhere.
template <typename A>
struct Left {
  const A* data;
  int64_t row, column;  // distances

  Left from(int64_t first_row) const { return {data + first_row * row, row, column}; }
};

// The right matrix or the result, in rows of whole lanes.
template <typename P>
struct Lanes {
  P* data;
  int64_t row;  // distance

  Lanes from(int64_t first_row) const { return {data + first_row * row, row}; }
};

template <int64_t ROWS, bool ADD, typename A>
PYAEGPU_CLONES static void multiply_rows(const A* __restrict__ left, int64_t left_row,
                                         int64_t left_column, const A* __restrict__ right,
                                         int64_t right_row, A* __restrict__ out, int64_t out_row,
                                         int64_t depth, int64_t columns) {
  for (int64_t column = 0; column < columns; column += kLanes<A>) {
    A sums[ROWS][kLanes<A>] = {};
    for (int64_t k = 0; k < depth; ++k) {
      PYAEGPU_UNROLL
      for (int64_t r = 0; r < ROWS; ++r) {
        const A scale = left[r * left_row + k * left_column];
#pragma omp simd
        for (int64_t l = 0; l < kLanes<A>; ++l) {
          sums[r][l] += scale * right[k * right_row + column + l];
        }
      }
    }
    PYAEGPU_UNROLL
    for (int64_t r = 0; r < ROWS; ++r) {
      A* to = out + r * out_row + column;
      for (int64_t l = 0; l < kLanes<A>; ++l) to[l] = ADD ? to[l] + sums[r][l] : sums[r][l];
    }
  }
}

// Calls f with `n`, from 1 to MOST, as a compile-time constant.
template <int64_t MOST, typename F>
void with_constant(int64_t n, const F& f) {
  if constexpr (MOST > 1) {
    if (n < MOST) return with_constant<MOST - 1>(n, f);
  }
  f(std::integral_constant<int64_t, MOST>{});
}

// `out` = left [rows, depth] x right [depth, columns], or with ADD its sum with what it holds.
template <bool ADD = false, typename A>
void multiply(const Left<A>& left, const Lanes<const A>& right, const Lanes<A>& out, int64_t rows,
              int64_t depth, int64_t columns) {
  const int64_t blocks = (rows + kTileRows - 1) / kTileRows;
  const int64_t high = (rows + blocks - 1) / blocks;
  for (int64_t row = 0; row < rows; row += high) {
    with_constant<kTileRows>(std::min(high, rows - row), [&](auto count) {
      multiply_rows<decltype(count)::value, ADD>(left.from(row).data, left.row, left.column,
                                                 right.data, right.row, out.from(row).data, out.row,
                                                 depth, whole_lanes<A>(columns));
    });
  }
}

}  // namespace pyaegpu::cpu
