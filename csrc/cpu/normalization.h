// Normalisation of every channel and its activation, as the CPU's loops run it.
#pragma once

#include "../common/activations.h"
#include "channels.h"
#include "tiles.h"

namespace pyaegpu::cpu {

// What the loops read of every channel; where memory is walked in columns, once for each column of
// the rows put side by side, and further on, so that a tile may begin anywhere.
template <typename A>
class Pattern {
 public:
  Pattern(const Channels& channels, const std::vector<A>& values) : run_(channels.run) {
    if (!channels.in_columns()) {
      values_ = values;
      return;
    }
    period_ = channels.width();
    values_.resize(period_ + kTile + kLine / sizeof(A));
    // From the start of a cache line, so that the widest loads touch one line each.
    const auto address = reinterpret_cast<uintptr_t>(values_.data());
    start_ = (kLine - address % kLine) % kLine / sizeof(A);
    A* const from = values_.data() + start_;
    for (int64_t c = 0; c < channels.count; ++c) std::fill_n(from + c * run_, run_, values[c]);
    for (int64_t i = period_; i < period_ + kTile; ++i) from[i] = from[i - period_];
  }
  Pattern(const Pattern&) = delete;  // the copy would start elsewhere

  const A* columns(int64_t index) const { return values_.data() + start_ + index % period_; }
  A channel(int64_t c) const { return values_[c]; }

 private:
  static constexpr int64_t kLine = 64;

  int64_t run_, period_ = 1, start_ = 0;
  std::vector<A> values_;
};

// z = (x - mean) * gain + shift, of every channel.
template <typename A>
struct Normalization {
  Channels channels;
  Pattern<A> mean, gain, shift;

  Normalization(const Channels& channels_, const std::vector<A>& mean_,
                const std::vector<A>& invstd, const MaybeTensor& weight, const MaybeTensor& bias)
      : channels(channels_),
        mean(channels, mean_),
        gain(channels, product(parameter<A>(weight, channels.count, A(1)), invstd)),
        shift(channels, parameter<A>(bias, channels.count, A(0))) {}

  static std::vector<A> product(std::vector<A> values, const std::vector<A>& by) {
    for (size_t c = 0; c < values.size(); ++c) values[c] *= by[c];
    return values;
  }
};

// One value for all elements of a loop.
template <typename A>
struct Same {
  A value;
  A operator[](int64_t) const { return value; }
};

// Calls f(i, n, at) for pieces of memory from index i, where at(pattern) is what the elements have
// in common or, of columns, one value for each.
template <typename T, typename F>
void for_each_piece(const Channels& channels, const F& f) {
  using A = Accumulator<T>;
  if (channels.in_columns()) {
    const auto piece = [&](int64_t i, int64_t n, int64_t) {
      f(i, n, [i](const Pattern<A>& pattern) { return pattern.columns(i); });
    };
    return for_each_tile(Split(1, channels.total), piece);
  }
  const Split split(channels.total / channels.run, channels.run);
  const auto pieces = [&](int64_t begin, int64_t n, int64_t) {
    for (int64_t i = begin, end = begin + n; i < end;) {
      const int64_t stop = split.row_end(i, end), c = i / channels.run % channels.count;
      f(i, stop - i, [c](const Pattern<A>& pattern) { return Same<A>{pattern.channel(c)}; });
      i = stop;
    }
  };
  for_each_tile(split, pieces, kLongTile<T>);
}

template <int64_t ACTIVATION, typename A, typename V>
PYAEGPU_CLONES static void normalize(const A* x, A* out, V mean, V gain, V shift, A slope,
                                     int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    out[i] = activate<ACTIVATION>((x[i] - mean[i]) * gain[i] + shift[i], slope);
  }
}

template <int64_t ACTIVATION, typename T, typename A>
void normalize_all(const T* x, T* out, const Normalization<A>& by, A slope) {
  for_each_piece<T>(by.channels, [&](int64_t i, int64_t n, const auto& at) {
    A read[kTile], written[kTile];
    A* to = target_of(out + i, written);
    normalize<ACTIVATION>(load(x + i, read, n), to, at(by.mean), at(by.gain), at(by.shift), slope,
                          n);
    store(out + i, to, n);
  });
}

}  // namespace pyaegpu::cpu
