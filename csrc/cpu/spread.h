// From the pooled to the image: every value at the place that its index names, or sums of those
// that share one.
#pragma once

#include <memory>

#include "choose.h"
#include "places.h"

namespace pyaegpu::cpu {

// What part of the pooled had an index that is not of its own window, for each plane in memory.
class Strays {
 public:
  explicit Strays(const Pooling& call) : found_(call.blocks()) {}

  void set(int64_t block) { found_[block].store(true, std::memory_order_relaxed); }
  bool at(int64_t block) const { return found_[block].load(std::memory_order_relaxed); }
  bool any() const {
    for (const auto& found : found_) {
      if (found.load(std::memory_order_relaxed)) return true;
    }
    return false;
  }

 private:
  std::vector<std::atomic<bool>> found_;
};

// Zeros what lies behind the windows of a run, which has written two rows of the image for each.
template <typename U>
void clear_behind_pairs(const Pooling& call, const RowRun& run, U* plane) {
  const Axis &d = call.depth(), &h = call.height(), &w = call.width();
  const auto clear = [&](int64_t from, int64_t to) {
    std::memset(static_cast<void*>(plane + from * call.pixel()), 0,
                (to - from) * call.pixel() * sizeof(U));
  };
  const int64_t first = call.windows.index_of(run.d, 0, 0);
  for (int64_t row = 2 * run.begin; 2 * w.pooled < w.image && row < 2 * run.end; ++row) {
    clear(first + row * w.image + 2 * w.pooled, first + (row + 1) * w.image);
  }
  if (run.end < h.pooled) return;
  const bool last = run.d + 1 == d.pooled;
  clear(first + 2 * run.end * w.image,
        last ? call.windows.image() : call.windows.index_of(run.d + 1, 0, 0));
}

template <typename U, typename Index>
void spread_all_pairs(const Pooling& call, const U* values, const Index* indices, U* image,
                      Strays& strays) {
  const int64_t n = call.width().pooled, width = call.width().image, pixel = call.pixel();
  for_each_run(call, 4 * n * pixel, [&](const RowRun& run) {
    U* plane = image + run.block * call.windows.image() * pixel;
    const int64_t origin = call.windows.index_of(run.d, 2 * run.begin, 0);
    const int64_t rows = run.end - run.begin;
    U* to = plane + origin * pixel;
    const U* from = values + run.index * n * pixel;
    const Index* asked = indices + run.index * n * pixel;
    const bool own = with_strip(call.channels_last ? pixel : n, [&](auto strip) {
      constexpr int64_t kStrip = decltype(strip)::value;
      return call.channels_last
                 ? spread_pixel_pairs<kStrip>(from, asked, to, width, origin, rows, n, pixel)
                 : spread_pairs<kStrip>(from, asked, to, width, origin, rows, n);
    });
    if (!own) strays.set(run.block);
    clear_behind_pairs(call, run, plane);
  });
}

// For channels last: asks every element of the image which of the windows that may hold it chose
// it. f(first, last) is told the windows of pixel w of an image row `r`, as places in the pooled
// and what their indices have to be.
template <typename Index>
class Holders {
 public:
  struct Holder {
    int64_t window;
    Index key;
  };

  explicit Holders(const Pooling& call)
      : call_(call), depth_(call.depth()), height_(call.height()), width_(call.width()) {}

  void list(const Row& o, int64_t w, std::vector<Holder>& holders) const {
    holders.clear();
    const int64_t place = call_.windows.index_of(o.d, o.h, w);
    const int64_t block = o.block * call_.windows.pooled();
    for (auto d = depth_.begin(o.d); d != depth_.end(o.d); ++d) {
      for (auto h = height_.begin(o.h); h != height_.end(o.h); ++h) {
        const int64_t row = (d->window * call_.height().pooled + h->window) * call_.width().pooled;
        for (auto at = width_.begin(w); at != width_.end(w); ++at) {
          const int64_t key =
              kCodes<Index> ? call_.windows.code_of(d->position, h->position, at->position) : place;
          holders.push_back({block + row + at->window, Index(key)});
        }
      }
    }
  }

  // Calls f(row, element of the image, channels from there on, holders) for all blocks of channels.
  template <typename F>
  void for_each(const F& f) const {
    const int64_t depth = call_.depth().image, height = call_.height().image;
    const int64_t width = call_.width().image, channels = call_.channels;
    const int64_t rows = call_.images * depth * height;
    for_each_range(rows, 2 * width * channels, [&](int64_t first, int64_t last) {
      std::vector<Holder> holders;
      for (int64_t i = first * width; i < last * width; ++i) {
        const Row o(i / width, depth, height);
        list(o, i % width, holders);
        for (int64_t c = 0; c < channels; c += kChannels) {
          f(o, i, c, std::min(kChannels, channels - c), holders);
        }
      }
    });
  }

