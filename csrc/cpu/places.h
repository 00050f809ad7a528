// The places in the image that indices name, element by element: for windows of any kind.
#pragma once

#include <string>

#include "pooling.h"

namespace pyaegpu::cpu {

constexpr int64_t kNowhere = -1;

// The windows that hold each element of an axis, in order.
class Candidates {
 public:
  struct Entry {
    int64_t window, position;
  };

  explicit Candidates(const Axis& axis) : first_(1, 0) {
    for (int64_t o = 0; o < axis.image; ++o) {
      for (int64_t p = axis.first_window(o); p <= axis.last_window(o); ++p) {
        const int64_t position = axis.position_of(o, p);
        if (position >= 0) entries_.push_back({p, position});
      }
      first_.push_back(entries_.size());
    }
  }

  const Entry* begin(int64_t o) const { return entries_.data() + first_[o]; }
  const Entry* end(int64_t o) const { return entries_.data() + first_[o + 1]; }

 private:
  std::vector<Entry> entries_;
  std::vector<size_t> first_;
};

// A code names a place in the element's own window, a plane index any place of the image, or with
// `own` one in the element's window.
template <typename Index>
class Places {
 public:
  Places(const Windows<int64_t>& windows, bool own)
      : windows_(windows), own_(own), offsets_(256, kBeyond) {
    if (!kCodes<Index> && !own) return;
    const auto& [d, h, w] = windows.axes;
    for (int64_t code = 0; code < std::min<int64_t>(256, windows.positions()); ++code) {
      const Position at{code / (h.kernel * w.kernel) * d.dilation,
                        code / w.kernel % h.kernel * h.dilation, code % w.kernel * w.dilation};
      positions_.push_back(at);
      offsets_[code] = windows.index_of(at.d, at.h, at.w);
    }
    if (kCodes<Index>) return;
    const int64_t last = offsets_[std::min<int64_t>(256, windows.positions()) - 1];
    if (windows.positions() > 256 || last >= kMostListed) return;
    is_offset_.resize(last + 1);
    for (int64_t code = 0; code < windows.positions(); ++code) is_offset_[offsets_[code]] = 1;
  }

  // Calls f(w, place) for row (d, h) of a plane of the pooled, in order; below zero where the index
  // names no place.
  template <typename F>
  void row(int64_t d, int64_t h, const Index* indices, const F& f) const {
    const Axis& axis = windows_.axes[2];
    if (!kCodes<Index> && !own_) {
      const uint64_t image = windows_.image();
      for (int64_t w = 0; w < axis.pooled; ++w) {
        f(w, uint64_t(int64_t(indices[w])) < image ? int64_t(indices[w]) : kNowhere);
      }
      return;
    }
    // Windows wholly inside the image are asked without a look at their borders.
    int64_t begin = 0, end = 0;
    if (is_whole(0, d) && is_whole(1, h) && (kCodes<Index> || !is_offset_.empty())) {
      const int64_t room = axis.image - 1 - (axis.kernel - 1) * axis.dilation + axis.padding;
      begin = std::min(axis.pooled, (axis.padding + axis.stride - 1) / axis.stride);
      end = room < 0 ? begin : std::max(begin, std::min(axis.pooled, room / axis.stride + 1));
    }
    for (int64_t w = 0; w < begin; ++w) f(w, at_border(d, h, w, indices[w]));
    whole_windows(windows_.index_of(windows_.axes[0].start(d), windows_.axes[1].start(h), 0), begin,
                  end, indices, f);
    for (int64_t w = end; w < axis.pooled; ++w) f(w, at_border(d, h, w, indices[w]));
  }

 private:
  static constexpr int64_t kBeyond = std::numeric_limits<int64_t>::min() / 2;
  static constexpr int64_t kMostListed = 1 << 16;

  struct Position {
    int64_t d, h, w;
  };

  bool is_whole(int a, int64_t p) const {
    const Axis& axis = windows_.axes[a];
    return axis.start(p) >= 0 && axis.start(p) + (axis.kernel - 1) * axis.dilation < axis.image;
  }

  template <typename F>
  void whole_windows(int64_t row, int64_t begin, int64_t end, const Index* indices,
                     const F& f) const {
    const int64_t stride = windows_.axes[2].stride, listed = is_offset_.size();
    int64_t origin = row + windows_.axes[2].start(begin);
    for (int64_t w = begin; w < end; ++w, origin += stride) {
      if constexpr (kCodes<Index>) {
        f(w, origin + offsets_[indices[w]]);
      } else {
        const uint64_t offset = uint64_t(int64_t(indices[w]) - origin);
        f(w, offset < uint64_t(listed) && is_offset_[offset] ? int64_t(indices[w]) : kNowhere);
      }
    }
  }

