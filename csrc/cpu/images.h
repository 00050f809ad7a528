// Images of any layout as matrices in the accumulator type: planes [channels, pixels], or pixels
// [pixels, channels].
#pragma once

#include "products.h"
#include "tiles.h"

namespace pyaegpu::cpu {

// [N, C, H, W] whose pixels follow each other at equal distances.
struct Images {
  Tensor tensor;
  const void* data;
  int64_t channels, image, channel, pixel;  // how many; and the distances

  bool in_planes() const { return pixel == 1; }
  bool interleaved() const { return channel == 1 && pixel == channels; }

  template <typename T>
  const T* at(int64_t n, int64_t first) const {
    return static_cast<const T*>(data) + n * image + first * pixel;
  }
};

inline Images images_of(const Tensor& t) {
  const int64_t width = t.size(3), pixel = t.stride(width > 1 ? 3 : 2);
  if (width > 1 && t.size(2) > 1 && t.stride(2) != width * pixel) {
    return images_of(torch::stable::contiguous(t));
  }
  return {t, t.const_data_ptr(), t.size(1), t.stride(0), t.stride(1), pixel};
}

// The pixels of images that are written.
template <typename T>
struct Written {
  Images images;
  T* data;

  explicit Written(const Tensor& t)
      : images(images_of(t)), data(static_cast<T*>(t.mutable_data_ptr())) {}

  T* at(int64_t n, int64_t first) const { return data + n * images.image + first * images.pixel; }
};

template <typename T, typename A>
PYAEGPU_CLONES static void widen_every(const T* __restrict__ from, int64_t stride,
                                       A* __restrict__ to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<A>(from[i * stride]);
}

template <typename T, typename A>
void load_run(const T* from, int64_t stride, A* to, int64_t n) {
  stride == 1 ? widen(from, to, n) : widen_every(from, stride, to, n);
}

// The run itself where it can be read in place, else a copy.
template <typename T, typename A>
const A* run_of(const T* from, int64_t stride, A* buffer, int64_t n) {
  if (stride == 1) return load(from, buffer, n);
  widen_every(from, stride, buffer, n);
  return buffer;
}

// Four by four elements, in registers.
PYAEGPU_HD void transpose_block(const float* from, int64_t from_row, float* to, int64_t to_row) {
  typedef float Four __attribute__((vector_size(16)));
  typedef float Unaligned __attribute__((vector_size(16), aligned(4), may_alias));
  Four in[4], half[4];
  PYAEGPU_UNROLL
  for (int k = 0; k < 4; ++k) in[k] = *reinterpret_cast<const Unaligned*>(from + k * from_row);
  PYAEGPU_UNROLL
  for (int k = 0; k < 4; k += 2) {
    half[k] = Four{in[k][0], in[k + 1][0], in[k][1], in[k + 1][1]};
    half[k + 1] = Four{in[k][2], in[k + 1][2], in[k][3], in[k + 1][3]};
  }
  PYAEGPU_UNROLL
  for (int k = 0; k < 2; ++k) {
    *reinterpret_cast<Unaligned*>(to + 2 * k * to_row) =
        Four{half[k][0], half[k][1], half[k + 2][0], half[k + 2][1]};
    *reinterpret_cast<Unaligned*>(to + (2 * k + 1) * to_row) =
        Four{half[k][2], half[k][3], half[k + 2][2], half[k + 2][3]};
  }
}

// to[c][r] = from[r][c]; what a line of the cache holds is taken at once.
template <typename A>
PYAEGPU_CLONES static void transpose(const A* __restrict__ from, int64_t from_row,
                                     A* __restrict__ to, int64_t to_row, int64_t rows,
                                     int64_t columns) {
  constexpr int64_t kLine = 16;
  int64_t whole_rows = 0, whole_columns = 0;
  if constexpr (std::is_same_v<A, float>) {
    whole_rows = rows / 4 * 4;
    whole_columns = columns / kLine * kLine;
    for (int64_t line = 0; line < whole_columns; line += kLine) {
      for (int64_t r = 0; r < whole_rows; r += 4) {
        PYAEGPU_UNROLL
        for (int64_t c = line; c < line + kLine; c += 4) {
          transpose_block(from + r * from_row + c, from_row, to + c * to_row + r, to_row);
        }
      }
    }
  }
  for (int64_t c = 0; c < columns; ++c) {
    for (int64_t r = c < whole_columns ? whole_rows : 0; r < rows; ++r) {
      to[c * to_row + r] = from[r * from_row + c];
    }
  }
}

// to[r][c] = from[r * row + c * column], each row of `to` filled with zeros to whole lanes.
template <typename T, typename A>
void load_matrix(const T* from, int64_t row, int64_t column, int64_t rows, int64_t columns, A* to,
                 int64_t to_row) {
  if (row != 1 || column == 1) {
    for (int64_t r = 0; r < rows; ++r) load_run(from + r * row, column, to + r * to_row, columns);
  } else if constexpr (std::is_same_v<T, A>) {
    transpose(from, column, to, to_row, columns, rows);
  } else {
    constexpr int64_t kAtOnce = 16;
    Scratch<A> wide(kAtOnce * rows);
    for (int64_t c = 0; c < columns; c += kAtOnce) {
      const int64_t n = std::min(kAtOnce, columns - c);
      for (int64_t k = 0; k < n; ++k) {
        widen(from + (c + k) * column, wide.data() + k * rows, rows);
      }
      transpose(wide.data(), rows, to + c, to_row, n, rows);
    }
  }
  for (int64_t r = 0; r < rows && columns % kLanes<A> != 0; ++r) {
    std::fill(to + r * to_row + columns, to + r * to_row + whole_lanes<A>(columns), A(0));
  }
}

// to[i * runs + r] = from[r * from_row + i]
template <int64_t RUNS, typename T, typename A>
PYAEGPU_CLONES static void interleave_few(const A* __restrict__ from, int64_t from_row,
                                          T* __restrict__ to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    PYAEGPU_UNROLL
    for (int64_t r = 0; r < RUNS; ++r) {
      to[i * RUNS + r] = static_cast<T>(from[r * from_row + i]);
    }
  }
}

