"""Unpooling without indices as an autograd op: the choice of backend and the derivatives in eager."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyaegpu import backends
from pyaegpu.measured import Call
from pyaegpu.ops import library
from pyaegpu.ops.eager import differentiable, is_differentiated, is_known, route_of
from pyaegpu.ops.layout import in_format, suggests_channels_last
from pyaegpu.ops.nearest_unpool_graph import FAMILY
from pyaegpu.reference import nearest_unpool as reference

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def nearest_unpool(input: Tensor, kernel: Sequence[int], nails: bool, batched: bool) -> Tensor:
    """Each value of [N, C, *spatial] fills its window, or with ``nails`` stands in its first cell among zeros."""
    channels_last = takes_channels_last(input, batched)
    args = (kernel, nails, channels_last)
    route = route_of(FAMILY, _call(input, *args)) if refusal(input, *args) is None else None
    if route is None:
        return in_format(reference.nearest_unpool(input, *args), channels_last)
    if route == "graph":
        return torch.ops.pyaegpu.nearest_unpool_fwd(input, *args)  # type: ignore[no-any-return]
    impl = library.implementation(FAMILY, route)
    if is_differentiated(input):
        return _NearestUnpool.apply(input, (impl, args))  # type: ignore[no-any-return]
    return impl.nearest_unpool_fwd(input, *args)  # type: ignore[no-any-return]


def refusal(input: Tensor, kernel: Sequence[int], nails: bool, channels_last: bool) -> str | None:
    """Why no kernel of ours serves ``input``, or None."""
    if input.dtype not in _DTYPES:
        return f"its kernels do not take {input.dtype}"
    if is_known(input.numel() == 0):
        return "nothing to compute"
    by_choice = input.device.type == "cpu" and backends.selected() == "auto"
    if by_choice and channels_last and not nails and reference.is_power_of_two(kernel):
        return "stock PyTorch is as fast for such a call, by what was measured on a CPU"
    return None


def explain(op: str, input: Tensor, kernel: Sequence[int], nails: bool, batched: bool) -> backends.Explanation:
    """The backend and algorithm of a call, and why each other backend does not serve it."""
    algorithm = "every cell of the result asks for its value"
    args = (kernel, nails, takes_channels_last(input, batched))
    return backends.explain(FAMILY, op, _call(input, *args), algorithm, refusal(input, *args))


def _call(input: Tensor, kernel: Sequence[int], nails: bool, channels_last: bool) -> Call:
    return Call("bed_of_nails" if nails else "nearest_unpool", input, channels_last)


def takes_channels_last(input: Tensor, batched: bool) -> bool:
    """Whether the result is channels_last, as ``input`` is."""
    return batched and input.dim() in (4, 5) and suggests_channels_last(input)


class _NearestUnpool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, call: tuple[Any, tuple[Sequence[int], bool, bool]]) -> Tensor:
        impl, args = call
        ctx.call = call
        return impl.nearest_unpool_fwd(input, *args)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        impl, (kernel, nails, channels_last) = ctx.call
        if differentiable((), g):
            return reference.nearest_unpool_gradient(g, kernel, nails), None
        return impl.nearest_unpool_bwd(g, kernel, nails, channels_last), None
