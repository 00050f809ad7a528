// What every CPU loop shares: tiles that stay in the first-level cache, and sums that do not depend
// on the thread count.
#pragma once

#include <vector>

#include "../common/macros.h"
#include "../common/tensor.h"

namespace pyaegpu::cpu {

constexpr int64_t kTile = 512;
constexpr int64_t kBlock = 16384;
// Where nothing is widened, a tile may be a whole block.
template <typename T>
constexpr int64_t kLongTile = std::is_same_v<T, Accumulator<T>> ? kBlock : kTile;
// Below this many elements a second thread costs more than it saves.
constexpr int64_t kGrain = 32768;

// `rows` runs of `inner` elements, cut into blocks of fixed size: one slot of partial sums for each
// row and block.
struct Split {
  int64_t rows, inner, parts, group;

  Split(int64_t rows_, int64_t inner_) : rows(rows_), inner(inner_) {
    parts = inner > kBlock ? (inner + kBlock - 1) / kBlock : 1;
    group = inner > kBlock ? 1 : std::max<int64_t>(1, kBlock / std::max<int64_t>(1, inner));
  }

  int64_t items() const { return parts > 1 ? rows * parts : (rows + group - 1) / group; }
  int64_t slots() const { return rows * parts; }

  int64_t begin(int64_t item) const {
    return parts > 1 ? (item / parts) * inner + (item % parts) * kBlock : item * group * inner;
  }
  int64_t end(int64_t item) const {
    if (parts == 1) return std::min((item + 1) * group, rows) * inner;
    return std::min(begin(item) + kBlock, (item / parts + 1) * inner);
  }
  int64_t slot(int64_t index) const {
    return (index / inner) * parts + (parts > 1 ? (index % inner) / kBlock : 0);
  }
  // The first index past `index` that belongs to another row, at most `limit`.
  int64_t row_end(int64_t index, int64_t limit) const {
    return std::min((index / inner + 1) * inner, limit);
  }
};

// Calls f(begin, n, item) for the tiles of every block, in parallel over blocks.
template <typename F>
void for_each_tile(const Split& split, const F& f, int64_t tile = kTile) {
  const int64_t per_item =
      split.parts > 1 ? kBlock : std::max<int64_t>(1, split.group * split.inner);
  const int64_t grain = std::max<int64_t>(1, kGrain / per_item);
  const auto run = [&](int64_t first, int64_t last) {
    for (int64_t item = first; item < last; ++item) {
      const int64_t end = split.end(item);
      for (int64_t i = split.begin(item); i < end; i += tile) {
        f(i, std::min(tile, end - i), item);
      }
    }
  };
  if (split.items() <= grain) {
    run(0, split.items());
  } else {
    torch::stable::parallel_for(0, split.items(), grain, run);
  }
}

template <typename T, typename A>
PYAEGPU_CLONES static void widen(const T* __restrict__ from, A* __restrict__ to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<A>(from[i]);
}

template <typename T, typename A>
PYAEGPU_CLONES static void narrow(const A* __restrict__ from, T* __restrict__ to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<T>(from[i]);
}

// n values from `from` in the accumulator type: in place where the types agree, else widened into
// `buffer`.
template <typename T, typename A>
const A* load(const T* from, A* buffer, int64_t n) {
  if constexpr (std::is_same_v<T, A>) {
    return from;
  } else {
    widen(from, buffer, n);
    return buffer;
  }
}

// Values [begin, begin + n) of a tensor in rows, in the accumulator type.
template <typename T, typename A>
const A* load_rows(const Rows& rows, int64_t begin, int64_t n, A* buffer) {
  const T* data = rows.tensor.template const_data_ptr<T>();
  if (rows.contiguous()) return load(data + begin, buffer, n);
  for (int64_t i = begin, end = begin + n; i < end;) {
    const int64_t row = i / rows.width, column = i % rows.width;
    const int64_t stop = std::min((row + 1) * rows.width, end);
    widen(data + row * rows.stride + column, buffer + (i - begin), stop - i);
    i = stop;
  }
  return buffer;
}

// Where to write n results: the output itself where the types agree, else `buffer`, which `store`
// narrows.
template <typename T, typename A>
A* target_of(T* to, A* buffer) {
  if constexpr (std::is_same_v<T, A>) {
    return to;
  } else {
    return buffer;
  }
}

template <typename T, typename A>
void store(T* to, const A* buffer, int64_t n) {
  if constexpr (!std::is_same_v<T, A>) narrow(buffer, to, n);
}

template <typename A>
PYAEGPU_CLONES static A sum_of(const A* __restrict__ values, int64_t n) {
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += values[i];
  return sum;
}

template <typename A>
PYAEGPU_CLONES static void multiply(A* __restrict__ values, const A* __restrict__ by, int64_t n) {
  for (int64_t i = 0; i < n; ++i) values[i] *= by[i];
}

template <typename A>
PYAEGPU_CLONES static void scale(A* __restrict__ values, A by, int64_t n) {
  for (int64_t i = 0; i < n; ++i) values[i] *= by;
}

// Partial sums in double, one slot for each row and block; each slot is written by one thread.
class Sums {
 public:
  explicit Sums(const Split& split) : split_(split), slots_(split.slots(), 0.0) {}

  template <typename A>
  void add(const A* values, int64_t begin, int64_t n) {
    for (int64_t i = begin, end = begin + n; i < end;) {
      const int64_t stop = split_.row_end(i, end);
      slots_[split_.slot(i)] += double(sum_of(values + (i - begin), stop - i));
      i = stop;
    }
  }

  double row(int64_t r) const {
    double sum = 0;
    for (int64_t p = 0; p < split_.parts; ++p) sum += slots_[r * split_.parts + p];
    return sum;
  }

 private:
  Split split_;
  std::vector<double> slots_;
};

}  // namespace pyaegpu::cpu