template <typename T, typename A>
void interleave(const A* from, int64_t from_row, int64_t runs, T* to, int64_t n) {
  constexpr int64_t kFew = 4;
  if (runs > kFew) {
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t r = 0; r < runs; ++r) to[i * runs + r] = static_cast<T>(from[r * from_row + i]);
    }
    return;
  }
  with_constant<kFew>(
      runs, [&](auto few) { interleave_few<decltype(few)::value>(from, from_row, to, n); });
}

// The reverse.
template <int64_t RUNS, typename A>
PYAEGPU_CLONES static void separate_few(const A* __restrict__ from, A* __restrict__ to,
                                        int64_t to_row, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    PYAEGPU_UNROLL
    for (int64_t r = 0; r < RUNS; ++r) to[r * to_row + i] = from[i * RUNS + r];
  }
}

template <typename A>
void separate(const A* from, int64_t runs, A* to, int64_t to_row, int64_t n) {
  constexpr int64_t kFew = 4;
  if (runs > kFew) return transpose(from, runs, to, to_row, n, runs);
  with_constant<kFew>(runs,
                      [&](auto few) { separate_few<decltype(few)::value>(from, to, to_row, n); });
}

// `n` pixels of image `image` from `first` on, as rows of whole lanes: those of the images
// themselves, or a copy in `buffer` with rows of at least n or as many as the channels.
template <typename T, typename A>
Lanes<const A> planes_of(const Images& images, int64_t image, int64_t first, int64_t n,
                         bool in_place, A* buffer, int64_t row) {
  const T* from = images.at<T>(image, first);
  if constexpr (std::is_same_v<T, A>) {
    if (in_place && images.in_planes() && n % kLanes<A> == 0) return {from, images.channel};
  }
  load_matrix(from, images.channel, images.pixel, images.channels, n, buffer, row);
  return {buffer, row};
}

template <typename T, typename A>
Lanes<const A> pixels_of(const Images& images, int64_t image, int64_t first, int64_t n, A* buffer) {
  const T* from = images.at<T>(image, first);
  const int64_t channels = images.channels, row = whole_lanes<A>(channels);
  if constexpr (std::is_same_v<T, A>) {
    if (images.channel == 1 && channels == row) return {from, images.pixel};
  }
  load_matrix(from, images.pixel, images.channel, n, channels, buffer, row);
  return {buffer, row};
}

}  // namespace pyaegpu::cpu
