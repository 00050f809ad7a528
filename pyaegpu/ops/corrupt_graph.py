"""Corruption as registered ops: schemas, fake kernels and the derivative that compiled graphs take."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyaegpu.ops import library
from pyaegpu.reference.corrupt import GAUSSIAN

FAMILY = "corrupt"

_SCHEMAS = {
    "corrupt_fwd": "(Tensor input, Tensor? seed, int seed_value, int offset, int kind, float amount, float low, "
    "float high) -> Tensor",
    "corrupt_bwd": "(Tensor g, Tensor? seed, int seed_value, int offset, int kind, float amount) -> Tensor",
}


def _fake(tensor: Tensor, *rest: Any) -> Tensor:
    return tensor.new_empty(tensor.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, seed, *ctx.args = inputs
    ctx.save_for_backward(seed)


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    seed_value, offset, kind, amount, _, _ = ctx.args
    if kind != GAUSSIAN:
        g = torch.ops.pyaegpu.corrupt_bwd(g, *ctx.saved_tensors, seed_value, offset, kind, amount)
    return g, *(None,) * 7


library.define(FAMILY, _SCHEMAS, {"corrupt_fwd": _fake, "corrupt_bwd": _fake})
library.register_autograd("corrupt_fwd", _backward, _setup)
library.refuse_autograd("corrupt_bwd")
