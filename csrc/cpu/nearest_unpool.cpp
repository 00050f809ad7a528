// Upsampling without indices on the CPU: every value fills its window, or lies in the first cell of
// it. Schemas and autograd: pyaegpu/ops/nearest_unpool_graph.py.

#include "pooling.h"

namespace pyaegpu::cpu {
namespace {

// to[i * STEP + k] = from[i], only for k = 0 if NAILS, else zero; STEP 0: `step`.
template <int64_t STRIP, int64_t STEP, bool NAILS, typename U>
PYAEGPU_CLONES static void repeat_run(const U* from, int64_t step, U* to, int64_t n) {
  const int64_t distance = STEP ? STEP : step;
  for (int64_t i = 0; i < n; i += STRIP) {
    const int64_t at = std::min(i, n - STRIP);
    const U* value = from + at;
    U* cell = to + at * distance;
#pragma omp simd
    for (int64_t j = 0; j < STRIP; ++j) {
      for (int64_t k = 0; k < distance; ++k) {
        cell[j * distance + k] = NAILS && k > 0 ? U(0) : value[j];
      }
    }
  }
}

// The same for pixels of `channels`.
template <int64_t STRIP, bool NAILS, typename U>
PYAEGPU_CLONES static void repeat_pixels(const U* from, int64_t step, U* to, int64_t n,
                                         int64_t channels) {
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t c = 0; c < channels; c += STRIP) {
      const int64_t at = std::min(c, channels - STRIP);
      const U* value = from + i * channels + at;
      for (int64_t k = 0; k < step; ++k) {
        U* cell = to + (i * step + k) * channels + at;
#pragma omp simd
        for (int64_t j = 0; j < STRIP; ++j) cell[j] = NAILS && k > 0 ? U(0) : value[j];
      }
    }
  }
}

// The size of a window, and how far apart in memory its slices and rows are.
struct Cells {
  int64_t depth, height, width, slice, row;
};

// to[i] = the sum over the window of element i, in order. WIDTH: of the window; 0: any.
template <int64_t STRIP, int64_t WIDTH, typename T>
PYAEGPU_CLONES static void sum_run(const T* g, const Cells& cells, T* to, int64_t n) {
  using A = Accumulator<T>;
  const int64_t width = WIDTH ? WIDTH : cells.width;
  for (int64_t i = 0; i < n; i += STRIP) {
    const int64_t at = std::min(i, n - STRIP);
    alignas(64) A sums[STRIP] = {};
    for (int64_t d = 0; d < cells.depth; ++d) {
      for (int64_t h = 0; h < cells.height; ++h) {
        const T* from = g + d * cells.slice + h * cells.row + at * width;
#pragma omp simd
        for (int64_t j = 0; j < STRIP; ++j) {
          for (int64_t k = 0; k < width; ++k) sums[j] += A(from[j * width + k]);
        }
      }
    }
    for (int64_t j = 0; j < STRIP; ++j) to[at + j] = static_cast<T>(sums[j]);
  }
}

template <int64_t STRIP, typename T>
PYAEGPU_CLONES static void sum_pixels(const T* g, const Cells& cells, T* to, int64_t n,
                                      int64_t channels) {
  using A = Accumulator<T>;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t c = 0; c < channels; c += STRIP) {
      const int64_t at = std::min(c, channels - STRIP);
      alignas(64) A sums[STRIP] = {};
      for (int64_t d = 0; d < cells.depth; ++d) {
        for (int64_t h = 0; h < cells.height; ++h) {
          for (int64_t k = 0; k < cells.width; ++k) {
            const T* from =
                g + d * cells.slice + h * cells.row + (i * cells.width + k) * channels + at;
#pragma omp simd
            for (int64_t j = 0; j < STRIP; ++j) sums[j] += A(from[j]);
          }
        }
      }
      for (int64_t j = 0; j < STRIP; ++j) to[i * channels + at + j] = static_cast<T>(sums[j]);
    }
  }
}

