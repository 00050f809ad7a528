// Max-pooling on the CPU: a row of pooled elements at a time, position by position of their
// windows.
#pragma once

#include "pool_pairs.h"

namespace pyaegpu::cpu {

// A value of T that was widened, as it was.
template <typename T, typename A>
PYAEGPU_HD T unwidened(A value) {
  if constexpr (std::is_same_v<T, torch::headeronly::BFloat16>) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return T(uint16_t(bits >> 16), T::from_bits());
  } else {
    return static_cast<T>(value);
  }
}

// best = from, the first of its window
template <typename T, typename A, typename M>
PYAEGPU_CLONES static void begin_with(const T* __restrict__ from, M mark, A* __restrict__ best,
                                      M* __restrict__ marks, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    best[i] = A(from[i]);
    marks[i] = mark;
  }
}

// STEP: the distance of the elements in `from`; 0: `step`.
template <int64_t STEP, typename T, typename A, typename M>
PYAEGPU_CLONES static void challenge_run(const T* __restrict__ from, int64_t step, M mark,
                                         A* __restrict__ best, M* __restrict__ marks, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    challenge(A(from[i * (STEP ? STEP : step)]), mark, best[i], marks[i]);
  }
}

template <typename T, typename A, typename M>
void challenge_all(const T* from, int64_t step, M mark, A* best, M* marks, int64_t n) {
  const auto run = step == 1   ? challenge_run<1, T, A, M>
                   : step == 2 ? challenge_run<2, T, A, M>
                               : challenge_run<0, T, A, M>;
  run(from, step, mark, best, marks, n);
}

template <typename T, typename A>
PYAEGPU_CLONES static void write_values(const A* __restrict__ best, T* __restrict__ out,
                                        int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = unwidened<T>(best[i]);
}

// indices[i] = origin + i * step + marks[i]
template <typename Index, typename M>
PYAEGPU_CLONES static void write_indices(const M* __restrict__ marks, int64_t origin, int64_t step,
                                         Index* __restrict__ indices, int64_t n) {
  for (int64_t i = 0; i < n; ++i) indices[i] = Index(origin + i * step + int64_t(marks[i]));
}

// M: lanes that hold every mark.
template <typename T, typename Index, typename M>
class MaxPool {
 public:
  using A = Accumulator<T>;

  MaxPool(const Pooling& call, const T* input, T* out, Index* indices)
      : call_(call), input_(input), out_(out), indices_(indices) {}

  void operator()() const {
    const Axis &d = call_.depth(), &h = call_.height(), &w = call_.width();
    const int64_t width = w.pooled * call_.pixel(), elements = width * call_.windows.positions();
    if (call_.in_pairs()) {
      return for_each_run(call_, elements, [&](const RowRun& run) { pairs(run); });
    }
    for_each_range(call_.blocks() * d.pooled * h.pooled, elements,
                   [&](int64_t first, int64_t last) {
                     for (int64_t r = first; r < last; ++r)
                       row(Row(r, d.pooled, h.pooled), r * width);
                   });
  }

 private:
  void row(const Row& p, int64_t at) const {
    if (call_.channels_last) return pixels(p, at);
    for (int64_t w = 0; w < call_.width().pooled; w += kTile) {
      columns(p, w, std::min(kTile, call_.width().pooled - w), at + w);
    }
  }

  const T* block(int64_t index) const {
    return input_ + index * call_.windows.image() * call_.pixel();
  }

  void pairs(const RowRun& run) const {
    const int64_t n = call_.width().pooled, width = call_.width().image;
    const int64_t origin = call_.windows.index_of(run.d, 2 * run.begin, 0);
    const int64_t rows = run.end - run.begin, at = run.index * n * call_.pixel();
    const auto* image =
        reinterpret_cast<const Moved<T>*>(block(run.block)) + origin * call_.pixel();
    auto* to = reinterpret_cast<Moved<T>*>(out_) + at;
    const auto with = [&](auto strip) {
      constexpr int64_t kStrip = decltype(strip)::value;
      if (call_.channels_last) {
        pool_pixel_pairs<kStrip, T>(image, width, to, indices_ + at, origin, rows, n,
                                    call_.channels);
      } else {
        pool_pairs<kStrip, T>(image, width, to, indices_ + at, origin, rows, n);
      }
    };
    const int64_t most = call_.channels_last ? call_.channels : n;
    if (kHalf<T> && most >= 16) return with(std::integral_constant<int64_t, kHalf<T> ? 16 : 8>());
    with_strip(most, with);
  }

