"""Max-pooling and max-unpooling as autograd ops: the choice of backend and the derivatives in eager.

Each op is linear in its values once the places are known, so the differentiable formulas of the backward need no more
than the indices.
"""

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
from pyaegpu.ops.max_unpool_graph import FAMILY
from pyaegpu.reference import max_unpool as reference
from pyaegpu.reference.max_unpool import CODES, NO_INDICES, PLANE_INDICES, Window

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# What was measured on a CPU. Elements of an image from which a pooling's fixed cost no longer decides; in channels_last
# stock PyTorch's loops are as fast, but keep more for the backward.
_CPU_LEAST = 2**15
_CPU_LEAST_CHANNELS_LAST = 2**20
# Of windows that overlap, rows too short for loops along them.
_SHORT_ROW = 32


def max_pool(
    input: Tensor, pooled: Sequence[int], window: Window, ceil_mode: bool, kind: int, batched: bool
) -> tuple[Tensor, Tensor | None]:
    """The maxima of [N, C, *spatial], and their indices of ``kind`` or None. ``batched``: whether dim 0 was given."""
    channels_last = pools_channels_last(input, batched)
    route = _route(_pool_call(input, window, kind, channels_last), pool_refusal(input, window, kind, channels_last))
    if route is None:
        out, indices = reference.max_pool(input, window, ceil_mode, kind)
        return in_format(out, channels_last), None if indices is None else in_format(indices, channels_last)
    kept = _kept(input, window, kind)
    if route == "graph":
        out, indices = torch.ops.pyaegpu.max_pool_fwd(input, pooled, *window, kept, channels_last)
    else:
        impl = library.implementation(FAMILY, route)
        if is_differentiated(input):
            out, indices = _MaxPool.apply(input, (impl, pooled, window, kept, channels_last))
        else:
            out, indices = impl.max_pool_fwd(input, pooled, *window, kept, channels_last)
    return out, indices if kind != NO_INDICES else None


def max_unpool(input: Tensor, indices: Tensor, image: Sequence[int], window: Window, batched: bool) -> Tensor:
    """[N, C, *image] of zeros, but each value at its place."""
    channels_last = batched and unpools_channels_last(input)
    route = _route(_unpool_call(input, indices, window, channels_last), unpool_refusal(input, image))
    if route is None:
        if takes_stock(input, indices, window):
            return in_format(_stock_unpool(input, indices, image, window), channels_last)
        return in_format(reference.max_unpool(input, indices, image, window), channels_last)
    if route == "graph":
        return torch.ops.pyaegpu.max_unpool_fwd(input, indices, image, *window, channels_last)  # type: ignore[no-any-return]
    impl = library.implementation(FAMILY, route)
    if is_differentiated(input):
        return _MaxUnpool.apply(input, indices, (impl, image, window, channels_last))  # type: ignore[no-any-return]
    return impl.max_unpool_fwd(input, indices, image, *window, channels_last)  # type: ignore[no-any-return]


def pool_refusal(input: Tensor, window: Window, kind: int, channels_last: bool) -> str | None:
    """Why no kernel of ours pools ``input``, or None."""
    if input.dtype not in _DTYPES:
        return f"its kernels do not take {input.dtype}"
    if is_known(input.numel() == 0):
        return "nothing to compute"
    by_choice = input.device.type == "cpu" and kind != CODES and backends.selected() == "auto"
    if by_choice and _stock_is_as_fast(input, window, kind, channels_last):
        return "stock PyTorch is as fast for such a call, by what was measured on a CPU"
    return None


def _stock_is_as_fast(input: Tensor, window: Window, kind: int, channels_last: bool) -> bool:
    if channels_last:
        return kind == PLANE_INDICES or not window.disjoint or is_known(input.numel() < _CPU_LEAST_CHANNELS_LAST)
    if not window.disjoint and is_known(input.shape[-1] < _SHORT_ROW):
        return True
    return is_known(input.numel() < _CPU_LEAST)


def _kept(input: Tensor, window: Window, kind: int) -> int:
    """The indices that a pooling has to give: those asked for, or what its backward needs."""
    # An exported graph may be trained by whoever loads it.
    has_backward = (torch.is_grad_enabled() and input.requires_grad) or torch.compiler.is_exporting()
    if kind != NO_INDICES or not has_backward:
        return kind
    return CODES if window.codable else PLANE_INDICES


def unpool_refusal(input: Tensor, image: Sequence[int]) -> str | None:
    """Why no kernel of ours unpools ``input``, or None."""
    if input.dtype not in _DTYPES:
        return f"its kernels do not take {input.dtype}"
    is_empty = is_known(input.numel() == 0) or any(is_known(size == 0) for size in image)
    return "nothing to compute" if is_empty else None


