"""Max-pooling: the launcher of the Triton kernel.

It has the name and arguments of the registered op it serves.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .layout import TRITON_DTYPES, WARPS, accumulation_dtype, on_device
from .max_pool_kernels import max_pool_kernel
from .windows import empty_images, in_order, pooling_of, window_of

NO_INDICES, CODES, PLANE_INDICES = range(3)


def max_pool_fwd(
    input: Tensor,
    pooled: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    kind: int,
    channels_last: bool,
) -> tuple[Tensor, Tensor]:
    out = empty_images(input, pooled, channels_last)
    indices = None
    if kind != NO_INDICES:
        indices = torch.empty_like(out, dtype=torch.uint8 if kind == CODES else torch.int64)
    window = window_of(kernel, stride, padding, dilation)
    pooling = pooling_of(input, channels_last, window, input.shape[2:], pooled)
    if out.numel():
        cut = pooling.cut(pooling.pooled, pooling.pair_size(input), pooling.paired)
        with on_device(input):
            max_pool_kernel[(cut.programs,)](
                in_order(input, channels_last), out, indices,
                *pooling.numbers(cut), *pooling.form(cut, pooling.paired), kind,
                TRITON_DTYPES[accumulation_dtype(input)], pooling.index(cut), *cut.tile, num_warps=WARPS,
            )  # fmt: skip
    return out, input.new_empty(0, dtype=torch.uint8) if indices is None else indices
