"""Corruption as an autograd op: the choice of backend, the noise and the derivative in eager.

No noise and no mask is saved: the backward draws it again from seed and offset.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyaegpu import backends
from pyaegpu.measured import Call
from pyaegpu.ops import library
from pyaegpu.ops.corrupt_graph import FAMILY
from pyaegpu.ops.eager import differentiable
from pyaegpu.ops.random import Draw, draw, route_of_draw, stock_noise
from pyaegpu.reference import corrupt as reference
from pyaegpu.reference.corrupt import GAUSSIAN


class CorruptArgs(NamedTuple):
    """The numbers of a corruption, in the order of the op's schema."""

    kind: int
    amount: float
    low: float
    high: float


def corrupt(input: Tensor, generator: torch.Generator | None, args: CorruptArgs) -> Tensor:
    """``input`` with noise."""
    route = route_of_draw(FAMILY, Call("corrupt", input))
    if route is None:
        normal = args.kind == GAUSSIAN
        noise = stock_noise(torch.randn if normal else torch.rand, input, generator, None if normal else torch.float32)
        return reference.corrupt(input, noise, *args)
    source = draw(input.device, generator, route == "graph")
    if route == "graph":
        return torch.ops.pyaegpu.corrupt_fwd(input, *source, *args)
    return _Corrupt.apply(input, (library.implementation(FAMILY, route), source, args))


def explain(op: str, input: Tensor) -> backends.Explanation:
    """The backend of a call and the algorithm it takes there."""
    return backends.explain(FAMILY, op, Call(op, input), "noise drawn in the kernel; the backward draws the mask again")


class _Corrupt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, call: tuple[Any, Draw, CorruptArgs]) -> Tensor:
        impl, source, args = call
        ctx.save_for_backward(source.seed)
        ctx.call, ctx.shape = call, input.shape
        return impl.corrupt_fwd(input, *source, *args)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        impl, source, args = ctx.call
        if args.kind == GAUSSIAN:
            return g, None
        numbers = (*ctx.saved_tensors, *source[1:], args.kind, args.amount)
        if not differentiable((), g):
            return impl.corrupt_bwd(g, *numbers), None
        kept = impl.corrupt_bwd(torch.ones(ctx.shape, dtype=g.dtype, device=g.device), *numbers)
        return torch.where(kept != 0, g, 0.0), None
