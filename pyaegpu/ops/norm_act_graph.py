"""Batch normalisation with its activation as registered ops: schemas, fake kernels and the derivative that compiled
graphs take.

The ops change no running statistics: the forward returns the batch's, and norm_act.py updates with them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyaegpu.ops import library
from pyaegpu.ops.layout import empty_images
from pyaegpu.reference.vae_loss import accumulator

FAMILY = "norm_act"

_SCHEMAS = {
    "batch_norm_act_fwd": "(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, "
    "bool training, float eps, int activation, float slope, bool channels_last) "
    "-> (Tensor out, Tensor mean, Tensor invstd, Tensor var)",
    "batch_norm_act_bwd": "(Tensor g, Tensor input, Tensor? weight, Tensor? bias, Tensor mean, Tensor invstd, "
    "bool training, int activation, float slope, bool channels_last, bool need_input, bool need_params) "
    "-> (Tensor d_input, Tensor d_weight, Tensor d_bias)",
}


def new_statistics(input: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Empty mean, 1 / std and variance of every channel."""
    mean, invstd, var = (input.new_empty(input.shape[1], dtype=accumulator(input.dtype)) for _ in range(3))
    return mean, invstd, var


def _fake_fwd(input: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return empty_images(input.shape, input, rest[-1]), *new_statistics(input)


def _fake_bwd(g: Tensor, input: Tensor, weight: Tensor | None, bias: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    *_, channels_last, need_input, need_params = rest
    d_input = empty_images(input.shape, input, channels_last) if need_input else input.new_empty(0)
    if not need_params:
        return d_input, input.new_empty(0), input.new_empty(0)
    acc = accumulator(input.dtype)
    dtypes = (acc if t is None else t.dtype for t in (weight, bias))
    return d_input, *(input.new_empty(input.shape[1], dtype=dtype) for dtype in dtypes)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    input, weight, bias, _, _, training, _, *rest = inputs
    _, mean, invstd, var = output
    ctx.mark_non_differentiable(mean, invstd, var)
    ctx.save_for_backward(input, weight, bias, mean, invstd)
    ctx.args = (training, *rest)


def _backward(ctx: Any, g: Tensor, *others: Tensor) -> tuple[Tensor | None, ...]:
    need_input, *need_params = ctx.needs_input_grad[:3]
    grads = torch.ops.pyaegpu.batch_norm_act_bwd(g, *ctx.saved_tensors, *ctx.args, need_input, any(need_params))
    needed = (need_input, *need_params)
    return *(d if need else None for d, need in zip(grads, needed, strict=True)), *(None,) * 7


library.define(FAMILY, _SCHEMAS, {"batch_norm_act_fwd": _fake_fwd, "batch_norm_act_bwd": _fake_bwd})
library.register_autograd("batch_norm_act_fwd", _backward, _setup)
library.refuse_autograd("batch_norm_act_bwd")