  int64_t at_border(int64_t d, int64_t h, int64_t w, Index index) const {
    if constexpr (kCodes<Index>) {
      if (index >= positions_.size()) return kNowhere;
      const auto& [depth, height, width] = windows_.axes;
      const Position& at = positions_[index];
      const int64_t plane = depth.start(d) + at.d, row = height.start(h) + at.h;
      const int64_t column = width.start(w) + at.w;
      const bool inside = uint64_t(plane) < uint64_t(depth.image) &&
                          uint64_t(row) < uint64_t(height.image) &&
                          uint64_t(column) < uint64_t(width.image);
      return inside ? windows_.index_of(plane, row, column) : kNowhere;
    } else {
      return is_own(d, h, w, index) ? int64_t(index) : kNowhere;
    }
  }

  bool is_own(int64_t d, int64_t h, int64_t w, int64_t index) const {
    const auto& [depth, height, width] = windows_.axes;
    if (uint64_t(index) >= uint64_t(windows_.image())) return false;
    int64_t plane = 0, row, column;
    if (windows_.image() <= std::numeric_limits<uint32_t>::max()) {
      const uint32_t rows = uint32_t(index) / uint32_t(width.image);
      column = uint32_t(index) - rows * uint32_t(width.image);
      row = depth.image > 1 ? rows % uint32_t(height.image) : rows;
      if (depth.image > 1) plane = rows / uint32_t(height.image);
    } else {
      column = index % width.image;
      row = index / width.image % height.image;
      plane = index / width.image / height.image;
    }
    return holds(width, w, column) && holds(height, h, row) && holds(depth, d, plane);
  }

  static bool holds(const Axis& axis, int64_t p, int64_t o) {
    const int64_t distance = o - axis.start(p);
    return uint64_t(distance) <= uint64_t((axis.kernel - 1) * axis.dilation) &&
           (axis.dilation == 1 || distance % axis.dilation == 0);
  }

  Windows<int64_t> windows_;
  bool own_;
  std::vector<Position> positions_;
  std::vector<int64_t> offsets_;    // of each code from the start of its window
  std::vector<uint8_t> is_offset_;  // whether a distance from there is one of them
};

// A plane of results that are zero but for some. The zeros run ahead of what is written in order,
// so that memory is passed once.
template <typename U>
class Plane {
 public:
  Plane(U* data, int64_t size) : data_(data), size_(size) {}

  U& at(int64_t place) {
    if (__builtin_expect(place >= ready_, 0)) clear(place);
    return data_[place];
  }
  void finish() { clear(size_); }

 private:
  static constexpr int64_t kAhead = 16384;

  __attribute__((noinline)) void clear(int64_t place) {
    const int64_t end = std::min(size_, place + kAhead);
    std::memset(static_cast<void*>(data_ + ready_), 0, (end - ready_) * sizeof(U));
    ready_ = end;
  }

  U* data_;
  int64_t size_, ready_ = 0;
};

inline std::string joined(const std::vector<int64_t>& numbers, const char* separator) {
  std::string text;
  for (size_t i = 0; i < numbers.size(); ++i) {
    text += (i ? separator : "") + std::to_string(numbers[i]);
  }
  return text;
}

// Names the first index that names no place.
template <typename Index>
void refuse_first(const Pooling& call, const Tensor& indices) {
  const Tensor ordered = torch::stable::contiguous(indices);
  const Index* data = data_of<Index>(ordered);
  const auto& [d, h, w] = call.windows.axes;
  const Places<Index> places(call.windows, false);
  int64_t bad = -1;
  for (int64_t r = 0; bad < 0 && r < call.planes() * d.pooled * h.pooled; ++r) {
    const Row at(r, d.pooled, h.pooled);
    places.row(at.d, at.h, data + r * w.pooled, [&](int64_t i, int64_t place) {
      if (bad < 0 && place < 0) bad = r * w.pooled + i;
    });
  }
  if (bad < 0) return;
  const auto spatial = [&](auto field) {
    Sizes sizes;
    for (int64_t a = 5 - indices.dim(); a < 3; ++a) sizes.push_back(call.windows.axes[a].*field);
    return joined(sizes, " x ");
  };
  Sizes place;
  for (int64_t a = indices.dim() - 1, rest = bad; a >= 0; rest /= indices.size(a), --a) {
    place.insert(place.begin(), rest % indices.size(a));
  }
  const int64_t got = data[bad], positions = call.windows.positions(), image = call.windows.image();
  const std::string at = " at (" + joined(place, ", ") + ")", plane = spatial(&Axis::image);
  STD_TORCH_CHECK(kCodes<Index>, "pyaegpu: indices must lie within the output plane of ", plane,
                  " (0 to ", image - 1, "); got ", got, at);
  STD_TORCH_CHECK(got < positions, "pyaegpu: indices must be codes of a ", spatial(&Axis::kernel),
                  " window (0 to ", positions - 1, "); got ", got, at);
  STD_TORCH_CHECK(false,
                  "pyaegpu: indices must be codes whose places lie within the output plane of ",
                  plane, "; got ", got, at);
}

}  // namespace pyaegpu::cpu
