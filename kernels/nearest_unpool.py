"""Upsampling without indices, of nearest neighbours or a bed of nails: the launchers of the Triton kernels.

A launcher has the name and arguments of the registered op it serves.
"""

from collections.abc import Sequence

from torch import Tensor

from .layout import TRITON_DTYPES, WARPS, accumulation_dtype, on_device
from .nearest_unpool_kernels import fill_windows_kernel, repeat_kernel, sum_windows_kernel
from .windows import Pooling, empty_images, in_order, pooling_of, window_of


def nearest_unpool_fwd(input: Tensor, kernel: Sequence[int], nails: bool, channels_last: bool) -> Tensor:
    pooled = input.shape[2:]
    out = empty_images(input, [size * k for size, k in zip(pooled, kernel, strict=True)], channels_last)
    if out.numel():
        pooling = side_by_side(input, kernel, out.shape[2:], pooled, channels_last)
        launched = fill_windows_kernel if pooling.whole else repeat_kernel
        paired = pooling.whole and pooling.paired
        if pooling.whole:
            cut = pooling.cut(pooling.pooled, pooling.pair_size(input), paired)
        else:
            cut = pooling.cut(pooling.image, input.element_size())
        with on_device(input):
            launched[(cut.programs,)](
                in_order(input, channels_last), out, *pooling.numbers(cut), *pooling.form(cut, paired),
                nails, pooling.index(cut), *cut.tile, num_warps=WARPS,
            )  # fmt: skip
    return out


def nearest_unpool_bwd(g: Tensor, kernel: Sequence[int], nails: bool, channels_last: bool) -> Tensor:
    image = g.shape[2:]
    d_input = empty_images(g, [size // k for size, k in zip(image, kernel, strict=True)], channels_last)
    if d_input.numel():
        pooling = side_by_side(g, kernel, image, d_input.shape[2:], channels_last)
        cut = pooling.cut(pooling.pooled, pooling.pair_size(g), pooling.paired)
        with on_device(g):
            sum_windows_kernel[(cut.programs,)](
                in_order(g, channels_last), d_input, *pooling.numbers(cut), *pooling.form(cut, pooling.paired),
                nails, TRITON_DTYPES[accumulation_dtype(g)], pooling.index(cut), *cut.tile, num_warps=WARPS,
            )  # fmt: skip
    return d_input


def side_by_side(
    t: Tensor, kernel: Sequence[int], image: Sequence[int], pooled: Sequence[int], channels_last: bool
) -> Pooling:
    dims = len(kernel)
    return pooling_of(t, channels_last, window_of(kernel, kernel, [0] * dims, [1] * dims), image, pooled)