// The same for windows of 2 x 2 cells.
template <int64_t STRIP, typename T>
PYAEGPU_CLONES static void sum_pixel_pairs(const T* g, int64_t row, T* to, int64_t n,
                                           int64_t channels) {
  using A = Accumulator<T>;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t c = 0; c < channels; c += STRIP) {
      const int64_t at = std::min(c, channels - STRIP);
      const T *first = g + 2 * i * channels + at, *second = first + channels;
      const T *third = first + row, *fourth = third + channels;
      T* sum = to + i * channels + at;
#pragma omp simd
      for (int64_t j = 0; j < STRIP; ++j) {
        sum[j] = static_cast<T>(A(first[j]) + A(second[j]) + A(third[j]) + A(fourth[j]));
      }
    }
  }
}

// to[i] = from[i * STEP]; STEP 0: `step`.
template <int64_t STRIP, int64_t STEP, typename U>
PYAEGPU_CLONES static void first_of_run(const U* from, int64_t step, U* to, int64_t n) {
  const int64_t distance = STEP ? STEP : step;
  for (int64_t i = 0; i < n; i += STRIP) {
    const int64_t at = std::min(i, n - STRIP);
    const U* cell = from + at * distance;
    U* value = to + at;
#pragma omp simd
    for (int64_t j = 0; j < STRIP; ++j) value[j] = cell[j * distance];
  }
}

template <int64_t STRIP, typename U>
PYAEGPU_CLONES static void first_of_pixels(const U* from, int64_t step, U* to, int64_t n,
                                           int64_t channels) {
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t c = 0; c < channels; c += STRIP) {
      const int64_t at = std::min(c, channels - STRIP);
      const U* cell = from + i * step * channels + at;
      U* value = to + i * channels + at;
#pragma omp simd
      for (int64_t j = 0; j < STRIP; ++j) value[j] = cell[j];
    }
  }
}

Pooling upsampling_of(const Tensor& small, const Sizes& kernel, bool channels_last) {
  const Sizes pooled = shape_of(small, 2), ones(kernel.size(), 1), zeros(kernel.size(), 0);
  STD_TORCH_CHECK(kernel.size() == pooled.size(),
                  "pyaegpu: kernel needs a number for each spatial dimension");
  Sizes image = pooled;
  for (size_t d = 0; d < image.size(); ++d) image[d] *= kernel[d];
  return pooling_of(small, image, pooled, kernel, kernel, zeros, ones, channels_last);
}

// Calls f(row of the pooled, where its windows begin in the image) for all rows, in parallel.
template <typename F>
void for_each_row(const Pooling& call, const F& f) {
  const Axis &d = call.depth(), &h = call.height(), &w = call.width();
  const int64_t rows = call.blocks() * d.pooled * h.pooled, width = w.image * call.pixel();
  for_each_range(rows, width * d.kernel * h.kernel, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const Row p(r, d.pooled, h.pooled);
      f(r, (p.block * d.image + p.d * d.kernel) * h.image * width + p.h * h.kernel * width);
    }
  });
}

template <bool NAILS, typename U>
void repeat_row(const Pooling& call, const U* from, U* to) {
  constexpr size_t kLongPixel = 256;
  const int64_t n = call.width().pooled, step = call.width().kernel;
  if (call.channels_last && !NAILS && call.channels * sizeof(U) >= kLongPixel) {
    for (int64_t i = 0; i < n * step; ++i) {
      std::memcpy(to + i * call.channels, from + i / step * call.channels,
                  call.channels * sizeof(U));
    }
  } else if (call.channels_last) {
    with_strip(call.channels, [&](auto strip) {
      repeat_pixels<decltype(strip)::value, NAILS>(from, step, to, n, call.channels);
    });
  } else {
    with_strip(n, [&](auto strip) {
      constexpr int64_t kStrip = decltype(strip)::value;
      (step == 2 ? repeat_run<kStrip, 2, NAILS, U> : repeat_run<kStrip, 0, NAILS, U>)(from, step,
                                                                                      to, n);
    });
  }
}

// The rows of a row of windows.
template <typename U>
void fill_windows(const Pooling& call, bool nails, const U* from, U* to) {
  const int64_t width = call.width().image * call.pixel();
  for (int64_t d = 0; d < call.depth().kernel; ++d) {
    for (int64_t h = 0; h < call.height().kernel; ++h) {
      U* row = to + (d * call.height().image + h) * width;
      if (!nails) {
        repeat_row<false>(call, from, row);
      } else if (d == 0 && h == 0) {
        repeat_row<true>(call, from, row);
      } else {
        std::memset(static_cast<void*>(row), 0, width * sizeof(U));
      }
    }
  }
}