  M mark_of(int64_t d, int64_t h, int64_t w) const {
    if constexpr (kCodes<Index>) return M(call_.windows.code_of(d, h, w));
    return M(call_.windows.index_of(d * call_.depth().dilation, h * call_.height().dilation,
                                    w * call_.width().dilation));
  }

  int64_t origin_of(const Row& p, int64_t w) const {
    if constexpr (kCodes<Index>) return 0;
    return call_.windows.index_of(call_.depth().start(p.d), call_.height().start(p.h),
                                  call_.width().start(w));
  }

  // Calls f(row of the image, d, h) for the positions inside, in order.
  template <typename F>
  void for_each_image_row(const Row& p, const F& f) const {
    const Axis &d = call_.depth(), &h = call_.height();
    for (int64_t kd = d.first_position(p.d); kd < d.end_position(p.d); ++kd) {
      for (int64_t kh = h.first_position(p.h); kh < h.end_position(p.h); ++kh) {
        f(call_.windows.index_of(d.start(p.d) + kd * d.dilation, h.start(p.h) + kh * h.dilation, 0),
          kd, kh);
      }
    }
  }

  // Pooled elements [first, first + n) of a row of a plane.
  void columns(const Row& p, int64_t first, int64_t n, int64_t at) const {
    alignas(64) A buffer[kTile];
    alignas(64) M marks[kTile];
    const Axis& w = call_.width();
    A* best = target_of(out_ + at, buffer);
    const int64_t d = call_.depth().first_position(p.d), h = call_.height().first_position(p.h);
    for (int64_t i = 0; i < n; ++i) {
      best[i] = -std::numeric_limits<A>::infinity();
      marks[i] = mark_of(d, h, w.first_position(first + i));
    }
    for_each_image_row(p, [&](int64_t from, int64_t kd, int64_t kh) {
      for (int64_t kw = 0; kw < w.kernel; ++kw) {
        // The windows whose position is inside.
        const int64_t shift = kw * w.dilation - w.padding;
        const int64_t begin = std::max(first, shift < 0 ? (-shift + w.stride - 1) / w.stride : 0);
        const int64_t end =
            std::min(first + n, w.image > shift ? (w.image - shift - 1) / w.stride + 1 : 0);
        if (begin >= end) continue;
        challenge_all(block(p.block) + from + begin * w.stride + shift, w.stride,
                      mark_of(kd, kh, kw), best + (begin - first), marks + (begin - first),
                      end - begin);
      }
    });
    store(out_ + at, best, n);
    write(marks, origin_of(p, first), w.stride, at, n);
  }

  void pixels(const Row& p, int64_t at) const {
    for (int64_t w = 0; w < call_.width().pooled; ++w) {
      for (int64_t c = 0; c < call_.channels; c += kChannels) {
        pixel(p, w, c, std::min(kChannels, call_.channels - c), at + w * call_.channels + c);
      }
    }
  }

  // Channels [c, c + n) of a pixel.
  void pixel(const Row& p, int64_t w, int64_t c, int64_t n, int64_t at) const {
    alignas(64) A buffer[kChannels];
    alignas(64) M marks[kChannels];
    const Axis& axis = call_.width();
    A* best = target_of(out_ + at, buffer);
    const int64_t first = axis.first_position(w), end = axis.end_position(w);
    bool begun = false;
    for_each_image_row(p, [&](int64_t row, int64_t kd, int64_t kh) {
      for (int64_t kw = first; kw < end; ++kw) {
        const int64_t place = row + axis.start(w) + kw * axis.dilation;
        const T* from = block(p.block) + place * call_.channels + c;
        const M mark = mark_of(kd, kh, kw);
        if (begun) {
          challenge_run<1>(from, 1, mark, best, marks, n);
        } else {
          begin_with(from, mark, best, marks, n);
        }
        begun = true;
      }
    });
    if (!begun) {
      std::fill(best, best + n, -std::numeric_limits<A>::infinity());
      std::fill(
          marks, marks + n,
          mark_of(call_.depth().first_position(p.d), call_.height().first_position(p.h), first));
    }
    store(out_ + at, best, n);
    write(marks, origin_of(p, w), 0, at, n);
  }

  void write(const M* marks, int64_t origin, int64_t step, int64_t at, int64_t n) const {
    if constexpr (!std::is_same_v<Index, NoIndices>) {
      write_indices(marks, kCodes<Index> ? 0 : origin, kCodes<Index> ? 0 : step, indices_ + at, n);
    }
  }

  Pooling call_;
  const T* input_;
  T* out_;
  Index* indices_;
};

}  // namespace pyaegpu::cpu
