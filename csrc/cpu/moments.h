// Sums over every channel of a layer's output on the CPU: the statistics that normalise it, and
// what their derivatives need. Parts have fixed sizes, so that sums do not depend on the thread
// count.
#pragma once

#include <cmath>

#include "channels.h"
#include "tiles.h"

namespace pyaegpu::cpu {

constexpr int64_t kMaxParts = 64;
// A tile of columns, which stays in the second-level cache.
constexpr int64_t kColumns = 256, kRows = 128;

// Count, sum and the sum of squares about the mean.
struct Moments {
  double count = 0, sum = 0, m2 = 0;

  // Chan, Golub & LeVeque 1979.
  void merge(const Moments& other) {
    if (other.count == 0) return;
    if (count > 0) {
      const double delta = other.mean() - mean();
      m2 += delta * delta * count * other.count / (count + other.count);
    }
    m2 += other.m2;
    count += other.count;
    sum += other.sum;
  }
  double mean() const { return sum / count; }
};

// `rows` rows of `width` columns from index `begin`; a column belongs to channel
// (column / run) % count.
struct Part {
  int64_t begin, rows, width;
};

// Short rows are put side by side, for longer loops; those that fill no such row come last.
inline std::vector<Part> column_parts(const Channels& channels) {
  const int64_t width = channels.width(), rows = channels.total / width;
  const int64_t beside = std::max<int64_t>(1, std::min(rows, kColumns / width));
  const int64_t wide = rows / beside;
  const int64_t each = std::max<int64_t>(kRows, (wide + kMaxParts - 1) / kMaxParts);
  std::vector<Part> parts;
  for (int64_t r = 0; r < wide; r += each) {
    parts.push_back({r * beside * width, std::min(each, wide - r), beside * width});
  }
  if (wide * beside < rows) parts.push_back({wide * beside * width, rows - wide * beside, width});
  return parts;
}

// Calls f(first, second) for every pair, in parallel; together they walk `elements`.
template <typename F>
void for_each_pair(int64_t firsts, int64_t seconds, int64_t elements, const F& f) {
  const int64_t items = firsts * seconds;
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, elements / items));
  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) f(item / seconds, item % seconds);
  };
  if (items <= grain) {
    run(0, items);
  } else {
    torch::stable::parallel_for(0, items, grain, run);
  }
}

// What `statistic` gathers of each channel: its State has merge(), and it offers
//   run(begin, n, channel, state)               n elements of one channel, in memory from `begin`
//   columns(begin, rows, width, n, channel_of, states)   n columns of each of some rows
template <typename Statistic>
std::vector<typename Statistic::State> over_runs(const Channels& channels,
                                                 const Statistic& statistic) {
  using State = typename Statistic::State;
  const int64_t images = channels.total / channels.width();
  const int64_t each = (images + kMaxParts - 1) / kMaxParts, parts = (images + each - 1) / each;
  // Channels that lie together, so that memory is read in its order.
  const int64_t group = std::min(channels.count, kBlock / channels.run + 1);
  const int64_t groups = (channels.count + group - 1) / group;
  std::vector<State> states(parts * channels.count);
  for_each_pair(parts, groups, channels.total, [&](int64_t part, int64_t i_group) {
    const int64_t end = std::min((part + 1) * each, images);
    const int64_t last = std::min((i_group + 1) * group, channels.count);
    for (int64_t image = part * each; image < end; ++image) {
      for (int64_t channel = i_group * group; channel < last; ++channel) {
        State& state = states[part * channels.count + channel];
        const int64_t begin = (image * channels.count + channel) * channels.run;
        for (int64_t i = 0; i < channels.run; i += kTile) {
          statistic.run(begin + i, std::min(kTile, channels.run - i), channel, state);
        }
      }
    }
  });
  for (int64_t i = channels.count; i < int64_t(states.size()); ++i) {
    states[i % channels.count].merge(states[i]);
  }
  states.resize(channels.count);
  return states;
}

template <typename Statistic>
std::vector<typename Statistic::State> over_columns(const Channels& channels,
                                                    const Statistic& statistic) {
  using State = typename Statistic::State;
  const std::vector<Part> parts = column_parts(channels);
  const int64_t width = parts[0].width, tiles = (width + kColumns - 1) / kColumns;
  std::vector<State> states(parts.size() * width);
  for_each_pair(parts.size(), tiles, channels.total, [&](int64_t i, int64_t tile) {
    const Part& part = parts[i];
    const int64_t first = tile * kColumns, n = std::min(kColumns, part.width - first);
    for (int64_t row = 0; row < part.rows && n > 0; row += kRows) {
      statistic.columns(part.begin + row * part.width + first, std::min(kRows, part.rows - row),
                        part.width, n, &states[i * width + first]);
    }
  });
  std::vector<State> totals(channels.count);
  for (int64_t i = 0; i < int64_t(states.size()); ++i) {
    totals[i % width / channels.run % channels.count].merge(states[i]);
  }
  return totals;
}