template <typename U>
void first_of_row(const Pooling& call, const U* from, U* to) {
  const int64_t n = call.width().pooled, step = call.width().kernel;
  with_strip(call.channels_last ? call.channels : n, [&](auto strip) {
    constexpr int64_t kStrip = decltype(strip)::value;
    if (call.channels_last) {
      first_of_pixels<kStrip>(from, step, to, n, call.channels);
    } else {
      (step == 2 ? first_of_run<kStrip, 2, U> : first_of_run<kStrip, 0, U>)(from, step, to, n);
    }
  });
}

Tensor nearest_unpool_fwd(Tensor input, Sizes kernel, bool nails, bool channels_last) {
  const Pooling call = upsampling_of(input, kernel, channels_last);
  Sizes shape = {input.size(0), input.size(1)};
  for (size_t d = 0; d < kernel.size(); ++d) shape.push_back(input.size(2 + d) * kernel[d]);
  Tensor out = new_images(input, shape, channels_last);
  if (out.numel() == 0) return out;
  input = in_format(input, channels_last);
  const int64_t width = call.width().pooled * call.pixel();
  dispatch_bits(input.scalar_type(), [&](auto zero) {
    using U = decltype(zero);
    const U* data = data_of<U>(input);
    U* image = data_of<U>(out);
    for_each_row(call, [&](int64_t r, int64_t at) {
      fill_windows(call, nails, data + r * width, image + at);
    });
  });
  return out;
}

template <typename T>
void sum_row(const Pooling& call, const T* g, T* to) {
  const int64_t n = call.width().pooled, row = call.width().image * call.pixel();
  const Cells cells{call.depth().kernel, call.height().kernel, call.width().kernel,
                    call.height().image * row, row};
  const bool pairs = cells.depth == 1 && cells.height == 2 && cells.width == 2;
  if (call.channels_last) {
    with_strip(call.channels, [&](auto strip) {
      constexpr int64_t kStrip = decltype(strip)::value;
      pairs ? sum_pixel_pairs<kStrip>(g, row, to, n, call.channels)
            : sum_pixels<kStrip>(g, cells, to, n, call.channels);
    });
  } else {
    with_strip(n, [&](auto strip) {
      constexpr int64_t kStrip = decltype(strip)::value;
      (cells.width == 2 ? sum_run<kStrip, 2, T> : sum_run<kStrip, 0, T>)(g, cells, to, n);
    });
  }
}

Tensor nearest_unpool_bwd(Tensor g, Sizes kernel, bool nails, bool channels_last) {
  Sizes shape = shape_of(g);
  STD_TORCH_CHECK(kernel.size() + 2 == shape.size(),
                  "pyaegpu: kernel needs a number for each spatial dimension");
  for (size_t d = 0; d < kernel.size(); ++d) {
    STD_TORCH_CHECK(kernel[d] > 0 && shape[2 + d] % kernel[d] == 0,
                    "pyaegpu: the sizes of g must be multiples of kernel");
    shape[2 + d] /= kernel[d];
  }
  Tensor d_input = new_images(g, shape, channels_last);
  if (d_input.numel() == 0) return d_input;
  const Pooling call = upsampling_of(d_input, kernel, channels_last);
  g = in_format(g, channels_last);
  const int64_t width = call.width().pooled * call.pixel();
  dispatch(g.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const T* data = data_of<T>(g);
    T* to = data_of<T>(d_input);
    for_each_row(call, [&](int64_t r, int64_t at) {
      if (nails) {
        first_of_row(call, reinterpret_cast<const Bits<T>*>(data + at),
                     reinterpret_cast<Bits<T>*>(to + r * width));
      } else {
        sum_row(call, data + at, to + r * width);
      }
    });
  });
  return d_input;
}

void implement(torch::stable::detail::StableLibrary& m) {
  m.impl("nearest_unpool_fwd", TORCH_BOX(&nearest_unpool_fwd));
  m.impl("nearest_unpool_bwd", TORCH_BOX(&nearest_unpool_bwd));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pyaegpu, CPU, m) { implement(m); }
STABLE_TORCH_LIBRARY_IMPL(pyaegpu_cpu, CPU, m) { implement(m); }

}  // namespace pyaegpu::cpu
