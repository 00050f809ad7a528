// Products of matrices in shared memory by the threads of one block, sums in registers: by the
// tensor cores for 2-byte types, by multiply-adds for the others.
#pragma once

#include "launch.h"

namespace pyaegpu::cuda {

// Elements added to a row in shared memory, so that the rows of a column lie in different banks.
template <typename T>
constexpr int kPad = sizeof(T) == 2 ? 8 : 1;

// A matrix in shared memory whose rows are `pitch` apart; TURNED: it holds the transpose.
template <typename T, bool TURNED>
struct Matrix {
  const T* data;
  int pitch;

  __device__ const T& at(int row, int column) const {
    return TURNED ? data[column * pitch + row] : data[row * pitch + column];
  }
};

using Half = torch::headeronly::Half;
using BFloat16 = torch::headeronly::BFloat16;

// Four 8 x 8 matrices, whose rows' addresses the lanes give in turn.
template <bool TURNED, typename T>
__device__ void load_matrices(unsigned (&to)[4], const T* from) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(from));
  if constexpr (TURNED) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
  }
}

template <typename T>
__device__ void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  if constexpr (std::is_same_v<T, Half>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

// The block's ROWS x COLUMNS sums on tensor cores, by warps of 16 * TILES rows each. Where the rows
// are fewer than the warps need, GROUPS of warps share out the depth, and their sums are still to
// be added.
template <typename T, int ROWS, int COLUMNS>
class TensorProduct {
 public:
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kTiles = ROWS >= 16 * kWarps ? ROWS / (16 * kWarps) : 1;
  static constexpr int kGroups = kWarps * 16 * kTiles / ROWS;
  static constexpr int kStep = 16;  // of the depth
  static_assert(ROWS * kGroups == kWarps * 16 * kTiles && COLUMNS % 16 == 0, "whole fragments");

  __device__ TensorProduct() {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int j = 0; j < COLUMNS / 8; ++j) {
#pragma unroll
        for (int k = 0; k < 4; ++k) sums_[i][j][k] = 0.0f;
      }
    }
  }

  // Adds a[rows x depth] b[depth x COLUMNS], rows and depth being rounded up to fragments.
  template <bool A, bool B>
  __device__ void add(const Matrix<T, A>& a, const Matrix<T, B>& b, int rows, int depth) {
    const int lane = threadIdx.x % 32, low = lane % 8, middle = lane / 8 % 2 * 8,
              top = lane / 16 * 8;
    if (first_row() >= rows) return;
    // Unrolled, the loop takes more registers than the sums leave.
#pragma unroll 1
    for (int k = group() * kStep; k < depth; k += kGroups * kStep) {
      unsigned left[kTiles][4];
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        const int row = first_row() + 16 * i;
        load_matrices<A>(
            left[i], A ? &a.at(row + middle, k + low + top) : &a.at(row + low + middle, k + top));
      }
#pragma unroll
      for (int j = 0; j < COLUMNS; j += 16) {
        unsigned right[4];
        // Stored by rows of the depth, b has to be turned for the tensor cores.
        load_matrices<!B>(right,
                          B ? &b.at(k + middle, j + low + top) : &b.at(k + low + middle, j + top));
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
          multiply_add<T>(sums_[i][j / 8], left[i], right[0], right[1]);
          multiply_add<T>(sums_[i][j / 8 + 1], left[i], right[2], right[3]);
        }
      }
    }
  }

  __device__ static int group() { return threadIdx.x / 32 / (kWarps / kGroups); }

  // Calls f(row, column, sum) for each sum of this thread.
  template <typename F>
  __device__ void each(const F& f) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int j = 0; j < COLUMNS / 8; ++j) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          f(first_row() + 16 * i + lane / 4 + k / 2 * 8, 8 * j + lane % 4 * 2 + k % 2,
            sums_[i][j][k]);
        }
      }
    }
  }

 private:
  __device__ static int first_row() {
    return static_cast<int>(threadIdx.x) / 32 % (kWarps / kGroups) * 16 * kTiles;
  }

  float sums_[kTiles][COLUMNS / 8][4];
};

// The same by multiply-adds; a thread takes every ACROSS-th column.
template <typename T, int ROWS, int COLUMNS>
class ScalarProduct {
 public:
  static constexpr int kGroups = 1;
  static constexpr int kStep = 1;
  static constexpr int kAcross = ROWS >= 64 ? 4 : 8;
  static constexpr int kDown = kThreads / kAcross;
  static constexpr int kRows = (ROWS + kDown - 1) / kDown, kColumns = COLUMNS / kAcross;
  static_assert(ROWS % kDown == 0 && COLUMNS % kAcross == 0, "equal parts");

  __device__ ScalarProduct() {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) sums_[i][j] = T(0);
    }
  }

  template <bool A, bool B>
  __device__ void add(const Matrix<T, A>& a, const Matrix<T, B>& b, int, int depth) {
#pragma unroll 2
    for (int k = 0; k < depth; ++k) {
      T left[kRows];
#pragma unroll
      for (int i = 0; i < kRows; ++i) left[i] = a.at(first_row() + i * kDown, k);
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        const T right = b.at(k, first_column() + j * kAcross);
#pragma unroll
        for (int i = 0; i < kRows; ++i) sums_[i][j] += left[i] * right;
      }
    }
  }

  __device__ static int group() { return 0; }

  template <typename F>
  __device__ void each(const F& f) const {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        f(first_row() + i * kDown, first_column() + j * kAcross, sums_[i][j]);
      }
    }
  }

 private:
  __device__ static int first_row() { return threadIdx.x / kAcross; }
  __device__ static int first_column() { return threadIdx.x % kAcross; }

  T sums_[kRows][kColumns];
};

template <typename T, int ROWS, int COLUMNS>
using Product = std::conditional_t<sizeof(T) == 2, TensorProduct<T, ROWS, COLUMNS>,
                                   ScalarProduct<T, ROWS, COLUMNS>>;

}  // namespace pyaegpu::cuda
