"""Transposed convolution as registered ops: schemas, fake kernels and the derivatives that compiled graphs take.

The ops are 2-D, of one group and dilation 1; what they do not serve is left to stock PyTorch's, by conv_transpose.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyaegpu.ops import library
from pyaegpu.ops.layout import empty_images
from pyaegpu.ops.norm_act_graph import new_statistics
from pyaegpu.reference.activations import NONE, gradient

FAMILY = "conv_transpose"

_FORWARD = (
    "(Tensor input, Tensor weight, Tensor? bias, int[2] stride, int[2] padding, int[2] output_padding, "
    "int activation, float slope, bool tf32, bool channels_last) -> Tensor"
)
_NORM_FORWARD = (
    "(Tensor input, Tensor weight, Tensor? bias, Tensor? norm_weight, Tensor? norm_bias, int[2] stride, "
    "int[2] padding, int[2] output_padding, float eps, int activation, float slope, bool tf32, bool channels_last) "
    "-> (Tensor out, Tensor y, Tensor mean, Tensor invstd, Tensor var)"
)
_SCHEMAS = {
    "conv_transpose2d_small_fwd": _FORWARD,
    "conv_transpose2d_small_bwd": "(Tensor g, Tensor input, Tensor weight, Tensor? out, int[2] stride, int[2] padding, "
    "int activation, float slope, bool tf32, bool channels_last, bool need_input, bool need_weight, bool need_bias) "
    "-> (Tensor d_input, Tensor d_weight, Tensor d_bias)",
    "conv_transpose2d_phases_fwd": _FORWARD,
    "conv_transpose2d_matmul_fwd": _FORWARD,
    "conv_transpose2d_phases_norm_fwd": _NORM_FORWARD,
    "conv_transpose2d_matmul_norm_fwd": _NORM_FORWARD,
    "bias_act_": "(Tensor(a!) y, Tensor? bias, int activation, float slope) -> ()",
    "bias_act_bwd": "(Tensor g, Tensor out, bool need_bias, int activation, float slope) "
    "-> (Tensor d_y, Tensor d_bias)",
}
_PRODUCTS = ("conv_transpose2d_phases_fwd", "conv_transpose2d_matmul_fwd")
_NORM_PRODUCTS = ("conv_transpose2d_phases_norm_fwd", "conv_transpose2d_matmul_norm_fwd")


def output_sizes(
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int] | None = None,
) -> list[int]:
    """The sizes of the result's spatial dimensions, from those of the input's."""
    columns = zip(sizes, kernel, stride, padding, output_padding, dilation or (1,) * len(stride), strict=True)
    return [(size - 1) * s - 2 * p + d * (k - 1) + extra + 1 for size, k, s, p, extra, d in columns]


def stock_backward(
    g: Tensor,
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    needed: Sequence[bool],
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients at input and weight by stock PyTorch's kernels, where ``needed``."""
    if not any(needed):
        return None, None
    grads = torch.ops.aten.convolution_backward(
        g, input, weight, None, stride, padding, dilation, True, output_padding, groups, [*needed, False]
    )
    return grads[0], grads[1]


def _fake_forward(input: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    stride, padding, output_padding, *_, channels_last = rest
    size = output_sizes(input.shape[2:], weight.shape[2:], stride, padding, output_padding)
    return empty_images((input.shape[0], weight.shape[1], *size), input, channels_last)


def _fake_norm_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, ...]:
    y = _fake_forward(input, weight, bias, *rest)
    return torch.empty_like(y), y, *new_statistics(y)


