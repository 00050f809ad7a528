"""Max-pooling; the places of the maxima can be codes of a byte."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from pyaegpu import backends
from pyaegpu.functional._numbers import Numbers
from pyaegpu.functional._pooling import (
    as_autocast_to_full,
    check_input,
    check_padding,
    kind_of,
    pooled_sizes,
    window_of,
)
from pyaegpu.ops import max_unpool as ops
from pyaegpu.reference.max_unpool import Window

_Numbers = tuple[Numbers, Numbers | None, Numbers, Numbers]
_MODES = ("ceil_mode", "return_indices", "index_dtype")


def max_pool1d(
    input: Tensor,
    kernel_size: Numbers,
    stride: Numbers | None = None,
    padding: Numbers = 0,
    dilation: Numbers = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    index_dtype: torch.dtype = torch.int64,
) -> Any:
    """Maxima of the windows of sequences: :func:`max_pool2d` with one dimension.

    ``input`` is [N, C, L] or [C, L]; an index is a place in the line.
    """
    numbers = (kernel_size, stride, padding, dilation)
    return _max_pool(1, input, numbers, ceil_mode, return_indices, index_dtype)


def max_pool2d(
    input: Tensor,
    kernel_size: Numbers,
    stride: Numbers | None = None,
    padding: Numbers = 0,
    dilation: Numbers = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    index_dtype: torch.dtype = torch.int64,
) -> Any:
    r"""Maxima of the windows of images, with the values and indices of :func:`torch.nn.functional.max_pool2d`.

    .. math:: out[n, c, y, x] = \max_{i, j} input[n, c, y s - p + i d, x s - p + j d]

    over the places inside the image. The first of equal maxima is taken, and the last NaN. The gradient of a maximum
    goes to its place; where windows overlap, gradients are summed in a fixed order. For the backward only the places
    are kept, a byte each unless ``torch.int64`` indices are returned (or a window has more than 256 positions).

    Args:
        input: [N, C, H, W] or [C, H, W]; float32, float64, float16 or bfloat16. Integers are served by stock PyTorch.
        kernel_size: size of the windows; one number, or one for each dimension, as the next three.
        stride: distance of the windows; None for ``kernel_size``.
        padding: rows and columns of minus infinity on each side, at most half of ``kernel_size``.
        dilation: distance of a window's positions.
        ceil_mode: whether a last window that reaches beyond the image counts.
        return_indices: whether to return the places of the maxima too.
        index_dtype: how these are told. ``torch.int64``: as in stock PyTorch, by y * W + x. ``torch.uint8``: as codes,
            the position i * KW + j in the window, for :func:`max_unpool2d` with the same window.

    Returns:
        The maxima [N, C, (H + 2 p - d (K - 1) - 1) / s + 1, and W likewise], of the dtype of ``input`` and stock
        PyTorch's memory format; with ``return_indices`` the pair of them and the indices.

    Raises:
        TypeError: for arguments of another type.
        ValueError: for another ``index_dtype``, or codes of windows of more than 256 positions.
        RuntimeError: for a shape or numbers that do not fit.
    """
    numbers = (kernel_size, stride, padding, dilation)
    return _max_pool(2, input, numbers, ceil_mode, return_indices, index_dtype)


def max_pool3d(
    input: Tensor,
    kernel_size: Numbers,
    stride: Numbers | None = None,
    padding: Numbers = 0,
    dilation: Numbers = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    index_dtype: torch.dtype = torch.int64,
) -> Any:
    """Maxima of the windows of volumes: :func:`max_pool2d` with three dimensions.

    ``input`` is [N, C, D, H, W] or [C, D, H, W]; an index is (z * H + y) * W + x, a code (h * KH + i) * KW + j.
    """
    numbers = (kernel_size, stride, padding, dilation)
    return _max_pool(3, input, numbers, ceil_mode, return_indices, index_dtype)


def explain(op: str, *args: Any, **kwargs: Any) -> backends.Explanation:
    """What serves the call of ``op`` with these arguments, which is not made."""
    bound = inspect.signature(globals()[op]).bind(*args, **kwargs)
    bound.apply_defaults()
    named = bound.arguments
    dims, input = int(op[-2]), named["input"]
    numbers: Any = tuple(named[each] for each in ("kernel_size", "stride", "padding", "dilation"))
    window, kind, _ = _checked(dims, input, numbers, *(named[each] for each in _MODES))
    batched = input.dim() == dims + 2
    return ops.explain_pool(op, input if batched else input.unsqueeze(0), window, kind, batched)


def _max_pool(
    dims: int, input: Tensor, numbers: _Numbers, ceil_mode: bool, return_indices: bool, index_dtype: torch.dtype
) -> Any:
    window, kind, pooled = _checked(dims, input, numbers, ceil_mode, return_indices, index_dtype)
    if dims == 3 and not return_indices:
        input = as_autocast_to_full(input)
    batched = input.dim() == dims + 2
    out, indices = ops.max_pool(input if batched else input.unsqueeze(0), pooled, window, ceil_mode, kind, batched)
    results = (out, indices) if batched else (out.squeeze(0), None if indices is None else indices.squeeze(0))
    return results if return_indices else results[0]


def _checked(
    dims: int, input: Tensor, numbers: _Numbers, ceil_mode: bool, return_indices: bool, index_dtype: torch.dtype
) -> tuple[Window, int, list[int]]:
    """The windows, the kind of indices and the pooled sizes of a call."""
    check_input(dims, input)
    window = window_of(dims, *numbers)
    check_padding(window)
    kind = kind_of(return_indices, index_dtype, window)
    return window, kind, pooled_sizes(input.shape[-dims:], window, ceil_mode)
