"""A transposed convolution's reconstruction loss without the reconstruction: the launchers of the Triton kernels.

A launcher has the name and arguments of the registered op it serves. Sums are taken in two stages in a fixed order, so
results do not vary from run to run.
"""

import math

import torch
from torch import Tensor

from .conv_transpose_loss_kernels import activation_loss_kernel, small_loss_kernel
from .conv_transpose_small import FWD_WARPS, forward_of
from .conv_transpose_tiles import new_output
from .layout import (
    TRITON_DTYPES,
    WARPS,
    absent,
    accumulation_dtype,
    dense,
    on_device,
    plan,
    strided_like,
    tiles_for,
)
from .sums import reduced


def conv_transpose2d_small_loss_fwd(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    activation: int,
    slope: float,
    kind: int,
    factor: float,
    need_grad: bool,
    tf32: bool,
    channels_last: bool,
) -> tuple[Tensor, Tensor]:
    grad = new_output(input, weight, stride, padding, output_padding, channels_last) if need_grad else None
    call = forward_of(input, weight, target.shape[2:], stride, padding, tf32)
    partial = input.new_empty((1, math.prod(call.grid)), dtype=accumulation_dtype(input))
    with on_device(input):
        small_loss_kernel[call.grid](
            input, weight, None if bias is None else bias.contiguous(), target, grad, partial,
            *call.sizes, *target.stride(), *((0,) * 4 if grad is None else grad.stride()), slope, factor,
            *call.geometry, activation, kind, *call.kind, num_warps=FWD_WARPS,
        )  # fmt: skip
        return reduced(partial, ()), absent(input) if grad is None else grad


def activation_loss_fwd(
    logits: Tensor, target: Tensor, activation: int, slope: float, kind: int, factor: float, need_grad: bool
) -> tuple[Tensor, Tensor]:
    acc = accumulation_dtype(logits)
    with on_device(logits):
        logits = dense(logits, False)
        target = strided_like(target, logits)
        count = logits.numel()
        cut = plan(1, count, tiles_for(acc, (count,), (logits, target)))
        grad = torch.empty_like(logits) if need_grad else None
        partial = logits.new_empty((1, cut.programs), dtype=acc)
        activation_loss_kernel[(cut.programs,)](
            logits, target, grad, partial, count, cut.span, slope, factor,
            activation, kind, TRITON_DTYPES[acc], cut.tile.cols, num_warps=WARPS,
        )  # fmt: skip
        return reduced(partial, ()), absent(logits) if grad is None else grad
