// How the kernels of pooling deal out their elements: an item is one thread's group of channels of
// one place, and in planes one element or a group of neighbours.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../common/windows.h"
#include "launch.h"
#include "vectors.cuh"

namespace pyaegpu::cuda {

// Elements of a 16-byte access. Those of 8 bytes go one by one, which costs them little.
template <typename T>
constexpr int kWidth = sizeof(T) < 8 ? 16 / int(sizeof(T)) : 1;

// The widest access that BYTES are whole ones of.
template <int BYTES>
using Word = std::conditional_t<
    BYTES % 16 == 0, uint4,
    std::conditional_t<BYTES % 8 == 0, uint2,
                       std::conditional_t<BYTES % 4 == 0, uint32_t,
                                          std::conditional_t<BYTES % 2 == 0, uint16_t, uint8_t>>>>;

// N neighbours, aligned as their Word.
template <typename T, int N>
__device__ void load(const T* from, T (&to)[N]) {
  using W = Word<N* int(sizeof(T))>;
#pragma unroll
  for (int i = 0; i < int(sizeof(to) / sizeof(W)); ++i) {
    const W word = reinterpret_cast<const W*>(from)[i];
    memcpy(reinterpret_cast<char*>(to) + i * sizeof(W), &word, sizeof(W));
  }
}

template <typename T, int N>
__device__ void store(T* to, const T (&from)[N]) {
  using W = Word<N* int(sizeof(T))>;
#pragma unroll
  for (int i = 0; i < int(sizeof(from) / sizeof(W)); ++i) {
    const char* part = reinterpret_cast<const char*>(from) + i * sizeof(W);
    if constexpr (sizeof(W) == 16) {
      store16(reinterpret_cast<W*>(to) + i, part);
    } else {
      W word;
      memcpy(&word, part, sizeof(W));
      reinterpret_cast<W*>(to)[i] = word;
    }
  }
}

// Division by a number that the host knows: of 32 bits a multiplication and a shift.
template <typename I>
class Divider {
 public:
  explicit Divider(int64_t divisor = 1) : divisor_(divisor > 0 ? divisor : 1) {}

  // Leaves the quotient in `n` and returns the remainder.
  __device__ I split(I& n) const {
    const I remainder = n % divisor_;
    n /= divisor_;
    return remainder;
  }
  __device__ I quotient(I n) const { return n / divisor_; }

 private:
  I divisor_;
};

template <>
class Divider<int32_t> {
 public:
  // Granlund and Montgomery, Division by Invariant Integers using Multiplication (1994),
  // figure 4.1.
  explicit Divider(int64_t divisor = 1) : shift_(0) {
    if (divisor < 1) divisor = 1;  // of an empty tensor
    divisor_ = uint32_t(divisor);
    while ((uint64_t(1) << shift_) < uint64_t(divisor)) ++shift_;
    const uint64_t excess = (uint64_t(1) << shift_) - uint64_t(divisor);
    magic_ = uint32_t((excess << 32) / uint64_t(divisor) + 1);
  }

  __device__ int32_t split(int32_t& n) const {
    const int32_t quotient_of_n = quotient(n), remainder = n - quotient_of_n * int32_t(divisor_);
    n = quotient_of_n;
    return remainder;
  }
  // Of n from 0 to 2^31 - 1.
  __device__ int32_t quotient(int32_t n) const {
    return int32_t((__umulhi(uint32_t(n), magic_) + uint32_t(n)) >> shift_);
  }

 private:
  uint32_t divisor_, magic_, shift_;
};

template <typename I>
struct Spot {
  int64_t image;  // or plane
  I d, h, w, group;
};

// A grid of spots, one for each thread.
template <typename I>
struct Items {
  int64_t count = 0;
  Divider<I> depth, height, width, groups;

  Items() = default;
  Items(int64_t images, int64_t depth_, int64_t height_, int64_t width_, int64_t groups_)
      : count(images * depth_ * height_ * width_ * groups_),
        depth(depth_),
        height(height_),
        width(width_),
        groups(groups_) {}

