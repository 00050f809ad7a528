"""Transposed convolution as autograd ops: the choice of algorithm and the derivatives in eager."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from pyaegpu import backends
from pyaegpu.ops import conv_transpose_rules as rules
from pyaegpu.ops import library
from pyaegpu.ops.conv_transpose_graph import FAMILY, stock_backward
from pyaegpu.ops.conv_transpose_rules import PASS, SMALL, STOCK, ConvArgs, Plan
from pyaegpu.ops.eager import differentiable, differentiate
from pyaegpu.reference import conv_transpose as reference
from pyaegpu.reference.activations import NONE, gradient

# The transposed convolution that equals nearest upsampling by 2 and a 3x3 convolution after it.
FOLDED = ConvArgs((2, 2), (1, 1), (0, 0), 1, (1, 1), NONE, 0.0)


def conv_transpose(input: Tensor, weight: Tensor, bias: Tensor | None, args: ConvArgs) -> Tensor:
    """Transposed convolution of a batch, then the activation; a negative slope is not among its arguments."""
    if torch._C._are_functorch_transforms_active():
        return reference.conv_transpose(input, weight, bias, *args)
    chosen = rules.plan(input, weight, bias, args)
    if chosen.algorithm in (STOCK, PASS):
        # Of parameters without data stock would read what is not there.
        if not input.is_meta and (weight.is_meta or (bias is not None and bias.is_meta)):
            raise RuntimeError("weight and bias must be on the device of input")
        # Inductor fuses by itself what follows a stock convolution.
        if chosen.algorithm == STOCK or rules.is_traced():
            return reference.conv_transpose(input, weight, bias, *args)
        return _stock_with_pass(input, weight, bias, args, library.implementation(FAMILY, chosen.backend))
    if rules.is_traced():
        op = getattr(torch.ops.pyaegpu, f"conv_transpose2d_{chosen.algorithm}_fwd")
        return op(input, weight, bias, *_op_args(args, chosen))
    return _ConvTranspose.apply(input, weight, bias, (library.implementation(FAMILY, chosen.backend), args, chosen))


def upsample_conv2d(input: Tensor, weight: Tensor, bias: Tensor | None, args: ConvArgs) -> Tensor:
    """Nearest upsampling by 2, a 3x3 convolution with padding 1, then the activation, of a batch; ``args`` are FOLDED
    with the activation."""
    if torch._C._are_functorch_transforms_active() or not rules.folds(input, weight):
        return reference.upsample_conv2d(input, weight, bias, args.activation, args.slope)
    return conv_transpose(input, reference.folded_weight(weight), bias, args)


def explain(op: str, input: Tensor, weight: Tensor, bias: Tensor | None, args: ConvArgs) -> backends.Explanation:
    """The backend and algorithm of a call, and why each other backend does not serve it."""
    chosen = rules.plan(input, weight, bias, args)
    if chosen.algorithm == STOCK and backends.selected() == "auto":
        others = _not_stock(input)
        chosen = chosen._replace(backend="reference")
    else:
        others = backends.refusals(FAMILY, input.device, chosen.backend)
    for name in others.keys() & {"cpu", "cuda", "triton"}:
        missing = rules.reason_for_stock(name, input, weight, bias, args)
        if missing is not None:
            others[name] += f"; stock PyTorch's kernels would convolve there too: {missing}"
    algorithm = rules.DESCRIPTIONS[chosen.algorithm]
    if chosen.algorithm == STOCK and args.activation == NONE:
        algorithm = "stock convolution"
    return backends.Explanation(op, chosen.backend, algorithm, others)


def explain_upsample(
    op: str, input: Tensor, weight: Tensor, bias: Tensor | None, args: ConvArgs
) -> backends.Explanation:
    """As :func:`explain`, of ``upsample_conv2d``."""
    if not rules.folds(input, weight):
        algorithm = "stock upsampling, then a stock convolution"
        return backends.Explanation(op, "reference", algorithm, _not_stock(input))
    outputs, inputs = weight.shape[:2]
    found = explain(op, input, weight.new_empty(inputs, outputs, 4, 4), bias, args)
    return dataclasses.replace(found, algorithm=f"as a transposed convolution: {found.algorithm}")


def _not_stock(input: Tensor) -> dict[str, str]:
    """Why no other backend is taken where stock PyTorch serves a call."""
    others = backends.refusals(FAMILY, input.device, "reference")
    if backends.choose(FAMILY, input.device) == "cpu":
        others["cpu"] = "stock PyTorch is as fast, by what was measured on a CPU"
    return others


def _op_args(args: ConvArgs, chosen: Plan) -> tuple[Any, ...]:
    return *args[:3], args.activation, args.slope, chosen.tf32, chosen.channels_last


def _stock_with_pass(input: Tensor, weight: Tensor, bias: Tensor | None, args: ConvArgs, impl: Any) -> Tensor:
    # oneDNN adds the bias in its kernel; on a GPU it would be a pass of its own.
    inside = None if input.is_cuda else bias
    y = reference.conv_transpose(input, weight, inside, *args._replace(activation=NONE))
    if y.numel() == 0:
        return reference.conv_transpose(input, weight, bias, *args)
    return _BiasAct.apply(y, bias if inside is None else None, (impl, args.activation, args.slope))


class _ConvTranspose(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, call: tuple[Any, ConvArgs, Plan]
    ) -> Tensor:
        impl, args, chosen = call
        out = getattr(impl, f"conv_transpose2d_{chosen.algorithm}_fwd")(input, weight, bias, *_op_args(args, chosen))
        ctx.save_for_backward(input, weight, bias, None if args.activation == NONE else out)
        ctx.call = call
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, bias, out = ctx.saved_tensors
        impl, args, chosen = ctx.call
        needed = ctx.needs_input_grad[:3]
        if differentiable((), g):

            def formula(*inputs: Any) -> tuple[Tensor]:
                return (reference.conv_transpose(*inputs, *args),)

            return *differentiate(formula, (input, weight, bias), needed, (g,)), None
        if chosen.algorithm == SMALL:
            stride, padding, _, *rest = _op_args(args, chosen)
            grads = impl.conv_transpose2d_small_bwd(g, input, weight, out, stride, padding, *rest, *needed)
            return *(d if need else None for d, need in zip(grads, needed, strict=True)), None
        d_bias = None
        if out is not None:
            g, d_bias = impl.bias_act_bwd(g, out, needed[2], args.activation, args.slope)
        elif needed[2]:
            d_bias = g.sum((0, 2, 3))
        grads = stock_backward(g, input, weight, args.stride, args.padding, args.output_padding, needed[:2])
        return *grads, d_bias if needed[2] else None, None


class _BiasAct(torch.autograd.Function):
    """Bias and activation in place on the result of a convolution, which does not save it."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, bias: Tensor | None, call: tuple[Any, int, float]) -> Tensor:
        impl, activation, slope = call
        impl.bias_act_(y, bias, activation, slope)
        ctx.mark_dirty(y)
        ctx.save_for_backward(y)
        ctx.call = call
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (out,) = ctx.saved_tensors
        impl, activation, slope = ctx.call
        need_bias = ctx.needs_input_grad[1]
        if not differentiable((), g):
            d_y, d_bias = impl.bias_act_bwd(g, out, need_bias, activation, slope)
            return d_y, d_bias if need_bias else None, None
        d_y = gradient(g, out, activation, slope)
        return d_y, d_y.sum((0, *range(2, d_y.dim()))) if need_bias else None, None
