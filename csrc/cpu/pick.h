// From the image back to the pooled: to every index the value at the place that it names.
#pragma once

#include "choose.h"
#include "places.h"

namespace pyaegpu::cpu {

// Any place inside the image, element by element of a plane in memory.
template <typename U, typename Index>
void pick_anywhere(const U* plane, int64_t places, const Index* indices, U* out, int64_t n,
                   int64_t pixel) {
  for (int64_t i = 0; i < n; ++i) {
    const int64_t place = indices[i];
    out[i] = place >= 0 && place < places ? plane[place * pixel + i % pixel] : U(0);
  }
}

template <typename U, typename Index>
class Pick {
 public:
  Pick(const Pooling& call, const U* g, const Index* indices, U* out)
      : call_(call), places_(call.windows, false), g_(g), indices_(indices), out_(out) {}

  void operator()() const {
    const int64_t depth = call_.depth().pooled, height = call_.height().pooled;
    const int64_t width = call_.width().pooled * call_.pixel();
    if (call_.in_pairs()) {
      return for_each_run(call_, 4 * width, [&](const RowRun& run) { pairs(run); });
    }
    for_each_range(call_.blocks() * depth * height, 4 * width, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) row(Row(r, depth, height), r * width);
    });
  }

 private:
  const U* plane_of(int64_t block) const {
    return g_ + block * call_.windows.image() * call_.pixel();
  }

  void row(const Row& p, int64_t at) const {
    const U* plane = plane_of(p.block);
    if (call_.channels_last) return pixels(p, plane, at);
    places_.row(p.d, p.h, indices_ + at,
                [&](int64_t i, int64_t place) { out_[at + i] = place >= 0 ? plane[place] : U(0); });
  }

  void pairs(const RowRun& run) const {
    const int64_t n = call_.width().pooled, width = call_.width().image, pixel = call_.pixel();
    const int64_t origin = call_.windows.index_of(run.d, 2 * run.begin, 0);
    const int64_t rows = run.end - run.begin, at = run.index * n * pixel;
    const U *plane = plane_of(run.block), *image = plane + origin * pixel;
    const Index* asked = indices_ + at;
    U* to = out_ + at;
    const bool own = with_strip(call_.channels_last ? pixel : n, [&](auto strip) {
      constexpr int64_t kStrip = decltype(strip)::value;
      return call_.channels_last
                 ? pick_pixel_pairs<kStrip>(image, width, asked, to, origin, rows, n, pixel)
                 : pick_pairs<kStrip>(image, width, asked, to, origin, rows, n);
    });
    if (!own) anywhere(plane, at, rows * n * pixel);
  }

  // A code that is not of the window names no place: what is written is right.
  void anywhere(const U* plane, int64_t at, int64_t n) const {
    if constexpr (!kCodes<Index>) {
      pick_anywhere(plane, call_.windows.image(), indices_ + at, out_ + at, n, call_.pixel());
    }
  }

  void pixels(const Row& p, const U* plane, int64_t at) const {
    const int64_t channels = call_.channels;
    for (int64_t w = 0; w < call_.width().pooled; ++w) {
      int64_t found = 0;
      for (int64_t c = 0; c < channels; c += kChannels) {
        found += window(p, w, plane + c, at + w * channels + c, std::min(kChannels, channels - c));
      }
      if (found != channels) anywhere(plane, at + w * channels, channels);
    }
  }

  // Asks every position of the window, in one block of channels.
  int64_t window(const Row& p, int64_t w, const U* plane, int64_t at, int64_t n) const {
    const auto& [d, h, v] = call_.windows.axes;
    int64_t found = 0;
    bool begun = false;
    for (int64_t kd = d.first_position(p.d); kd < d.end_position(p.d); ++kd) {
      for (int64_t kh = h.first_position(p.h); kh < h.end_position(p.h); ++kh) {
        for (int64_t kw = v.first_position(w); kw < v.end_position(w); ++kw) {
          const int64_t place =
              call_.windows.index_of(d.start(p.d) + kd * d.dilation, h.start(p.h) + kh * h.dilation,
                                     v.start(w) + kw * v.dilation);
          const int64_t key = kCodes<Index> ? call_.windows.code_of(kd, kh, kw) : place;
          found += (begun ? choose<false, U, Index>
                          : choose<true, U, Index>)(plane + place * call_.channels, indices_ + at,
                                                    Index(key), out_ + at, n);
          begun = true;
        }
      }
    }
    if (!begun) std::fill(out_ + at, out_ + at + n, U(0));
    return found;
  }

  Pooling call_;
  Places<Index> places_;
  const U* g_;
  const Index* indices_;
  U* out_;
};

}  // namespace pyaegpu::cpu