def _fake_small_bwd(g: Tensor, input: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    *_, channels_last, need_input, need_weight, need_bias = rest
    return (
        empty_images(input.shape, input, channels_last) if need_input else input.new_empty(0),
        empty_images(weight.shape, weight, channels_last) if need_weight else weight.new_empty(0),
        g.new_empty(weight.shape[1] if need_bias else 0),
    )


def _fake_bias_act(y: Tensor, bias: Tensor | None, activation: int, slope: float) -> None:
    return None


def _fake_bias_act_bwd(g: Tensor, out: Tensor, need_bias: bool, activation: int, slope: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(out), out.new_empty(out.shape[1] if need_bias else 0)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, _, *ctx.args = inputs
    activation = ctx.args[3]
    ctx.save_for_backward(input, weight, None if activation == NONE else output)


def _small_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    stride, padding, _, *rest = ctx.args
    needed = ctx.needs_input_grad[:3]
    grads = torch.ops.pyaegpu.conv_transpose2d_small_bwd(g, *ctx.saved_tensors, stride, padding, *rest, *needed)
    return *(d if need else None for d, need in zip(grads, needed, strict=True)), *(None,) * 7


def _stock_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    input, weight, out = ctx.saved_tensors
    stride, padding, output_padding, activation, slope, *_ = ctx.args
    need_input, need_weight, need_bias = ctx.needs_input_grad[:3]
    if out is not None:
        g = gradient(g, out, activation, slope)
    grads = stock_backward(g, input, weight, stride, padding, output_padding, (need_input, need_weight))
    return *grads, g.sum((0, 2, 3)) if need_bias else None, *(None,) * 7


def norm_backward(
    batch_norm_act_bwd: Callable[..., Any], g: Tensor, saved: tuple[Any, ...], args: Any, needed: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """The gradients at input, weight, bias, norm_weight and norm_bias.

    The batch's mean takes the bias away again: its gradient is 0, and NaN where others are.
    """
    input, weight, y, norm_weight, norm_bias, mean, invstd = saved
    stride, padding, output_padding, _, activation, slope, _, channels_last = args
    d_y, d_norm_weight, d_norm_bias = batch_norm_act_bwd(
        g, y, norm_weight, norm_bias, mean, invstd, True, activation, slope, channels_last,
        any(needed[:2]), any(needed[2:]),
    )  # fmt: skip
    d_input, d_weight = stock_backward(d_y, input, weight, stride, padding, output_padding, needed[:2])
    d_bias = (d_norm_bias * 0.0).to(y.dtype) if needed[2] else None
    return d_input, d_weight, d_bias, d_norm_weight if needed[3] else None, d_norm_bias if needed[4] else None


def _setup_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    input, weight, _, norm_weight, norm_bias, *ctx.args = inputs
    _, y, mean, invstd, var = output
    ctx.mark_non_differentiable(y, mean, invstd, var)
    ctx.save_for_backward(input, weight, y, norm_weight, norm_bias, mean, invstd)


def _norm_backward(ctx: Any, g: Tensor, *others: Tensor) -> tuple[Tensor | None, ...]:
    op = torch.ops.pyaegpu.batch_norm_act_bwd
    return *norm_backward(op, g, ctx.saved_tensors, ctx.args, ctx.needs_input_grad[:5]), *(None,) * 8


library.define(
    FAMILY,
    _SCHEMAS,
    {
        "conv_transpose2d_small_fwd": _fake_forward,
        "conv_transpose2d_small_bwd": _fake_small_bwd,
        "conv_transpose2d_phases_fwd": _fake_forward,
        "conv_transpose2d_matmul_fwd": _fake_forward,
        "conv_transpose2d_phases_norm_fwd": _fake_norm_forward,
        "conv_transpose2d_matmul_norm_fwd": _fake_norm_forward,
        "bias_act_": _fake_bias_act,
        "bias_act_bwd": _fake_bias_act_bwd,
    },
    triton_only=_PRODUCTS + _NORM_PRODUCTS,
)
library.register_autograd("conv_transpose2d_small_fwd", _small_backward, _setup)
for _op in _PRODUCTS:
    library.register_autograd(_op, _stock_backward, _setup)
for _op in _NORM_PRODUCTS:
    library.register_autograd(_op, _norm_backward, _setup_norm)
library.refuse_autograd("conv_transpose2d_small_bwd")
library.refuse_autograd("bias_act_bwd")
