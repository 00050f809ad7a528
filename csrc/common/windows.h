// The windows of a pooling along each axis, for host and device: which elements of the image a
// pooled element sees, and which pooled elements see an element of the image.
#pragma once

#include <cstdint>

#include "macros.h"

namespace pyaegpu {

// I: an integer that holds the element count of the image.
template <typename I>
struct WindowAxis {
  I image, pooled, kernel, stride, padding, dilation;

  // Where window `p` begins, in the image or in its padding.
  PYAEGPU_HD I start(I p) const { return p * stride - padding; }

  // The first position of window `p` that is not in the padding before the image. With a dilation
  // it may lie behind a small image.
  PYAEGPU_HD I first_position(I p) const {
    const I before = -start(p);
    return before <= 0 ? 0 : (before + dilation - 1) / dilation;
  }

  // One past the last position of window `p` inside the image.
  PYAEGPU_HD I end_position(I p) const {
    const I left = image - start(p);
    const I inside = left <= 0 ? 0 : (left + dilation - 1) / dilation;
    return inside < kernel ? inside : kernel;
  }

  // The windows that may hold element `o` are first_window(o) to last_window(o).
  PYAEGPU_HD I first_window(I o) const {
    const I beyond = o + padding - (kernel - 1) * dilation;
    return beyond <= 0 ? 0 : (beyond + stride - 1) / stride;
  }
  PYAEGPU_HD I last_window(I o) const {
    const I p = (o + padding) / stride;
    return p < pooled ? p : pooled - 1;
  }

  // The position of element `o` in window `p`, one of those above; -1 where the dilation skips it.
  PYAEGPU_HD I position_of(I o, I p) const {
    const I distance = o - start(p);
    if (dilation == 1) return distance;
    return distance % dilation == 0 ? distance / dilation : -1;
  }

  // Every element of the image is in one window at most.
  PYAEGPU_HD bool disjoint() const { return (kernel - 1) * dilation < stride; }
};

// Depth, height and width; a pooling of fewer dimensions has ones before them. A code is the
// position in the window, counted in the order of its elements.
template <typename I>
struct Windows {
  WindowAxis<I> axes[3];

  PYAEGPU_HD I positions() const { return axes[0].kernel * axes[1].kernel * axes[2].kernel; }
  PYAEGPU_HD I image() const { return axes[0].image * axes[1].image * axes[2].image; }
  PYAEGPU_HD I pooled() const { return axes[0].pooled * axes[1].pooled * axes[2].pooled; }
  PYAEGPU_HD I code_of(I d, I h, I w) const {
    return (d * axes[1].kernel + h) * axes[2].kernel + w;
  }
  PYAEGPU_HD I index_of(I d, I h, I w) const { return (d * axes[1].image + h) * axes[2].image + w; }
};

// Whether `value` takes the maximum over from `best`: the first of equals keeps it, the last NaN
// gets it.
template <typename A>
PYAEGPU_HD bool takes_over(A value, A best) {
  return value > best || value != value;
}

}  // namespace pyaegpu
