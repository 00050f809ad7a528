"""Max-pooling and max-unpooling as registered ops: schemas, fake kernels and the derivatives that compiled graphs take.

The ops take [N, C, *spatial] of one to three spatial dimensions. The image is the large side, the pooled side the small
one; indices lie on the pooled side and tell places of the image: as uint8 codes, positions within the element's window,
or as plane indices, places in the flat plane.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyaegpu.ops import library
from pyaegpu.ops.layout import empty_images
from pyaegpu.reference.max_unpool import CODES, NO_INDICES

FAMILY = "max_unpool"

_WINDOW = "int[] kernel, int[] stride, int[] padding, int[] dilation"
_SCHEMAS = {
    "max_pool_fwd": f"(Tensor input, SymInt[] pooled, {_WINDOW}, int kind, bool channels_last) "
    "-> (Tensor out, Tensor indices)",
    "max_pool_bwd": f"(Tensor g, Tensor indices, SymInt[] image, {_WINDOW}, bool channels_last) -> Tensor",
    "max_unpool_fwd": f"(Tensor input, Tensor indices, SymInt[] image, {_WINDOW}, bool channels_last) -> Tensor",
    "max_unpool_bwd": f"(Tensor g, Tensor indices, {_WINDOW}, bool channels_last) -> Tensor",
}


def _fake_max_pool_fwd(
    input: Tensor,
    pooled: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    kind: int,
    channels_last: bool,
) -> tuple[Tensor, Tensor]:
    out = empty_images((*input.shape[:2], *pooled), input, channels_last)
    if kind == NO_INDICES:
        return out, input.new_empty(0, dtype=torch.uint8)
    return out, torch.empty_like(out, dtype=torch.uint8 if kind == CODES else torch.int64)


def _fake_image(small: Tensor, indices: Tensor, image: Sequence[int], *rest: Any) -> Tensor:
    return empty_images((*small.shape[:2], *image), small, rest[-1])


def _fake_max_unpool_bwd(g: Tensor, indices: Tensor, *rest: Any) -> Tensor:
    return empty_images(indices.shape, g, rest[-1])


def _setup_max_pool(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    input, _, *window, kind, channels_last = inputs
    indices = output[1]
    ctx.mark_non_differentiable(indices)
    ctx.save_for_backward(indices)
    ctx.kind = kind
    ctx.args = (input.shape[2:], *window, channels_last)


def _backward_max_pool(ctx: Any, g: Tensor, *others: Tensor) -> tuple[Tensor | None, ...]:
    if ctx.kind == NO_INDICES:
        raise RuntimeError(
            "this graph pools without keeping places, since its input needed no gradient when it was made: make it "
            "anew with an input that requires grad"
        )
    return torch.ops.pyaegpu.max_pool_bwd(g, *ctx.saved_tensors, *ctx.args), *(None,) * 7


def _setup_max_unpool(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, indices, _, *args = inputs
    ctx.save_for_backward(indices)
    ctx.args = args


def _backward_max_unpool(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    return torch.ops.pyaegpu.max_unpool_bwd(g, *ctx.saved_tensors, *ctx.args), *(None,) * 7


library.define(
    FAMILY,
    _SCHEMAS,
    {
        "max_pool_fwd": _fake_max_pool_fwd,
        "max_pool_bwd": _fake_image,
        "max_unpool_fwd": _fake_image,
        "max_unpool_bwd": _fake_max_unpool_bwd,
    },
)
library.register_autograd("max_pool_fwd", _backward_max_pool, _setup_max_pool)
library.register_autograd("max_unpool_fwd", _backward_max_unpool, _setup_max_unpool)
library.refuse_autograd("max_pool_bwd")
library.refuse_autograd("max_unpool_bwd")
