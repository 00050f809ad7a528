"""A transposed convolution's reconstruction loss as autograd ops: the choice of algorithm and the derivatives in eager.

What is not served here is left to the composition of the two families, by the public function.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyaegpu import backends
from pyaegpu.ops import conv_transpose_rules as rules
from pyaegpu.ops import library
from pyaegpu.ops.conv_transpose_graph import FAMILY as CONVOLUTION
from pyaegpu.ops.conv_transpose_graph import stock_backward
from pyaegpu.ops.conv_transpose_loss_graph import FAMILY, scaled
from pyaegpu.ops.conv_transpose_rules import MATMUL, PASS, PHASES, SMALL, STOCK, ConvArgs, Plan
from pyaegpu.ops.eager import differentiable, differentiate
from pyaegpu.reference import conv_transpose as reference
from pyaegpu.reference import vae_loss as reference_loss
from pyaegpu.reference.activations import NONE
from pyaegpu.reference.vae_loss import TOTAL

# Elements of the result from which on, after a stock convolution on a CPU, one pass is faster than stock's functions.
_LEAST = 2**18
_STOCK = Plan("reference", STOCK)


class LossArgs(NamedTuple):
    """The numbers of the loss, in the order of the ops' schemas."""

    kind: int
    factor: float


def plan(input: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, args: ConvArgs) -> Plan | None:
    """How a batch is convolved where an op of this family takes the loss, or None for the composition; ``target`` has
    the shape of the result."""
    if torch._C._are_functorch_transforms_active() or target.requires_grad or target.numel() == 0:
        return None
    if input.dtype == torch.float16:  # the stored gradient would underflow before a loss scaler's factor reaches it
        return None
    call = rules.call_of("conv_transpose2d_loss", input, weight.shape[1] * args.groups)
    if backends.selected() == "cuda" or backends.choose(FAMILY, input.device, call) == "reference":
        return None
    chosen = rules.plan(input, weight, bias, args)
    if chosen.algorithm == SMALL:
        return chosen
    if rules.is_traced():
        return None
    few = input.device.type == "cpu" and backends.selected() == "auto" and target.numel() < _LEAST
    return _STOCK if few else chosen


def conv_transpose_loss(
    input: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, args: ConvArgs, loss: LossArgs, chosen: Plan
) -> Tensor:
    """The summed loss of a batch times the factor, in the accumulator's dtype, as ``plan`` chose."""
    if chosen == _STOCK:
        return _formula(input, weight, bias, target, args, loss)
    # torch.jit.trace checks what it traced without gradients.
    need_grad = torch.is_grad_enabled() or torch.jit.is_tracing()
    need_grad = need_grad and any(t is not None and t.requires_grad for t in (input, weight, bias))
    if rules.is_traced():
        # A factor of 1: see split_factor in eager.py.
        numbers = (*args[:3], args.activation, args.slope, loss.kind, 1.0, need_grad, *chosen[2:])
        value, _ = torch.ops.pyaegpu.conv_transpose2d_small_loss_fwd(input, weight, bias, target, *numbers)
        return value * loss.factor
    return _ConvTransposeLoss.apply(input, weight, bias, target, (args, loss, chosen, need_grad))


class _ConvTransposeLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        call: tuple[ConvArgs, LossArgs, Plan, bool],
    ) -> Tensor:
        args, loss, chosen, need_grad = call
        impl = library.implementation(FAMILY, chosen.backend)
        numbers = (args.activation, args.slope, *loss, need_grad)
        if chosen.algorithm == SMALL:
            value, d_logits = impl.conv_transpose2d_small_loss_fwd(
                input, weight, bias, target, *args[:3], *numbers, chosen.tf32, chosen.channels_last
            )
        else:
            logits = _logits(input, weight, bias, args, chosen)
            value, d_logits = impl.activation_loss_fwd(logits, target, *numbers)
        # Bias and target are for second derivatives.
        ctx.save_for_backward(input, weight, bias, target, d_logits if need_grad else None)
        ctx.call = call
        return value

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, bias, target, d_logits = ctx.saved_tensors
        args, loss, chosen, _ = ctx.call
        needed = ctx.needs_input_grad[:3]
        if differentiable((), g):

            def formula(input: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor]:
                return (_formula(input, weight, bias, target, args, loss),)

            return *differentiate(formula, (input, weight, bias), needed, (g,)), None, None

        def backward(weight: Tensor) -> Sequence[Tensor | None]:
            return _gradients(d_logits, input, weight, args, chosen, needed)

        return *scaled(backward, g, weight, needed), None, None


def _formula(
    input: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, args: ConvArgs, loss: LossArgs
) -> Tensor:
    recon = reference.conv_transpose(input, weight, bias, *args)
    return reference_loss.reconstruction_loss(recon, target, None, loss.kind, 1.0, TOTAL, loss.factor)


def _logits(input: Tensor, weight: Tensor, bias: Tensor | None, args: ConvArgs, chosen: Plan) -> Tensor:
    if chosen.algorithm in (STOCK, PASS):
        return reference.conv_transpose(input, weight, bias, *args._replace(activation=NONE))
    convolve = getattr(library.implementation(CONVOLUTION, chosen.backend), f"conv_transpose2d_{chosen.algorithm}_fwd")
    return convolve(input, weight, bias, *args[:3], NONE, 0.0, *chosen[2:])


def _gradients(
    g: Tensor, input: Tensor, weight: Tensor, args: ConvArgs, chosen: Plan, needed: Sequence[bool]
) -> Sequence[Tensor | None]:
    """Of the convolution alone."""
    if chosen.algorithm == SMALL:
        backward = library.implementation(CONVOLUTION, chosen.backend).conv_transpose2d_small_bwd
        return backward(g, input, weight, None, *args[:2], NONE, 0.0, *chosen[2:], *needed)
    grads = stock_backward(g, input, weight, *args[:3], needed[:2], args.dilation, args.groups)
    return *grads, g.sum((0, 2, 3)) if needed[2] else None


_CONVOLUTIONS = {
    STOCK: "stock convolution",
    PASS: "stock convolution",
    MATMUL: "one matrix product with a pixel-shuffle store",
    PHASES: "an implicit matrix product for each phase of the stride",
}
_EPILOGUE = "one product per tile of pixels, whose epilogue takes the loss and the gradient at the logits"
_PASS = "then in one pass activation, loss and the gradient at the logits"
_BACKWARD = "; the upstream gradient is applied to the weight"


def explain(op: str, device: torch.device, chosen: Plan | None) -> backends.Explanation:
    """What serves a call for which ``plan`` gave ``chosen``, and why each other backend does not."""
    backend = "reference" if chosen is None else chosen.backend
    others = backends.refusals(FAMILY, device, backend)
    if chosen is None:
        algorithm = "conv_transpose2d, then reconstruction_loss: explain tells what serves each"
    elif chosen == _STOCK:
        algorithm = "stock convolution, activation and loss"
        others["cpu"] = "stock PyTorch is as fast, by what was measured on a CPU"
    else:
        convolution = _CONVOLUTIONS.get(chosen.algorithm)
        algorithm = (_EPILOGUE if convolution is None else f"{convolution}, {_PASS}") + _BACKWARD
    return backends.Explanation(op, backend, algorithm, others)
