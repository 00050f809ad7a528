"""Unpooling without indices: nearest, and bed of nails."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

from pyaegpu import backends
from pyaegpu.functional._numbers import Numbers
from pyaegpu.functional._pooling import check_input, integers
from pyaegpu.ops import nearest_unpool as ops


def nearest_unpool1d(input: Tensor, kernel_size: Numbers) -> Tensor:
    """:func:`nearest_unpool2d` with one dimension: ``input`` is [N, C, L] or [C, L]."""
    return _unpool(1, input, kernel_size, False)


def nearest_unpool2d(input: Tensor, kernel_size: Numbers) -> Tensor:
    r"""Each value fills its window.

    .. math:: out[n, c, y, x] = input[n, c, \lfloor y / k \rfloor, \lfloor x / k \rfloor]

    The gradient of a value is the sum over its window, kept in float32 at least. Every size is exact, where
    :func:`torch.nn.functional.interpolate` rounds places.

    Args:
        input: [N, C, H, W] or [C, H, W], of which only N may be 0; float32, float64, float16 or bfloat16. Plain PyTorch
            serves other dtypes.
        kernel_size: the window's size, one number or one for each dimension.

    Returns:
        [N, C, H * k, W * k] of the dtype and memory format of ``input``.

    Raises:
        TypeError: for arguments of another type.
        RuntimeError: for a shape or numbers that do not fit.
    """
    return _unpool(2, input, kernel_size, False)


def nearest_unpool3d(input: Tensor, kernel_size: Numbers) -> Tensor:
    """:func:`nearest_unpool2d` with three dimensions: ``input`` is [N, C, D, H, W] or [C, D, H, W]."""
    return _unpool(3, input, kernel_size, False)


def bed_of_nails1d(input: Tensor, kernel_size: Numbers) -> Tensor:
    """:func:`bed_of_nails2d` with one dimension: ``input`` is [N, C, L] or [C, L]."""
    return _unpool(1, input, kernel_size, True)


def bed_of_nails2d(input: Tensor, kernel_size: Numbers) -> Tensor:
    r"""Each value stands in its window's first cell, among zeros.

    .. math:: out[n, c, y k, x k] = input[n, c, y, x]

    The gradient of a value is that of its cell. Arguments, result and errors are those of :func:`nearest_unpool2d`.
    """
    return _unpool(2, input, kernel_size, True)


def bed_of_nails3d(input: Tensor, kernel_size: Numbers) -> Tensor:
    """:func:`bed_of_nails2d` with three dimensions: ``input`` is [N, C, D, H, W] or [C, D, H, W]."""
    return _unpool(3, input, kernel_size, True)


def explain(op: str, *args: Any, **kwargs: Any) -> backends.Explanation:
    """What serves the call of ``op`` with these arguments, which is not made."""
    bound = inspect.signature(globals()[op]).bind(*args, **kwargs)
    dims, input = int(op[-2]), bound.arguments["input"]
    check_input(dims, input)
    kernel = integers("kernel_size", bound.arguments["kernel_size"], dims, 1)
    batched = input.dim() == dims + 2
    return ops.explain(op, input if batched else input.unsqueeze(0), kernel, op.startswith("bed"), batched)


def _unpool(dims: int, input: Tensor, kernel_size: Numbers, nails: bool) -> Tensor:
    check_input(dims, input)
    kernel = integers("kernel_size", kernel_size, dims, 1)
    if input.dim() == dims + 2:
        return ops.nearest_unpool(input, kernel, nails, True)
    return ops.nearest_unpool(input.unsqueeze(0), kernel, nails, False).squeeze(0)
