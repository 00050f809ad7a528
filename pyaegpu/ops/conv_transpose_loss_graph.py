"""A transposed convolution's reconstruction loss as registered ops: schemas, fake kernels and the derivative that
compiled graphs take.

The gradient at the logits is a result of the forward, made for an upstream gradient of 1: the backward applies the
upstream gradient to the weight and to the gradients of weight and bias, which are small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyaegpu.ops import library
from pyaegpu.ops.conv_transpose_graph import output_sizes
from pyaegpu.ops.layout import dense, empty_images
from pyaegpu.reference.activations import NONE
from pyaegpu.reference.vae_loss import accumulator

FAMILY = "conv_transpose_loss"

_SCHEMAS = {
    "conv_transpose2d_small_loss_fwd": "(Tensor input, Tensor weight, Tensor? bias, Tensor target, int[2] stride, "
    "int[2] padding, int[2] output_padding, int activation, float slope, int kind, float factor, bool need_grad, "
    "bool tf32, bool channels_last) -> (Tensor loss, Tensor d_logits)",
    "activation_loss_fwd": "(Tensor logits, Tensor target, int activation, float slope, int kind, float factor, "
    "bool need_grad) -> (Tensor loss, Tensor d_logits)",
}

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def scaled(
    backward: Callable[[Tensor], Sequence[Tensor | None]], g: Tensor, weight: Tensor, needed: Sequence[bool]
) -> Gradients:
    """The gradients at input, weight and bias for an upstream gradient ``g``, where ``needed``: ``backward`` gives
    them, from a weight, for one of 1."""
    d_input, d_weight, d_bias = backward(weight * g if needed[0] else weight)
    return (
        d_input if needed[0] else None,
        d_weight * g if d_weight is not None and needed[1] else None,
        d_bias * g if d_bias is not None and needed[2] else None,
    )


def _fake_small_loss(input: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor]:
    _, stride, padding, output_padding, *_, need_grad, _tf32, channels_last = rest
    loss = input.new_empty((), dtype=accumulator(input.dtype))
    if not need_grad:
        return loss, input.new_empty(0)
    size = output_sizes(input.shape[2:], weight.shape[2:], stride, padding, output_padding)
    return loss, empty_images((input.shape[0], weight.shape[1], *size), input, channels_last)


def _fake_activation_loss(logits: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *_, need_grad = rest
    loss = logits.new_empty((), dtype=accumulator(logits.dtype))
    return loss, torch.empty_like(dense(logits, False)) if need_grad else logits.new_empty(0)


def _setup_small_loss(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.numbers, need_grad, ctx.order = inputs[4:11], inputs[11], inputs[12:]
    ctx.save_for_backward(*inputs[:4], output[1] if need_grad else None)


def _small_loss_backward(ctx: Any, g: Tensor, g_logits: Tensor | None) -> tuple[Tensor | None, ...]:
    input, weight, bias, target, d_logits = ctx.saved_tensors
    if d_logits is None:  # traced where no gradient was wanted
        _, d_logits = torch.ops.pyaegpu.conv_transpose2d_small_loss_fwd(
            input, weight, bias, target, *ctx.numbers, True, *ctx.order
        )
    needed = ctx.needs_input_grad[:3]

    def backward(weight: Tensor) -> Sequence[Tensor]:
        return torch.ops.pyaegpu.conv_transpose2d_small_bwd(
            d_logits, input, weight, None, *ctx.numbers[:2], NONE, 0.0, *ctx.order, *needed
        )

    return *scaled(backward, g, weight, needed), *(None,) * 11


library.define(
    FAMILY,
    _SCHEMAS,
    {"conv_transpose2d_small_loss_fwd": _fake_small_loss, "activation_loss_fwd": _fake_activation_loss},
)
library.register_autograd("conv_transpose2d_small_loss_fwd", _small_loss_backward, _setup_small_loss)
library.refuse_autograd("activation_loss_fwd")