  // False for the threads that are left over.
  __device__ bool find(Spot<I>& spot) const {
    const int64_t item = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (item >= count) return false;
    I rest = I(item);
    spot.group = groups.split(rest);
    spot.w = width.split(rest);
    spot.h = height.split(rest);
    spot.d = depth.split(rest);
    spot.image = rest;
    return true;
  }
};

// What every kernel of the family knows. I holds the count of its items and the size of a plane;
// offsets have 64 bits.
template <typename I>
struct Pooling {
  Items<I> items;
  Windows<I> windows;
  Divider<I> strides[3], image_height, image_width, kernel_height, kernel_width;
  int64_t channels;                 // elements of a place in memory: 1 in planes
  int64_t image_size, pooled_size;  // elements of an image (or plane) and of its pooled form

  // The first element of a place of the image, or of its pooled form.
  __device__ int64_t in_image(const Spot<I>& spot, I place, int n) const {
    return spot.image * image_size + place * channels + int64_t(spot.group) * n;
  }
  __device__ int64_t in_pooled(const Spot<I>& spot, I d, I h, I w, int n) const {
    const I place = (d * windows.axes[1].pooled + h) * windows.axes[2].pooled + w;
    return spot.image * pooled_size + place * channels + int64_t(spot.group) * n;
  }

  // Whether place `mark` of the plane is in window (d, h, w); it need not be in the plane.
  __device__ bool contains(I d, I h, I w, I mark) const {
    if (mark < 0 || mark >= windows.image()) return false;
    const I column = image_width.split(mark), row = image_height.split(mark);
    return holds(windows.axes[0], mark, d) && holds(windows.axes[1], row, h) &&
           holds(windows.axes[2], column, w);
  }

  __device__ static bool holds(const WindowAxis<I>& axis, I o, I p) {
    const I position = axis.position_of(o, p);
    return position >= 0 && position < axis.kernel;
  }
};

template <typename Index>
constexpr bool kCodes = std::is_same_v<Index, uint8_t>;

// An index as the kernels compare it: what is no place of any plane becomes -1.
template <typename I, typename Index>
__device__ I mark_of(Index index) {
  const int64_t wide = index;
  const bool held = wide >= 0 && (sizeof(I) == 8 || wide >> 31 == 0);
  return held ? I(index) : I(-1);
}

template <int N, typename Index, typename I>
__device__ void load_marks(const Index* from, I (&marks)[N]) {
  Index indices[N];
  load(from, indices);
#pragma unroll
  for (int j = 0; j < N; ++j) marks[j] = mark_of<I>(indices[j]);
}

// The elements of a window that are inside the image, in order.
template <typename I>
class Inside {
 public:
  I place;  // in the plane
  I code;

  __device__ Inside(const Windows<I>& windows, I d, I h, I w) {
    const WindowAxis<I>* axis = windows.axes;
    const I first_d = axis[0].first_position(d), first_h = axis[1].first_position(h),
            first_w = axis[2].first_position(w);
    place = windows.index_of(axis[0].start(d) + first_d * axis[0].dilation,
                             axis[1].start(h) + first_h * axis[1].dilation,
                             axis[2].start(w) + first_w * axis[2].dilation);
    code = windows.code_of(first_d, first_h, first_w);
    height_ = axis[1].end_position(h) - first_h;
    width_ = axis[2].end_position(w) - first_w;
    const I depth = axis[0].end_position(d) - first_d;
    planes_ = width_ > 0 && height_ > 0 && depth > 0 ? depth : 0;
    rows_ = height_;
    left_ = width_;
    next_place_ = axis[2].dilation;
    next_row_ = axis[1].dilation * axis[2].image - width_ * axis[2].dilation;
    next_plane_ = (axis[0].dilation * axis[1].image - height_ * axis[1].dilation) * axis[2].image;
    row_codes_ = axis[2].kernel - width_;
    plane_codes_ = (axis[1].kernel - height_) * axis[2].kernel;
  }

  // False at the end, and from the start where no element is inside: `place` and `code` are then
  // those of the first position that is not before the image.
  __device__ bool left() const { return planes_ > 0; }

  __device__ void next() {
    place += next_place_;
    ++code;
    if (--left_ > 0) return;
    left_ = width_;
    place += next_row_;
    code += row_codes_;
    if (--rows_ > 0) return;
    rows_ = height_;
    place += next_plane_;
    code += plane_codes_;
    --planes_;
  }

 private:
  I height_, width_, planes_, rows_, left_;
  I next_place_, next_row_, next_plane_, row_codes_, plane_codes_;
};

// Elements of a window that are loaded before the first of them is looked at.
constexpr int kAtOnce = 4;

}  // namespace pyaegpu::cuda
