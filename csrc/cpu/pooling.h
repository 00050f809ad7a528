// What max-pooling and max-unpooling share on the CPU: one call's planes, rows and elements.
#pragma once

#include <atomic>
#include <cstring>
#include <limits>

#include "../common/windows_call.h"
#include "tiles.h"

namespace pyaegpu::cpu {

using Axis = WindowAxis<int64_t>;
using Sizes = std::vector<int64_t>;

// Values that are moved and not computed with: the bits of a dtype.
template <typename T>
using Bits = std::conditional_t<sizeof(T) == 2, uint16_t,
                                std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>;

// Channels of a pixel that are worked on at a time.
constexpr int64_t kChannels = 512;

struct Pooling {
  int64_t images, channels;
  Windows<int64_t> windows;
  bool channels_last;

  const Axis& depth() const { return windows.axes[0]; }
  const Axis& height() const { return windows.axes[1]; }
  const Axis& width() const { return windows.axes[2]; }
  int64_t planes() const { return images * channels; }
  // Elements of an image and of what it is pooled to, all channels.
  int64_t image_size() const { return windows.image() * channels; }
  int64_t pooled_size() const { return windows.pooled() * channels; }
  // Planes in memory, and the elements of a pixel in them.
  int64_t blocks() const { return channels_last ? images : planes(); }
  int64_t pixel() const { return channels_last ? channels : 1; }

  // Whether the windows are 2 x 2, next to each other from the first element on, and all whole.
  bool in_pairs() const {
    const auto is_pair = [](const Axis& a) {
      return a.kernel == 2 && a.stride == 2 && a.padding == 0 && a.dilation == 1 &&
             2 * a.pooled <= a.image;
    };
    const Axis& d = depth();
    return d.kernel == 1 && d.stride == 1 && d.padding == 0 && d.pooled <= d.image &&
           is_pair(height()) && is_pair(width()) && windows.image() < (int64_t(1) << 31);
  }
};

inline Pooling pooling_of(const Tensor& like, const Sizes& image, const Sizes& pooled,
                          const Sizes& kernel, const Sizes& stride, const Sizes& padding,
                          const Sizes& dilation, bool channels_last) {
  STD_TORCH_CHECK(like.dim() == int64_t(image.size()) + 2,
                  "pyaegpu: expected [N, C] and the spatial dimensions, got ", like.dim());
  return {like.size(0), like.size(1),
          windows_of<int64_t>(image, pooled, kernel, stride, padding, dilation), channels_last};
}

// Row `index` of the pooled, or of the image, in memory: [block, depth, height].
struct Row {
  int64_t block, d, h;

  Row(int64_t index, int64_t depth, int64_t height)
      : block(index / (depth * height)), d(index / height % depth), h(index % height) {}
};

// Calls f(first, last) for ranges of `n` items of so many elements each.
template <typename F>
void for_each_range(int64_t n, int64_t elements, const F& f) {
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, elements));
  if (n <= grain) {
    f(0, n);
  } else {
    torch::stable::parallel_for(0, n, grain, f);
  }
}

// Rows [begin, end) of one slice of the pooled; the first is row `index` in memory.
struct RowRun {
  int64_t block, d, begin, end, index;
};

// Calls f for runs of all rows of the pooled, in parallel; `elements` are worked on in each.
template <typename F>
void for_each_run(const Pooling& call, int64_t elements, const F& f) {
  const int64_t depth = call.depth().pooled, height = call.height().pooled;
  for_each_range(call.blocks() * depth * height, elements, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last;) {
      const Row at(r, depth, height);
      const int64_t end = std::min(height, at.h + last - r);
      f(RowRun{at.block, at.d, at.h, end, r});
      r += end - at.h;
    }
  });
}

// Calls f with a constant: how many of `n` elements in a row are worked on at once. The last of
// them begin before the end of those before, since to write an element twice is harmless.
template <typename F>
auto with_strip(int64_t n, const F& f) {
  if (n >= 8) return f(std::integral_constant<int64_t, 8>());
  if (n >= 4) return f(std::integral_constant<int64_t, 4>());
  return f(std::integral_constant<int64_t, 1>());
}

// The widths of lanes in one loop have to agree, or the vectoriser takes the shortest vectors.
template <int64_t STRIP, typename From, typename To>
PYAEGPU_HD void convert(const From* from, To* to) {
  if constexpr (STRIP == 1) {
    *to = To(*from);
  } else {
    typedef From Given __attribute__((vector_size(STRIP * sizeof(From))));
    typedef To Wanted __attribute__((vector_size(STRIP * sizeof(To))));
    Given given;
    std::memcpy(&given, from, sizeof(given));
    const Wanted wanted = __builtin_convertvector(given, Wanted);
    std::memcpy(to, &wanted, sizeof(wanted));
  }
}

template <typename F>
auto dispatch_bits(ScalarType dtype, const F& f) {
  return dispatch(dtype, [&](auto zero) { return f(Bits<decltype(zero)>{}); });
}

// Calls f with a zero of the type of `indices`: codes or plane indices.
template <typename F>
auto dispatch_indices(const Tensor& indices, const F& f) {
  switch (indices.scalar_type()) {
    case ScalarType::Byte:
      return f(uint8_t{});
    case ScalarType::Int:
      return f(int32_t{});
    case ScalarType::Long:
      return f(int64_t{});
    default:
      STD_TORCH_CHECK(false, "pyaegpu: expected indices in int64, int32 or uint8, got ",
                      torch::headeronly::toString(indices.scalar_type()));
  }
}

template <typename Index>
constexpr bool kCodes = std::is_same_v<Index, uint8_t>;

template <typename T>
const T* data_of(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

template <typename T>
T* data_of(Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

}  // namespace pyaegpu::cpu
