"""Arguments of pooling and unpooling, as the ops take them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyaegpu import _checks
from pyaegpu.functional._numbers import Numbers, is_key, one_for_each
from pyaegpu.reference.max_unpool import CODES, MOST_POSITIONS, NO_INDICES, PLANE_INDICES, Window

_KINDS = {torch.int64: PLANE_INDICES, torch.uint8: CODES}
_INDEX_DTYPES = (torch.uint8, torch.int32, torch.int64)


def window_of(dims: int, kernel_size: Numbers, stride: Numbers | None, padding: Numbers, dilation: Numbers) -> Window:
    """The windows of a call; ``stride`` None or empty is the kernel's size.

    Raises:
        TypeError: for what is no integer.
        RuntimeError: for another count of numbers, or numbers that are too small.
    """
    if stride is None or (isinstance(stride, (list, tuple)) and not stride):
        stride = kernel_size
    numbers = (kernel_size, stride, padding, dilation)
    if not torch.compiler.is_compiling() and all(map(is_key, numbers)):
        return _cached_window(dims, numbers)
    return _window(dims, numbers)


@functools.lru_cache(maxsize=1024)
def _cached_window(dims: int, numbers: Any) -> Window:
    return _window(dims, numbers)


def _window(dims: int, numbers: tuple[Numbers, ...]) -> Window:
    names, least = ("kernel_size", "stride", "padding", "dilation"), (1, 1, 0, 1)
    columns = zip(names, numbers, least, strict=True)
    return Window(*(integers(name, value, dims, minimum) for name, value, minimum in columns))


def integers(name: str, value: Any, dims: int, minimum: int) -> tuple[int, ...]:
    """One integer for each dimension, at least ``minimum``."""
    each = one_for_each(value, dims)
    if each is None:
        if isinstance(value, (list, tuple)) and all(type(number) is int for number in value):
            raise RuntimeError(f"{name} must be one integer or {dims} of them, got {tuple(value)}")
        raise TypeError(f"{name} must be one integer or {dims} of them, got {value!r}")
    if min(each) < minimum:
        raise RuntimeError(f"{name} must be at least {minimum}, got {value}")
    return each


def check_padding(window: Window) -> None:
    """Raise RuntimeError where a padding is more than half of its kernel."""
    for k, p in zip(window.kernel, window.padding, strict=True):
        if 2 * p > k:
            raise RuntimeError(f"padding must be at most half of kernel_size, got padding {p} for kernel_size {k}")


def check_input(dims: int, input: Any, name: str = "input") -> None:
    """Raise unless ``input`` is [N, C, *spatial] or [C, *spatial], of which only N may be 0."""
    if not isinstance(input, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(input).__name__}")
    shape = input.shape
    if len(shape) not in (dims + 1, dims + 2) or 0 in shape[len(shape) - dims - 1 :]:
        spatial = ("L", "H, W", "D, H, W")[dims - 1]
        raise RuntimeError(
            f"{name} must be [N, C, {spatial}] or [C, {spatial}] where only N may be 0, got shape {tuple(shape)}"
        )


def as_autocast_to_full(input: Tensor) -> Tensor:
    """``input`` in the dtype of the functions that autocast runs in float32, which it does on a CPU alone."""
    half = input.device.type == "cpu" and input.dtype in (torch.float16, torch.bfloat16)
    return input.float() if half and _checks.autocasts(input) else input


def check_index_dtype(index_dtype: torch.dtype) -> None:
    """Raise ValueError for what no pooling's indices have."""
    if index_dtype not in _KINDS:
        raise ValueError(f"index_dtype must be torch.int64 or torch.uint8, got {index_dtype!r}")


def kind_of(return_indices: bool, index_dtype: torch.dtype, window: Window) -> int:
    """The indices that a pooling gives.

    Raises:
        ValueError: for another dtype, or a window with too many positions for codes.
    """
    check_index_dtype(index_dtype)
    kind = _KINDS[index_dtype]
    if kind == CODES and not window.codable:
        raise ValueError(
            f"index_dtype torch.uint8 holds codes of windows of up to {MOST_POSITIONS} positions, got kernel_size "
            f"{window.kernel}; use torch.int64"
        )
    return kind if return_indices else NO_INDICES