def takes_stock(input: Tensor, indices: Tensor, window: Window) -> bool:
    """Whether, on a GPU without a measured kernel of ours, `auto` takes stock PyTorch's unpooling: for plane indices of
    windows that are apart, of which only foreign ones can have one place."""
    if backends.selected() != "auto" or torch._C._are_functorch_transforms_active():
        return False
    if torch.are_deterministic_algorithms_enabled() or not window.disjoint or is_known(input.numel() == 0):
        return False
    return input.device.type == "cuda" and input.dtype in _DTYPES and indices.dtype != torch.uint8


def explain_pool(op: str, input: Tensor, window: Window, kind: int, batched: bool) -> backends.Explanation:
    """The backend and algorithm of a pooling, and why each other backend does not serve it."""
    algorithm = "maxima and places in one pass; backward by gathering"
    args = (input, window, kind, pools_channels_last(input, batched))
    return backends.explain(FAMILY, op, _pool_call(*args), algorithm, pool_refusal(*args))


def explain_unpool(
    op: str, input: Tensor, indices: Tensor, image: Sequence[int], window: Window, batched: bool
) -> backends.Explanation:
    """The backend and algorithm of an unpooling, and why each other backend does not serve it."""
    algorithm = "every place of the output asks its windows"
    if indices.dtype != torch.uint8:
        algorithm += "; where an index is outside its window, an ordered scatter"
    call = _unpool_call(input, indices, window, batched and unpools_channels_last(input))
    return backends.explain(FAMILY, op, call, algorithm, unpool_refusal(input, image))


def _route(call: Call, refusal: str | None) -> str | None:
    # torch.jit cannot record the sizes that the ops take; as numbers they would bind the trace to one input size.
    return None if refusal is not None or torch.jit.is_tracing() else route_of(FAMILY, call)


_POOLINGS = {NO_INDICES: "max_pool", PLANE_INDICES: "max_pool_indices", CODES: "max_pool_codes"}
_OVERLAPPING = "_overlapping"  # windows, which other kernels gather from


def _pool_call(input: Tensor, window: Window, kind: int, channels_last: bool) -> Call:
    return Call(_POOLINGS[kind] + ("" if window.disjoint else _OVERLAPPING), input, channels_last)


def _unpool_call(input: Tensor, indices: Tensor, window: Window, channels_last: bool) -> Call:
    op = "max_unpool_codes" if indices.dtype == torch.uint8 else "max_unpool_indices"
    return Call(op + ("" if window.disjoint else _OVERLAPPING), input, channels_last)


def pools_channels_last(input: Tensor, batched: bool) -> bool:
    """Whether the result of pooling is channels_last, as stock PyTorch's: of volumes without a batch too."""
    return (input.dim() == 5 or (batched and input.dim() == 4)) and suggests_channels_last(input, batched)


def unpools_channels_last(input: Tensor) -> bool:
    """Whether the result of unpooling is channels_last: as stock PyTorch's on a CPU, in two dimensions alone."""
    return input.dim() == 4 and suggests_channels_last(input)


def _stock_unpool(input: Tensor, indices: Tensor, image: Sequence[int], window: Window) -> Tensor:
    indices, image = indices.long(), list(image)
    if len(image) == 3:
        return torch._C._nn.max_unpool3d(input, indices, image, window.stride, window.padding)
    if len(image) == 1:
        flat = torch._C._nn.max_unpool2d(input.unsqueeze(-1), indices.unsqueeze(-1), [*image, 1])
        return flat.squeeze(-1)
    return torch._C._nn.max_unpool2d(input, indices, image)


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, call: tuple[Any, Sequence[int], Window, int, bool]) -> tuple[Tensor, Tensor]:
        impl, pooled, window, kind, channels_last = call
        out, indices = impl.max_pool_fwd(input, pooled, *window, kind, channels_last)
        ctx.mark_non_differentiable(indices)
        ctx.save_for_backward(indices)
        ctx.call = (impl, input.shape[2:], window, channels_last)
        return out, indices

    @staticmethod
    def backward(ctx: Any, g: Tensor, *others: Tensor) -> tuple[Tensor, None]:
        (indices,) = ctx.saved_tensors
        impl, image, window, channels_last = ctx.call
        if differentiable((), g):
            return reference.max_pool_gradient(g, indices, image, window), None
        return impl.max_pool_bwd(g, indices, image, *window, channels_last), None


class _MaxUnpool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, indices: Tensor, call: tuple[Any, Sequence[int], Window, bool]) -> Tensor:
        impl, image, window, channels_last = call
        ctx.save_for_backward(indices)
        ctx.call = call
        return impl.max_unpool_fwd(input, indices, image, *window, channels_last)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        (indices,) = ctx.saved_tensors
        impl, _, window, channels_last = ctx.call
        if differentiable((), g):
            return reference.max_unpool_gradient(g, indices, window), None, None
        return impl.max_unpool_bwd(g, indices, *window, channels_last), None, None