template <typename Statistic>
std::vector<typename Statistic::State> over_channels(const Channels& channels,
                                                     const Statistic& statistic) {
  return channels.in_columns() ? over_columns(channels, statistic) : over_runs(channels, statistic);
}

template <typename A>
PYAEGPU_CLONES static void deviations(const A* __restrict__ x, A mean, int64_t n,
                                      A* __restrict__ sum, A* __restrict__ squares) {
  A first = 0, second = 0;
#pragma omp simd reduction(+ : first, second)
  for (int64_t i = 0; i < n; ++i) {
    const A d = x[i] - mean;
    first += d;
    second += d * d;
  }
  *sum = first;
  *squares = second;
}

// Sums over `rows` rows of n columns, `pitch` apart. Row by row: this pass brings them into the
// cache, and memory is fastest in its own order.
template <typename A>
PYAEGPU_CLONES static void add_rows(const A* x, int64_t pitch, int64_t rows, A* sums, int64_t n) {
  for (int64_t r = 0; r < rows; ++r) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) sums[i] += x[r * pitch + i];
  }
}

// Four rows at a time, for fewer accesses to the sums.
template <typename A>
PYAEGPU_CLONES static void add_deviations(const A* x, int64_t pitch, int64_t rows, const A* means,
                                          A* sums, A* squares, int64_t n) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    const A* at = x + r * pitch;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      const A mean = means[i], a = at[i] - mean, b = at[i + pitch] - mean,
              c = at[i + 2 * pitch] - mean, d = at[i + 3 * pitch] - mean;
      sums[i] += (a + b) + (c + d);
      squares[i] += (a * a + b * b) + (c * c + d * d);
    }
  }
  for (; r < rows; ++r) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      const A d = x[r * pitch + i] - means[i];
      sums[i] += d;
      squares[i] += d * d;
    }
  }
}

// Some rows of n columns in the accumulator type, and the distance between them.
template <typename A>
struct Block {
  const A* data;
  int64_t pitch;
};

template <typename T, typename A>
Block<A> load_block(const T* from, int64_t pitch, int64_t rows, int64_t n, std::vector<A>& buffer) {
  if constexpr (std::is_same_v<T, A>) {
    return {from, pitch};
  } else {
    buffer.resize(kRows * kColumns);
    for (int64_t r = 0; r < rows; ++r) widen(from + r * pitch, buffer.data() + r * n, n);
    return {buffer.data(), n};
  }
}

// Mean and variance, by two passes over tiles that stay in the cache.
template <typename T>
class MomentsOf {
 public:
  using State = Moments;
  using A = Accumulator<T>;

  explicit MomentsOf(const T* x) : x_(x) {}

  void run(int64_t begin, int64_t n, int64_t, State& state) const {
    A buffer[kTile], sum, squares;
    const A* x = load(x_ + begin, buffer, n);
    const A mean = sum_of(x, n) / A(n);
    deviations(x, mean, n, &sum, &squares);
    state.merge(about(mean, n, sum, squares));
  }

  void columns(int64_t begin, int64_t rows, int64_t width, int64_t n, State* states) const {
    static thread_local std::vector<A> buffer;
    alignas(64) A means[kColumns] = {}, sums[kColumns] = {}, squares[kColumns] = {};
    const Block<A> x = load_block(x_ + begin, width, rows, n, buffer);
    add_rows(x.data, x.pitch, rows, means, n);
    for (int64_t c = 0; c < n; ++c) means[c] /= A(rows);
    add_deviations(x.data, x.pitch, rows, means, sums, squares, n);
    for (int64_t c = 0; c < n; ++c) states[c].merge(about(means[c], rows, sums[c], squares[c]));
  }

 private:
  // Of deviations from a rounded mean, whose own mean corrects it.
  static Moments about(A mean, int64_t n, A sum, A squares) {
    const double count = double(n), excess = double(sum);
    return {count, count * double(mean) + (std::isfinite(mean) ? excess : 0.0),
            double(squares) - excess * excess / count};
  }

  const T* x_;
};

}  // namespace pyaegpu::cpu
