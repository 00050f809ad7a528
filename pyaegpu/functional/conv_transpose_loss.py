"""The reconstruction loss of a decoder's last layer without the reconstruction."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyaegpu import _checks, backends
from pyaegpu.functional import _vae_loss as parts
from pyaegpu.functional._conv_transpose import (
    Numbers,
    activation_of,
    arguments,
    explain_failure,
    tensors,
)
from pyaegpu.functional.conv_transpose import conv_transpose2d
from pyaegpu.functional.vae_loss import KINDS, reconstruction_loss
from pyaegpu.ops import conv_transpose_loss as ops
from pyaegpu.ops.conv_transpose_graph import output_sizes
from pyaegpu.ops.conv_transpose_rules import ConvArgs, Plan

_REDUCTIONS = ("none", "sum", "mean", "batchmean", "sample")
_FUSED = ("sum", "mean", "batchmean")
_SLOPE = 0.01


class _Call(NamedTuple):
    """What one op computes: a batch."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    target: Tensor
    args: ConvArgs
    chosen: Plan


def conv_transpose2d_loss(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    *,
    stride: Numbers = 1,
    padding: Numbers = 0,
    output_padding: Numbers = 0,
    groups: int = 1,
    dilation: Numbers = 1,
    activation: str | None = None,
    kind: str = "bce_logits",
    reduction: str = "sum",
) -> Tensor:
    r"""Reconstruction loss of a transposed convolution's result, which is not kept for the backward.

    .. math:: L = R\big(f(\mathrm{conv\_transpose2d}(input, weight, bias)), target\big)

    with R as in :func:`reconstruction_loss` and f the activation: the values and gradients of
    ``reconstruction_loss(conv_transpose2d(input, weight, bias, ..., activation=activation), target, kind,
    reduction=reduction)``. Where a gradient is wanted the forward keeps one tensor of the result's size: the loss's
    gradient before the activation, for an upstream gradient of 1. The backward applies the upstream gradient to the
    weight and to the gradients of weight and bias, which are small. Logits are not rounded to half precision where our
    own kernels convolve.

    One op computes the reductions ``"sum"``, ``"mean"`` and ``"batchmean"`` of float32, float64 and bfloat16 tensors of
    one dtype. Every other call is made of the two functions, as are losses with a weight, a scale or another threshold,
    which only :func:`reconstruction_loss` takes.

    Args:
        input: [N, Cin, H, W] or [Cin, H, W]; float32, float64, float16 or bfloat16.
        weight: [Cin, Cout / groups, KH, KW], of the dtype of ``input`` (under autocast, of any).
        bias: [Cout] or None.
        target: of the shape of the convolution's result, [N, Cout, H', W'] or [Cout, H', W'], and of its dtype.
        stride: distance of the input's pixels in the output; one number, or one for each dimension, as all that follow.
        padding: rows and columns cut off each side of the output.
        output_padding: rows and columns added to the bottom and the right, less than stride or dilation.
        groups: number of independent parts of the channels.
        dilation: distance of the kernel's taps in the output.
        activation: ``None``, ``"relu"``, ``"leaky_relu"`` (of slope 0.01), ``"tanh"`` or ``"sigmoid"``.
        kind: ``"bce"``, ``"bce_logits"``, ``"mse"``, ``"l1"`` or ``"smooth_l1"`` (with threshold 1).
        reduction: ``"none"``, ``"sum"``, ``"mean"``, ``"batchmean"`` (sum / batch) or ``"sample"`` (sum per sample).
            The batch is dim 0 of ``target``, also of a ``target`` of three dimensions.

    Returns:
        The loss in the dtype of ``input``, or float32 where autocast gives stock PyTorch's loss that dtype.

    Raises:
        TypeError: for arguments of another type.
        ValueError: for a ``target`` of another shape, an unknown activation, kind or reduction.
        RuntimeError: for shapes that do not fit, different or non-floating dtypes (outside autocast), different
            devices, and on the CPU for values outside [0, 1] with ``"bce"``; on a GPU such an element gives NaN.
    """
    kind_id = _checks.choice("kind", kind, KINDS)
    _checks.choice("reduction", reduction, _REDUCTIONS)
    numbers = (stride, padding, output_padding, groups, dilation)
    call = _fused(input, weight, bias, target, numbers, activation, reduction)
    if call is None:
        recon = conv_transpose2d(input, weight, bias, *numbers, activation=activation)
        if isinstance(target, Tensor):
            _checks.alike("target", target, "the convolution's result", recon)
        return reconstruction_loss(recon, target, kind, reduction=reduction)
    loss = ops.LossArgs(kind_id, parts.factor(1.0, target, reduction))
    if torch.compiler.is_compiling():
        return _run(call, loss)
    try:
        return _run(call, loss)
    except RuntimeError:
        explain_failure(2, *call[:3], call.args)
        raise


def explain(op: str, *args: Any, **kwargs: Any) -> backends.Explanation:
    """What serves the call of ``op`` with these arguments, which is not made."""
    bound = inspect.signature(conv_transpose2d_loss).bind(*args, **kwargs)
    bound.apply_defaults()
    named = bound.arguments
    input, weight, bias, target = (named[each] for each in ("input", "weight", "bias", "target"))
    numbers: Any = tuple(named[each] for each in ("stride", "padding", "output_padding", "groups", "dilation"))
    call = _fused(input, weight, bias, target, numbers, named["activation"], named["reduction"])
    return ops.explain(op, input.device, None if call is None else call.chosen)


def _fused(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    numbers: tuple[Numbers, Numbers, Numbers, int, Numbers],
    activation: str | None,
    reduction: str,
) -> _Call | None:
    """The call as one op takes it, or None for the composition, which also says what is wrong with a call."""
    act = activation_of(activation, _SLOPE)
    given = tensors(input, weight, bias)
    args = arguments(2, numbers, act)
    if args is None or reduction not in _FUSED or not _fit(*given, target, args):
        return None
    input, weight, bias = given
    if input.dim() == 3:
        input, target = input.unsqueeze(0), target.unsqueeze(0)
    chosen = ops.plan(input, weight, bias, target, args)
    return None if chosen is None else _Call(input, weight, bias, target, args, chosen)


def _fit(input: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, args: ConvArgs) -> bool:
    """Whether dtypes, devices and shapes are those of one fused call."""
    if not isinstance(target, Tensor) or not input.is_floating_point():
        return False
    others = (weight, target) if bias is None else (weight, target, bias)
    if any(t.dtype != input.dtype or t.device != input.device for t in others):
        return False
    if input.dim() not in (3, 4) or weight.dim() != 4:
        return False
    sizes = output_sizes(input.shape[-2:], weight.shape[2:], *args[:3], args.dilation)
    return target.shape == (*input.shape[:-3], weight.shape[1] * args.groups, *sizes)


def _run(call: _Call, loss: ops.LossArgs) -> Tensor:
    value = ops.conv_transpose_loss(*call[:5], loss, call.chosen)
    dtype = call.input.dtype
    return value.to(torch.float32 if dtype != torch.float64 and _checks.autocasts(call.input) else dtype)
