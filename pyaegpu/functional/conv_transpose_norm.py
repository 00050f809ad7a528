"""Transposed convolution with batch normalisation and its activation."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyaegpu import backends
from pyaegpu.functional._conv_transpose import Activation, Numbers, arguments, explain_failure, tensors
from pyaegpu.functional._norm_act import check_parameters, norm_arguments
from pyaegpu.ops import conv_transpose_norm as ops
from pyaegpu.ops import norm_act
from pyaegpu.ops.conv_transpose_norm import Operands
from pyaegpu.ops.conv_transpose_rules import ConvArgs
from pyaegpu.ops.norm_act import NormArgs, Running
from pyaegpu.reference.activations import NONE


def conv_transpose2d_norm_act(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: Numbers = 0,
    output_padding: Numbers = 0,
    groups: int = 1,
    dilation: Numbers = 1,
    *,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str | None = "relu",
    negative_slope: float = 0.01,
) -> Tensor:
    r"""Transposed convolution of images, batch normalisation of its result, then an activation.

    .. math:: out = f\big(\mathrm{batch\_norm}(\mathrm{conv\_transpose2d}(input, weight, bias))\big)

    as :func:`conv_transpose2d` and :func:`batch_norm_act` define them. In training, where our kernels normalise, one
    tensor of the result's size is saved for the backward, the convolution's result; where Triton's kernels convolve,
    the batch's statistics come from the convolution itself. Without gradients and by running statistics, the
    normalisation is folded into the weight (Jacob et al. 2018, section 3.2), but in float16, whose range a folded
    weight might leave.

    Args:
        input: [N, Cin, H, W]; float32, float64, float16 or bfloat16.
        weight: [Cin, Cout / groups, KH, KW], of the dtype of ``input`` (under autocast, of any).
        bias: [Cout] or None.
        stride: as of :func:`conv_transpose2d`, like the four that follow.
        padding: rows and columns cut off each side of the convolution's result.
        output_padding: rows and columns added to its bottom and right.
        groups: number of independent parts of the channels.
        dilation: distance of the kernel's taps in the result.
        running_mean: [Cout], or None in training.
        running_var: likewise; both or neither.
        norm_weight: [Cout] or None; weight of the normalisation.
        norm_bias: [Cout] or None; its bias.
        training: whether to normalise by the batch's statistics, and to move the running ones towards them.
        momentum: share of the batch in the running statistics.
        eps: added to the variance.
        activation: ``None``, ``"relu"``, ``"leaky_relu"``, ``"tanh"`` or ``"sigmoid"``.
        negative_slope: slope of leaky_relu below 0.

    Returns:
        [N, Cout, OH, OW] of the sizes of :func:`conv_transpose2d`, in stock PyTorch's dtype and memory format.

    Raises:
        TypeError: for arguments of another type.
        ValueError: for an unknown ``activation`` or an ``input`` of other than four dimensions; in training, for one
            value per channel, an ``eps`` that is not positive, or one of the running statistics without the other.
        RuntimeError: for shapes, dtypes or devices that do not fit, or no running statistics outside training.
    """
    numbers = (stride, padding, output_padding, groups, dilation)
    norm = norm_arguments(training, momentum, eps, activation, negative_slope)
    running = Running(running_mean, running_var)
    operands, conv = _call(input, weight, bias, numbers, running, norm_weight, norm_bias, norm)
    if conv is None:  # an error of stock PyTorch's, or numbers of a kind that only it knows
        y = F.conv_transpose2d(*operands[:3], *numbers)  # type: ignore[arg-type]
        return norm_act.batch_norm_act(y, running, norm_weight, norm_bias, norm)
    if torch.compiler.is_compiling():
        return ops.conv_transpose_norm_act(operands, running, conv, norm)
    try:
        return ops.conv_transpose_norm_act(operands, running, conv, norm)
    except RuntimeError:
        explain_failure(2, *operands[:3], conv)
        raise


def explain(op: str, *args: Any, **kwargs: Any) -> backends.Explanation:
    """What serves the call of ``conv_transpose2d_norm_act`` with these arguments, which is not made."""
    bound = inspect.signature(conv_transpose2d_norm_act).bind(*args, **kwargs)
    bound.apply_defaults()
    named = bound.arguments
    numbers = tuple(named[each] for each in ("stride", "padding", "output_padding", "groups", "dilation"))
    keys = ("training", "momentum", "eps", "activation", "negative_slope")
    norm = norm_arguments(*(named[key] for key in keys))
    running = Running(named["running_mean"], named["running_var"])
    params = named["norm_weight"], named["norm_bias"]
    operands, conv = _call(named["input"], named["weight"], named["bias"], numbers, running, *params, norm)  # type: ignore[arg-type]
    if conv is None:
        raise TypeError(f"stride, padding, output_padding, groups and dilation must be integers, got {numbers}")
    explain_failure(2, *operands[:3], conv)
    return ops.explain(op, operands, running, conv, norm)


def _call(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    numbers: tuple[Numbers, Numbers, Numbers, int, Numbers],
    running: Running,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    norm: NormArgs,
) -> tuple[Operands, ConvArgs | None]:
    """The checked arguments of a call; no ConvArgs where stock PyTorch has to say what is wrong with them."""
    given = tensors(input, weight, bias)
    if input.dim() != 4:
        raise ValueError(f"input must be [N, Cin, H, W], got shape {tuple(input.shape)}")
    conv = arguments(2, numbers, Activation(NONE, 0.0))
    if conv is not None and weight.dim() == 4 and conv.groups > 0:
        channels = weight.shape[1] * conv.groups
        check_parameters(channels, norm, running, norm_weight=norm_weight, norm_bias=norm_bias)
    return Operands(*given, norm_weight, norm_bias), conv