def pooled_sizes(sizes: Sequence[int], window: Window, ceil_mode: bool) -> list[int]:
    """The spatial sizes after pooling.

    Raises:
        RuntimeError: where nothing would be left.
    """
    pooled = pooled_counts(sizes, window, ceil_mode)
    if min(pooled) < 1:
        raise RuntimeError(
            f"input of size {tuple(sizes)} is too small for kernel_size {window.kernel}, padding {window.padding} and "
            f"dilation {window.dilation}: the output would have size {tuple(pooled)}"
        )
    return pooled


def pooled_counts(sizes: Sequence[int], window: Window, ceil_mode: bool) -> list[int]:
    """The windows along each dimension; none or fewer where the input is too small."""
    pooled = []
    for size, k, s, p, d in zip(sizes, *window, strict=True):
        count = (size + 2 * p - d * (k - 1) - 1 + (s - 1 if ceil_mode else 0)) // s + 1
        if ceil_mode and (count - 1) * s >= size + p:  # the last window would begin in the padding
            count -= 1
        pooled.append(count)
    return pooled


def check_indices(input: Tensor, indices: Any, window: Window) -> None:
    """Raise unless ``indices`` can belong to ``input``."""
    if not isinstance(indices, Tensor):
        raise TypeError(f"indices must be a torch.Tensor, got {type(indices).__name__}")
    if indices.dtype not in _INDEX_DTYPES:
        raise RuntimeError(
            f"indices must be plane indices (torch.int64 or torch.int32) or codes (torch.uint8), got {indices.dtype}"
        )
    if indices.shape != input.shape:
        raise RuntimeError(f"indices must have the shape of input, {tuple(input.shape)}; got {tuple(indices.shape)}")
    if indices.device != input.device:
        raise RuntimeError(f"indices must be on the device of input, {input.device}; got {indices.device}")
    if indices.dtype == torch.uint8 and not window.codable:
        raise ValueError(
            f"kernel_size {window.kernel} has more than the {MOST_POSITIONS} positions that codes can tell; indices of "
            "such windows are torch.int64"
        )


def unpooled_sizes(sizes: Sequence[int], window: Window, output_size: Any, is_coded: bool) -> list[int]:
    """The spatial sizes after unpooling, by stock PyTorch's rules for ``output_size``.

    Raises:
        ValueError: for an ``output_size`` of another length, or less than a stride from the default.
    """
    dims = len(sizes)
    default = []
    for size, k, s, p, d in zip(sizes, *window, strict=True):
        default.append((size - 1) * s + (d * (k - 1) + 1 if is_coded else k) - 2 * p)
    image = default if output_size is None else _given_sizes(output_size, dims)
    for axis, (size, usual, s) in enumerate(zip(image, default, window.stride, strict=True)):
        if not usual - s < size < usual + s:
            ignored = " (dilation counts for codes alone)" if not is_coded and max(window.dilation) > 1 else ""
            raise ValueError(
                f"output_size must be from {usual - s + 1} to {usual + s - 1} in spatial dimension {axis}, "
                f"got {tuple(image)}{ignored}"
            )
        if size < 0:
            raise ValueError(f"output_size must not be negative, got {tuple(image)}")
    return image


def _given_sizes(output_size: Any, dims: int) -> list[int]:
    if not isinstance(output_size, (list, tuple)):
        raise TypeError(f"output_size must be a sequence of integers, got {type(output_size).__name__}")
    sizes = output_size[2:] if len(output_size) == dims + 2 else output_size
    if len(sizes) != dims:
        raise ValueError(
            f"output_size must have {dims} elements, or {dims + 2} with N and C before them; got {tuple(output_size)}"
        )
    each = one_for_each(tuple(sizes), dims)
    if each is None:
        raise TypeError(f"output_size must be a sequence of integers, got {tuple(output_size)}")
    return list(each)
