"""Transposed convolution, batch normalisation and activation: the choice of what is fused, and the derivatives in
eager.

Where a matrix product of ours convolves, the batch's statistics come from its epilogue; elsewhere a convolution is
followed by the ops of norm_act.py. In evaluation without gradients the normalisation is folded into the weight.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyaegpu import backends
from pyaegpu.ops import conv_transpose, library, norm_act
from pyaegpu.ops import conv_transpose_rules as rules
from pyaegpu.ops.conv_transpose_graph import FAMILY, norm_backward, output_sizes
from pyaegpu.ops.conv_transpose_rules import MATMUL, PHASES, ConvArgs, Plan
from pyaegpu.ops.eager import differentiable, differentiate
from pyaegpu.ops.layout import suggests_channels_last
from pyaegpu.ops.norm_act import NormArgs, Running
from pyaegpu.reference import conv_transpose as reference
from pyaegpu.reference import norm_act as norm_reference
from pyaegpu.reference.activations import LEAKY_RELU
from pyaegpu.reference.vae_loss import accumulator


class Operands(NamedTuple):
    """The tensors that are differentiated: those of the convolution, and weight and bias of the normalisation."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    norm_weight: Tensor | None
    norm_bias: Tensor | None


def conv_transpose_norm_act(operands: Operands, running: Running, conv: ConvArgs, norm: NormArgs) -> Tensor:
    """Transposed convolution of a batch of images, batch normalisation, then the activation of ``norm``; ``conv`` has
    none."""
    if _folds(operands, running, conv, norm):
        return conv_transpose.conv_transpose(
            operands.input, *_folded(operands, running, norm.eps), _activated(conv, norm)
        )
    chosen = _plan(operands, running, conv, norm)
    if chosen is None:
        y = conv_transpose.conv_transpose(*operands[:3], conv)
        return norm_act.batch_norm_act(y, running, *operands[3:], norm)
    op = f"conv_transpose2d_{chosen.algorithm}_norm_fwd"
    args = (*conv[:3], norm.eps, norm.activation, norm.slope, chosen.tf32, chosen.channels_last)
    if rules.is_traced():
        out, _, mean, _, var = getattr(torch.ops.pyaegpu, op)(*operands, *args)
    else:
        out, mean, var = _ConvTransposeNorm.apply(*operands, (op, chosen.backend, conv, norm, args))
    norm_act.update(running, mean, var, norm.momentum)
    return out  # type: ignore[no-any-return]


def explain(op: str, operands: Operands, running: Running, conv: ConvArgs, norm: NormArgs) -> backends.Explanation:
    """The backend and algorithm of a call, and why each other backend does not serve it."""
    folded = _folds(operands, running, conv, norm)
    found = conv_transpose.explain(op, *operands[:3], _activated(conv, norm) if folded else conv)
    if folded:
        algorithm = f"normalisation folded into the weight; {found.algorithm}"
    elif _plan(operands, running, conv, norm) is not None:
        algorithm = f"{found.algorithm}; the batch's statistics in its epilogue, then one pass"
    else:
        channels_last = any(suggests_channels_last(t) for t in operands[:2])
        after = norm_act.explain(op, _result(operands, conv), running, *operands[3:], norm, channels_last)
        algorithm = f"{found.algorithm}; then {after.backend}: {after.algorithm}"
        if found.backend == "reference":  # what is not stock PyTorch's serves the call
            return dataclasses.replace(after, algorithm=algorithm)
    return dataclasses.replace(found, algorithm=algorithm)


def _activated(conv: ConvArgs, norm: NormArgs) -> ConvArgs:
    return conv._replace(activation=norm.activation, slope=norm.slope)


def _plan(operands: Operands, running: Running, conv: ConvArgs, norm: NormArgs) -> Plan | None:
    """The product whose epilogue gives the statistics, or None where there is none."""
    if not norm.training or torch._C._are_functorch_transforms_active():
        return None
    chosen = rules.plan(*operands[:3], conv, "conv_transpose2d_norm_act")
    if chosen.algorithm not in (PHASES, MATMUL):
        return None
    y = _result(operands, conv)
    norm_act.refuse_one_value(y.shape, True)
    return chosen if norm_act.refusal(y, running, *operands[3:]) is None else None


def _result(operands: Operands, conv: ConvArgs) -> Tensor:
    """A tensor without memory of its own in place of the convolution's result: its shape, dtype and device."""
    input, weight = operands[:2]
    size = output_sizes(input.shape[2:], weight.shape[2:], *conv[:3], conv.dilation)
    return input.new_empty(1).expand(input.shape[0], weight.shape[1] * conv.groups, *size)


def _folds(operands: Operands, running: Running, conv: ConvArgs, norm: NormArgs) -> bool:
    """Whether the normalisation goes into the weight: where nothing is differentiated, fixed statistics make it one
    factor and one summand for each channel."""
    if norm.training or conv.groups != 1 or (norm.activation == LEAKY_RELU and not norm.slope >= 0):
        return False
    if torch._C._are_functorch_transforms_active() or torch.jit.is_tracing():
        return False
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in operands):
        return False
    input, weight = operands[:2]
    if weight.dim() != 4 or input.dtype != weight.dtype:
        return False
    if weight.dtype == torch.float16:  # a folded weight may leave its range where the result does not
        return False
    y = _result(operands, conv)
    if norm_act.refusal(y, running, *operands[3:]) is not None:
        return False
    # Below that, folding costs what it saves.
    return rules.reaches(y.numel(), 2 * weight.numel())


def _folded(operands: Operands, running: Running, eps: float) -> tuple[Tensor, Tensor]:
    """The weight and bias of the convolution that normalises its result by the running statistics."""
    _, weight, bias, gain, shift = operands
    acc = accumulator(weight.dtype)
    mean, var = (t.to(acc) for t in running if t is not None)
    scale = torch.rsqrt(var + eps)
    if gain is not None:
        scale = scale * gain.to(acc)
    summand = -mean * scale if bias is None else (bias.to(acc) - mean) * scale
    if shift is not None:
        summand = summand + shift.to(acc)
    return (weight.to(acc) * scale[:, None, None]).to(weight.dtype), summand.to(weight.dtype)


class _ConvTransposeNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        call: tuple[str, str, ConvArgs, NormArgs, tuple[Any, ...]],
    ) -> tuple[Tensor, Tensor, Tensor]:
        op, backend, *_, args = call
        launch = getattr(library.implementation(FAMILY, backend), op)
        out, y, mean, invstd, var = launch(input, weight, bias, norm_weight, norm_bias, *args)
        ctx.save_for_backward(input, weight, bias, y, norm_weight, norm_bias, mean, invstd)
        ctx.mark_non_differentiable(mean, var)
        ctx.call = call
        return out, mean, var

    @staticmethod
    def backward(ctx: Any, g: Tensor, *others: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, bias, y, norm_weight, norm_bias, mean, invstd = ctx.saved_tensors
        _, backend, conv, norm, args = ctx.call
        needed = ctx.needs_input_grad[:5]
        if differentiable((), g):

            def formula(x: Any, w: Any, b: Any, *params: Any) -> tuple[Tensor]:
                convolved = reference.conv_transpose(x, w, b, *conv)
                return (norm_reference.batch_norm_act(convolved, None, None, *params, *norm),)

            return *differentiate(formula, (input, weight, bias, norm_weight, norm_bias), needed, (g,)), None
        op = library.implementation(norm_act.FAMILY, backend).batch_norm_act_bwd
        saved = (input, weight, y, norm_weight, norm_bias, mean, invstd)
        return *norm_backward(op, g, saved, args, needed), None
