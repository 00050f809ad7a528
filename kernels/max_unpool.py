"""Max-pooling with its backward and max-unpooling with its: the launchers of the Triton kernels.

A launcher has the name and arguments of the registered op it serves.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .layout import TRITON_DTYPES, WARPS, accumulation_dtype, on_device
from .max_pool import max_pool_fwd
from .max_unpool_kernels import collect_kernel, gather_kernel, scatter_kernel, spread_windows_kernel
from .windows import UNROLLED, Pooling, empty_images, in_order, pooling_of, window_of

__all__ = ["max_pool_bwd", "max_pool_fwd", "max_unpool_bwd", "max_unpool_fwd"]

# What scatters where an index is outside its own window: programs, which mostly have nothing to do; zeros written and
# pooled elements told apart at a time.
SCATTER_PROGRAMS = 1024
SCATTER_WARPS = 2
FILL = 1024
CHUNK = 64


def max_pool_bwd(
    g: Tensor,
    indices: Tensor,
    image: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    channels_last: bool,
) -> Tensor:
    d_input = empty_images(g, image, channels_last)
    pooling = pooling_of(g, channels_last, window_of(kernel, stride, padding, dilation), image, g.shape[2:])
    with on_device(g):
        spread(in_order(g, channels_last), in_order(indices, channels_last), d_input, None, pooling, True)
    return d_input


def max_unpool_fwd(
    input: Tensor,
    indices: Tensor,
    image: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    channels_last: bool,
) -> Tensor:
    out = empty_images(input, image, channels_last)
    pooling = pooling_of(input, channels_last, window_of(kernel, stride, padding, dilation), image, input.shape[2:])
    with on_device(input):
        x, places = in_order(input, channels_last), in_order(indices, channels_last)
        flag = None if is_code(indices) else torch.zeros(1, dtype=torch.int32, device=input.device)
        spread(x, places, out, flag, pooling, False)
        if flag is not None and out.numel() and x.numel():
            planes = pooling.planes * pooling.channels
            scatter_kernel[(min(planes, SCATTER_PROGRAMS),)](
                x, places, out, flag, planes, pooling.channels, out[0, 0].numel(), x[0, 0].numel(),
                pooling.index(), FILL, CHUNK, num_warps=SCATTER_WARPS,
            )  # fmt: skip
    return out


def max_unpool_bwd(
    g: Tensor,
    indices: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    channels_last: bool,
) -> Tensor:
    d_input = empty_images(g, indices.shape[2:], channels_last)
    window = window_of(kernel, stride, padding, dilation)
    pooling = pooling_of(g, channels_last, window, g.shape[2:], indices.shape[2:])
    if not g.numel():
        return d_input.zero_()
    if d_input.numel():
        whole = pooling.whole and is_code(indices)
        paired = whole and pooling.paired
        cut = pooling.cut(pooling.pooled, pooling.pair_size(g) if whole else g.element_size(), paired)
        with on_device(g):
            collect_kernel[(cut.programs,)](
                in_order(g, channels_last), in_order(indices, channels_last), d_input,
                *pooling.numbers(cut), *pooling.form(cut, paired), whole, is_code(indices), pooling.index(cut),
                *cut.tile, num_warps=WARPS,
            )  # fmt: skip
    return d_input


def is_code(indices: Tensor) -> bool:
    return indices.dtype == torch.uint8


def spread(x: Tensor, indices: Tensor, out: Tensor, flag: Tensor | None, pooling: Pooling, sums: bool) -> None:
    """x to where its indices say, as far as those are within their own windows; else the flag is raised. sums: of those
    that have one place, else the last of them."""
    if not out.numel():
        return
    if not x.numel():
        out.zero_()
    elif pooling.whole:
        spread_windows(x, indices, out, flag, pooling)
    else:
        gather(x, indices, out, flag, pooling, sums)


def spread_windows(x: Tensor, indices: Tensor, out: Tensor, flag: Tensor | None, pooling: Pooling) -> None:
    cut = pooling.cut(pooling.covering, pooling.pair_size(x), pooling.paired)
    spread_windows_kernel[(cut.programs,)](
        x, indices, out, flag, *pooling.numbers(cut), *pooling.covering, *pooling.form(cut, pooling.paired),
        is_code(indices), pooling.index(cut), *cut.tile, num_warps=WARPS,
    )  # fmt: skip


def gather(x: Tensor, indices: Tensor, out: Tensor, flag: Tensor | None, pooling: Pooling, sums: bool) -> None:
    cut = pooling.cut(pooling.image, x.element_size())
    pooled = pooling.cut(pooling.pooled, x.element_size())
    candidates = pooling.candidates
    count = candidates[0] * candidates[1] * candidates[2]
    acc = TRITON_DTYPES[accumulation_dtype(x)]
    gather_kernel[(cut.programs + (0 if flag is None else pooled.programs),)](
        x, indices, out, flag, *pooling.numbers(cut), pooled.units, cut.programs,
        *pooling.form(cut), candidates, count if count <= UNROLLED else 1, is_code(indices), sums, acc,
        pooling.index(cut, pooled), *cut.tile, pooled.exact, *pooled.tile, num_warps=WARPS,
    )  # fmt: skip
