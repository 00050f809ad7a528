"""Unpooling without indices as registered ops: schemas, fake kernels and the derivative that compiled graphs take.

The ops take [N, C, *spatial] of one to three spatial dimensions, and a window's size along each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyaegpu.ops import library
from pyaegpu.ops.layout import empty_images

FAMILY = "nearest_unpool"

_SCHEMAS = {
    "nearest_unpool_fwd": "(Tensor input, int[] kernel, bool nails, bool channels_last) -> Tensor",
    "nearest_unpool_bwd": "(Tensor g, int[] kernel, bool nails, bool channels_last) -> Tensor",
}


def _fake_fwd(input: Tensor, kernel: Sequence[int], nails: bool, channels_last: bool) -> Tensor:
    spatial = (size * k for size, k in zip(input.shape[2:], kernel, strict=True))
    return empty_images((*input.shape[:2], *spatial), input, channels_last)


def _fake_bwd(g: Tensor, kernel: Sequence[int], nails: bool, channels_last: bool) -> Tensor:
    spatial = (size // k for size, k in zip(g.shape[2:], kernel, strict=True))
    return empty_images((*g.shape[:2], *spatial), g, channels_last)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.args = inputs[1:]


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    return torch.ops.pyaegpu.nearest_unpool_bwd(g, *ctx.args), None, None, None


library.define(FAMILY, _SCHEMAS, {"nearest_unpool_fwd": _fake_fwd, "nearest_unpool_bwd": _fake_bwd})
library.register_autograd("nearest_unpool_fwd", _backward, _setup)
library.refuse_autograd("nearest_unpool_bwd")
