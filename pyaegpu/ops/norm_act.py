"""Batch normalisation with its activation as an autograd op: the choice of backend and the derivatives in eager.

Only the input is saved for the backward: the activation's derivative is computed from it again.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyaegpu import backends
from pyaegpu.measured import Call
from pyaegpu.ops import library
from pyaegpu.ops.eager import differentiable, differentiate, is_known, route_of
from pyaegpu.ops.layout import suggests_channels_last
from pyaegpu.ops.norm_act_graph import FAMILY
from pyaegpu.reference import norm_act as reference
from pyaegpu.reference.activations import NONE

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Elements from which a call's fixed cost no longer decides on a CPU, by what was measured there: in training with the
# pixels of a channel together, or few channels innermost, where stock PyTorch's loops are slow; and otherwise.
_CPU_LEAST = 2**17
_CPU_LEAST_OTHERWISE = 2**20
_FEW_CHANNELS = 16
# Of a channel's values, where those of an image are fewer than the second number: they are walked as columns, whose own
# cost is shared by too few rows below.
_CPU_LEAST_VALUES = 2**9
_SHORT_RUN = 32


class NormArgs(NamedTuple):
    """The numbers of a batch normalisation and its activation."""

    training: bool
    momentum: float
    eps: float
    activation: int
    slope: float


class Running(NamedTuple):
    """The running statistics, which training updates."""

    mean: Tensor | None
    var: Tensor | None


def batch_norm_act(
    input: Tensor, running: Running, weight: Tensor | None, bias: Tensor | None, args: NormArgs
) -> Tensor:
    """Batch normalisation of [N, C, *spatial], then the activation."""
    route = None
    channels_last = takes_channels_last(input)
    if not _stock_is_as_fast(input, args, channels_last):
        refuse_one_value(input.shape, args.training)
        if refusal(input, running, weight, bias) is None:
            route = route_of(FAMILY, Call("batch_norm_act", input, channels_last))
    if route is None:
        return reference.batch_norm_act(input, running.mean, running.var, weight, bias, *args)
    fixed = Running(None, None) if args.training else running
    numbers = (args.training, args.eps, args.activation, args.slope, channels_last)
    if route == "graph":
        out, mean, _, var = torch.ops.pyaegpu.batch_norm_act_fwd(input, weight, bias, *fixed, *numbers)
    else:
        call = (library.implementation(FAMILY, route), args, *fixed, numbers)
        out, mean, var = _BatchNormAct.apply(input, weight, bias, call)
    if args.training:
        update(running, mean, var, args.momentum)
    return out  # type: ignore[no-any-return]


def refuse_one_value(shape: torch.Size, training: bool) -> None:
    """Raise as torch.nn.functional does where a channel has one value, which has no variance.

    Raises:
        ValueError: in training, for such a shape.
    """
    if (
        training and is_known(shape[1] > 0) and is_known(math.prod(shape) == shape[1])
    ):  # Size.numel() would bind a graph to its sizes
        raise ValueError(f"input must have more than 1 value per channel when training, got input size {shape}")


def refusal(input: Tensor, running: Running, weight: Tensor | None, bias: Tensor | None) -> str | None:
    """Why no kernel of ours can run a call, or None; calls that stock PyTorch refuses are among them."""
    if input.dtype not in _DTYPES:
        return f"its kernels do not take {input.dtype}"
    if not 2 <= input.dim() <= 5:
        return "its kernels take two to five dimensions"
    if is_known(input.numel() == 0):
        return "nothing to compute"
    size, device = input.shape[1:2], input.device
    kinds = set()
    for t in (*running, weight, bias):
        if t is not None:
            if t.shape != size or t.device != device:
                return "the parameters do not fit"
            kinds.add(t.dtype)
    if any(t is not None and t.requires_grad for t in running):
        return "running statistics have no gradient"
    half = input.dtype.itemsize == 2
    if kinds - {input.dtype} and not (half and kinds == {torch.float32}):
        return "the dtypes of the parameters do not fit"
    return None


def takes_channels_last(input: Tensor) -> bool:
    """Whether the result is channels_last, as stock PyTorch's is."""
    if input.dim() not in (4, 5):
        return False
    order = torch.channels_last if input.dim() == 4 else torch.channels_last_3d
    # Of sizes of one stock's batch norm ignores the strides.
    return not input.is_contiguous() and (suggests_channels_last(input) or input.is_contiguous(memory_format=order))


def update(running: Running, mean: Tensor, var: Tensor, momentum: float) -> None:
    """Move the running statistics towards those of a batch, in place; neither is differentiated."""
    for kept, new in zip(running, (mean, var), strict=True):
        if kept is not None:
            kept.lerp_(new if new.dtype == kept.dtype else new.to(kept.dtype), momentum)


def explain(
    op: str,
    input: Tensor,
    running: Running,
    weight: Tensor | None,
    bias: Tensor | None,
    args: NormArgs,
    channels_last: bool,
) -> backends.Explanation:
    """The backend and algorithm of a call, and why each other backend does not serve it."""
    reason = refusal(input, running, weight, bias)
    if reason is None and _stock_is_as_fast(input, args, channels_last):
        reason = "stock PyTorch is as fast for such a call, by what was measured on a CPU"
    algorithm = "normalisation and activation in one pass"
    if args.training:
        algorithm = f"statistics by tiles, then {algorithm}; backward in two passes"
    return backends.explain(FAMILY, op, Call("batch_norm_act", input, channels_last), algorithm, reason)


def _stock_is_as_fast(input: Tensor, args: NormArgs, channels_last: bool) -> bool:
    """Whether `auto` leaves a call on a CPU to stock PyTorch."""
    if input.device.type != "cpu" or backends.selected() != "auto":
        return False
    innermost = channels_last or input.dim() == 2
    if input.dtype.itemsize == 2 or (args.activation == NONE and (innermost or not args.training)):
        return True
    rows = math.prod(input.shape) // max(1, input.shape[1])
    if not innermost and is_known(rows < _CPU_LEAST_VALUES) and is_known(rows // input.shape[0] < _SHORT_RUN):
        return True
    slow = args.training and (not innermost or is_known(input.shape[1] < _FEW_CHANNELS))
    least = _CPU_LEAST if slow else _CPU_LEAST_OTHERWISE
    return is_known(input.numel() < least)


class _BatchNormAct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        call: tuple[Any, NormArgs, Tensor | None, Tensor | None, tuple[Any, ...]],
    ) -> tuple[Tensor, Tensor, Tensor]:
        impl, _, *fixed, numbers = call
        out, mean, invstd, var = impl.batch_norm_act_fwd(input, weight, bias, *fixed, *numbers)
        ctx.save_for_backward(input, weight, bias, mean, invstd, *fixed)
        ctx.mark_non_differentiable(mean, var)
        ctx.call = call
        return out, mean, var

    @staticmethod
    def backward(ctx: Any, g: Tensor, *others: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, bias, mean, invstd, *fixed = ctx.saved_tensors
        impl, args, _, _, numbers = ctx.call
        needed = ctx.needs_input_grad[:3]
        if differentiable((), g):

            def formula(*inputs: Any) -> tuple[Tensor]:
                x, *params = inputs
                return (reference.batch_norm_act(x, fixed[0], fixed[1], *params, *args),)

            return *differentiate(formula, (input, weight, bias), needed, (g,)), None
        training, _, *rest = numbers
        grads = impl.batch_norm_act_bwd(
            g, input, weight, bias, mean, invstd, training, *rest, needed[0], any(needed[1:])
        )
        return *(d if need else None for d, need in zip(grads, needed, strict=True)), None
