"""Max-unpooling, from codes or plane indices, and what codes stand for."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyaegpu import backends
from pyaegpu.functional._numbers import Numbers, one_for_each
from pyaegpu.functional._pooling import (
    as_autocast_to_full,
    check_indices,
    check_input,
    pooled_counts,
    unpooled_sizes,
    window_of,
)
from pyaegpu.ops import max_unpool as ops
from pyaegpu.reference.max_unpool import Window, decode, refuse_outside, refuse_positions

_Numbers = tuple[Numbers, Numbers | None, Numbers, Numbers]


def max_unpool1d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Numbers,
    stride: Numbers | None = None,
    padding: Numbers = 0,
    output_size: Sequence[int] | None = None,
    *,
    dilation: Numbers = 1,
) -> Tensor:
    """Each value at its place in a longer sequence of zeros: :func:`max_unpool2d` with one dimension.

    ``input`` is [N, C, L] or [C, L]; an index is a place in the line.
    """
    return _max_unpool(1, input, indices, (kernel_size, stride, padding, dilation), output_size)


def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Numbers,
    stride: Numbers | None = None,
    padding: Numbers = 0,
    output_size: Sequence[int] | None = None,
    *,
    dilation: Numbers = 1,
) -> Tensor:
    r"""Each value at its place in a larger image of zeros, with the values of
    :func:`torch.nn.functional.max_unpool2d` (Zeiler et al. 2011).

    .. math:: out[n, c, place(n, c, y, x)] = input[n, c, y, x]

    Two runs are equal in every bit, also under :func:`torch.use_deterministic_algorithms`, where stock PyTorch's
    raises: of several values with one place the last in the order of ``input`` is kept. As there, each of them gets the
    gradient of the place.

    Args:
        input: [N, C, H, W] or [C, H, W]; float32, float64, float16 or bfloat16.
        indices: the place of each value, of the shape of ``input``, as :func:`max_pool2d` gives them. ``torch.int64``
            or ``torch.int32``: in the flat plane of the output, y * W + x of any place there. ``torch.uint8``: codes,
            positions in the window of each value.
        kernel_size: size of the windows; one number, or one for each dimension, as the next two and ``dilation``.
        stride: distance of the windows; None for ``kernel_size``.
        padding: what the pooling added on each side.
        output_size: the output's sizes, (H, W) or (N, C, H, W), where pooling led several to one; less than a stride
            from the default.
        dilation: distance of a window's positions; for codes only.

    Returns:
        A tensor [N, C, (H - 1) * stride + kernel_size - 2 * padding, and W likewise], or of ``output_size``, of the
        dtype of ``input`` (under autocast on a CPU float32, as stock PyTorch's) and stock PyTorch's memory format
        (channels_last images stay so on every device).

    Raises:
        TypeError: for arguments of another type.
        ValueError: for an ``output_size`` that no such pooling leads from, or codes of too large a window.
        RuntimeError: for shapes, dtypes or devices that do not fit; on a CPU, for an index outside the output, with
            its place. On a GPU, where a check would wait for the device, such a value is left out.
    """
    return _max_unpool(2, input, indices, (kernel_size, stride, padding, dilation), output_size)


def max_unpool3d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Numbers,
    stride: Numbers | None = None,
    padding: Numbers = 0,
    output_size: Sequence[int] | None = None,
    *,
    dilation: Numbers = 1,
) -> Tensor:
    """Each value at its place in a larger volume of zeros: :func:`max_unpool2d` with three dimensions.

    ``input`` is [N, C, D, H, W] or [C, D, H, W]; an index is (z * H + y) * W + x, and the
    result is contiguous, as stock PyTorch's.
    """
    return _max_unpool(3, input, indices, (kernel_size, stride, padding, dilation), output_size)


def decode_pool_codes(
    codes: Tensor,
    kernel_size: Numbers,
    stride: Numbers | None = None,
    padding: Numbers = 0,
    *,
    dilation: Numbers = 1,
    input_size: Sequence[int],
) -> Tensor:
    """The plane indices that codes of a max-pooling stand for, as stock PyTorch's functions take them.

    Args:
        codes: torch.uint8 [N, C, *spatial] or [C, *spatial] of one to three spatial dimensions.
        kernel_size: size of the windows, as the pooling had it; so the next three.
        stride: distance of the windows; None for ``kernel_size``.
        padding: what the pooling added on each side.
        dilation: distance of a window's positions.
        input_size: the sizes of the pooling's input, the spatial ones alone or all of them.

    Returns:
        torch.int64 of the shape of ``codes``: (z * H + y) * W + x.

    Raises:
        TypeError: for arguments of another type.
        ValueError: for an ``input_size`` that such windows do not pool to the shape of ``codes``.
        RuntimeError: for another dtype, or numbers that do not fit; on a CPU, for a code that is no position in the
            window.
    """
    if not isinstance(codes, Tensor):
        raise TypeError(f"codes must be a torch.Tensor, got {type(codes).__name__}")
    if codes.dtype != torch.uint8:
        raise RuntimeError(f"codes must have dtype torch.uint8, got {codes.dtype}")
    window, image = _pooling_of(codes, (kernel_size, stride, padding, dilation), input_size)
    refuse_positions(codes, window)
    return decode(codes, window, image)


def explain(op: str, *args: Any, **kwargs: Any) -> backends.Explanation:
    """What serves the call of ``op`` with these arguments, which is not made."""
    bound = inspect.signature(globals()[op]).bind(*args, **kwargs)
    bound.apply_defaults()
    named = bound.arguments
    numbers = tuple(named[each] for each in ("kernel_size", "stride", "padding", "dilation"))
    input, indices, dims = named["input"], named["indices"], int(op[-2])
    window, image = _checked(dims, input, indices, numbers, named["output_size"])
    batched = input.dim() == dims + 2
    return ops.explain_unpool(op, input if batched else input.unsqueeze(0), indices, image, window, batched)


def explain_decode(op: str, *args: Any, **kwargs: Any) -> backends.Explanation:
    """PyTorch's arithmetic on integers decodes: on a GPU ``torch.compile`` fuses it."""
    return backends.explain_plain(op, "decoding has no kernels")


def _max_unpool(
    dims: int, input: Tensor, indices: Tensor, numbers: _Numbers, output_size: Sequence[int] | None
) -> Tensor:
    window, image = _checked(dims, input, indices, numbers, output_size)
    input = as_autocast_to_full(input)
    try:
        if input.dim() == dims + 2:
            return ops.max_unpool(input, indices, image, window, True)
        return ops.max_unpool(input.unsqueeze(0), indices.unsqueeze(0), image, window, False).squeeze(0)
    except RuntimeError:
        _name_the_index(indices, image, window)
        raise


def _name_the_index(indices: Tensor, image: list[int], window: Window) -> None:
    """Raise an error whose text has no place in the source, and no batch that was not given."""
    try:
        refuse_outside(indices, image, window)
    except RuntimeError as named:
        raise named from None


def _checked(
    dims: int, input: Tensor, indices: Tensor, numbers: _Numbers, output_size: Sequence[int] | None
) -> tuple[Window, list[int]]:
    """The windows and the image's sizes of a call."""
    check_input(dims, input)
    window = window_of(dims, *numbers)
    check_indices(input, indices, window)
    return window, unpooled_sizes(input.shape[-dims:], window, output_size, indices.dtype == torch.uint8)


def _pooling_of(codes: Tensor, numbers: _Numbers, input_size: Any) -> tuple[Window, list[int]]:
    """The windows and the input's spatial sizes of the pooling that gave ``codes``: what their shape follows from."""
    sizes = one_for_each(tuple(input_size), len(input_size)) if isinstance(input_size, (list, tuple)) else None
    if sizes is None:
        raise TypeError(f"input_size must be a sequence of integers, got {input_size!r}")
    shape = list(codes.shape)
    refused = None
    for lead in (2, 1):
        dims = len(shape) - lead
        whole = len(sizes) == len(shape) and list(sizes[:lead]) == shape[:lead]
        if not 1 <= dims <= 3 or not (whole or len(sizes) == dims):
            continue
        image = list(sizes[-dims:])
        try:
            window = window_of(dims, *numbers)
        except RuntimeError as error:
            refused = error
            continue
        if shape[lead:] in (pooled_counts(image, window, ceil_mode) for ceil_mode in (False, True)):
            return window, image
    if refused is not None:
        raise refused
    raise ValueError(
        "input_size must have the sizes of the pooling's input, the spatial ones or all of them; kernel_size, stride, "
        f"padding and dilation {numbers} do not pool {tuple(sizes)} to codes of shape {tuple(shape)}"
    )