 private:
  const Pooling& call_;
  Candidates depth_, height_, width_;
};

template <typename U, typename Index>
void choose_all(const Pooling& call, const U* values, const Index* indices, U* image,
                Strays& strays) {
  std::vector<std::atomic<int64_t>> found(call.images);
  Holders<Index>(call).for_each([&](const Row& o, int64_t pixel, int64_t c, int64_t n,
                                    const auto& holders) {
    U* to = image + pixel * call.channels + c;
    int64_t here = 0;
    for (size_t k = 0; k < holders.size(); ++k) {
      const int64_t from = holders[k].window * call.channels + c;
      here +=
          (k == 0 ? choose<true, U, Index> : choose<false, U, Index>)(values + from, indices + from,
                                                                      holders[k].key, to, n);
    }
    if (holders.empty()) std::fill(to, to + n, U(0));
    found[o.block].fetch_add(here, std::memory_order_relaxed);
  });
  for (int64_t n = 0; n < call.images; ++n) {
    if (found[n].load() != call.pooled_size()) strays.set(n);
  }
}

// The values of a plane one after the other: the last of several in one place stays.
template <typename U, typename Index>
bool scatter_plane(const Pooling& call, const Places<Index>& places, const U* values,
                   const Index* indices, U* image) {
  const Axis &d = call.depth(), &h = call.height(), &w = call.width();
  Plane<U> plane(image, call.windows.image());
  bool all = true;
  for (int64_t r = 0; r < d.pooled * h.pooled; ++r) {
    const U* from = values + r * w.pooled;
    places.row(r / h.pooled, r % h.pooled, indices + r * w.pooled, [&](int64_t i, int64_t place) {
      if (place >= 0) plane.at(place) = from[i];
      all = all && place >= 0;
    });
  }
  plane.finish();
  return all;
}

template <typename U, typename Index>
bool scatter_image(const Pooling& call, const U* values, const Index* indices, U* image) {
  std::memset(static_cast<void*>(image), 0, call.image_size() * sizeof(U));
  bool all = true;
  for (int64_t i = 0; i < call.pooled_size(); ++i) {
    const int64_t place = indices[i];
    const bool inside = place >= 0 && place < call.windows.image();
    if (inside) image[place * call.channels + i % call.channels] = values[i];
    all = all && inside;
  }
  return all;
}

// Planes with indices of other windows again, in order. `all` of them: nothing is written yet.
// Whether every index names a place.
template <typename U, typename Index>
bool scatter_all(const Pooling& call, const U* values, const Index* indices, U* image,
                 const Strays& strays, bool all) {
  const Places<Index> places(call.windows, false);
  const int64_t pooled = call.windows.pooled() * call.pixel();
  const int64_t size = call.windows.image() * call.pixel();
  std::atomic<bool> right(true);
  for_each_range(call.blocks(), size, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      if (!all && !strays.at(b)) continue;
      const U* from = values + b * pooled;
      const Index* at = indices + b * pooled;
      U* to = image + b * size;
      const bool inside = call.channels_last ? scatter_image(call, from, at, to)
                                             : scatter_plane(call, places, from, at, to);
      if (!inside) right.store(false, std::memory_order_relaxed);
    }
  });
  return right.load();
}

template <typename T, typename Index>
void add_plane(const Pooling& call, const Places<Index>& places, const T* g, const Index* indices,
               Accumulator<T>* buffer, T* image) {
  using A = Accumulator<T>;
  const int64_t size = call.windows.image(), pooled_height = call.height().pooled;
  A* sums = target_of(image, buffer);
  Plane<A> plane(sums, size);
  const int64_t width = call.width().pooled;
  for (int64_t r = 0; r < call.depth().pooled * pooled_height; ++r) {
    const T* from = g + r * width;
    places.row(r / pooled_height, r % pooled_height, indices + r * width,
               [&](int64_t i, int64_t place) {
                 if (place >= 0) plane.at(place) += A(from[i]);
               });
  }
  plane.finish();
  store(image, sums, size);
}

template <typename T, typename Index>
void add_all_planes(const Pooling& call, const T* g, const Index* indices, T* image) {
  const Places<Index> places(call.windows, true);
  const int64_t pooled = call.windows.pooled(), size = call.windows.image();
  for_each_range(call.planes(), size, [&](int64_t first, int64_t last) {
    using A = Accumulator<T>;
    const std::unique_ptr<A[]> buffer(std::is_same_v<T, A> ? nullptr : new A[size]);
    for (int64_t p = first; p < last; ++p) {
      add_plane(call, places, g + p * pooled, indices + p * pooled, buffer.get(), image + p * size);
    }
  });
}

template <typename T, typename Index>
void add_all_pixels(const Pooling& call, const T* g, const Index* indices, T* image) {
  using A = Accumulator<T>;
  Holders<Index>(call).for_each([&](const Row&, int64_t pixel, int64_t c, int64_t n,
                                    const auto& holders) {
    alignas(64) A buffer[kChannels];
    T* to = image + pixel * call.channels + c;
    A* sums = target_of(to, buffer);
    for (size_t k = 0; k < holders.size(); ++k) {
      const int64_t from = holders[k].window * call.channels + c;
      (k == 0 ? add_chosen<true, T, A, Index>
              : add_chosen<false, T, A, Index>)(g + from, indices + from, holders[k].key, sums, n);
    }
    if (holders.empty()) std::fill(sums, sums + n, A(0));
    store(to, sums, n);
  });
}

}  // namespace pyaegpu::cpu
