"""Unpooling without indices, in plain, differentiable PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def nearest_unpool(input: Tensor, kernel: Sequence[int], nails: bool, channels_last: bool) -> Tensor:
    """Each value of [N, C, *spatial] fills its window, or with ``nails`` stands in its first cell among zeros.

    Exact for every size, where :func:`torch.nn.functional.interpolate` rounds places in float32.
    """
    if not nails and input.is_floating_point() and is_power_of_two(kernel):
        return F.interpolate(input, scale_factor=[float(k) for k in kernel]).to(input.dtype)  # autocast widens
    if channels_last:
        input = input.movedim(1, -1)
    first = 1 if channels_last else 2
    spread = input
    for axis in reversed(range(len(kernel))):
        spread = spread.unsqueeze(first + axis + 1)
    shape, padding = list(spread.shape), [0] * (2 * spread.dim())
    for axis, k in enumerate(kernel):
        cell = first + 2 * axis + 1
        shape[cell] = k
        padding[2 * (spread.dim() - 1 - cell) + 1] = k - 1
    if nails and max(kernel) > 1:
        spread = F.pad(spread, padding)
    else:  # a copy before the axes are merged, which of sizes of one would be a view
        spread = spread.expand(shape).clone(memory_format=torch.contiguous_format)
    out = spread
    for axis in range(len(kernel)):
        out = out.flatten(first + axis, first + axis + 1)
    return out.movedim(-1, 1) if channels_last else out


def is_power_of_two(kernel: Sequence[int]) -> bool:
    """Whether places divided by the window are exact in floating point."""
    return all(k & (k - 1) == 0 for k in kernel)


def nearest_unpool_gradient(g: Tensor, kernel: Sequence[int], nails: bool) -> Tensor:
    """The gradient at the input: the sum over each window, or with ``nails`` that of its first cell."""
    if nails:
        cells = tuple(slice(None, None, k) for k in (1, 1, *kernel))
        return g[cells]
    windows = [number for size, k in zip(g.shape[2:], kernel, strict=True) for number in (size // k, k)]
    return g.reshape(*g.shape[:2], *windows).sum([3 + 2 * axis for axis in range(len(kernel))])
