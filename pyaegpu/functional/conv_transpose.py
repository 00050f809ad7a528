"""Transposed convolution with its activation, and nearest upsampling with the convolution after it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyaegpu import backends
from pyaegpu.functional._conv_transpose import (
    Numbers,
    activation_of,
    arguments,
    explain_failure,
    explain_upsampling_failure,
    tensors,
)
from pyaegpu.ops import conv_transpose as ops
from pyaegpu.ops.conv_transpose_rules import ConvArgs
from pyaegpu.reference.activations import LEAKY_RELU, NONE, activate

_STOCK = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: Numbers = 0,
    output_padding: Numbers = 0,
    groups: int = 1,
    dilation: Numbers = 1,
    *,
    activation: str | None = None,
    negative_slope: float = 0.01,
) -> Tensor:
    """Transposed convolution of sequences, then an activation: :func:`conv_transpose2d` with one dimension.

    ``input`` is [N, Cin, L] or [Cin, L], ``weight`` [Cin, Cout / groups, K]. Stock PyTorch's kernels convolve; the
    activation, on a GPU with the bias, is a pass of ours where that is faster.
    """
    args = (stride, padding, output_padding, groups, dilation)
    return _conv_transpose(1, input, weight, bias, args, activation, negative_slope)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: Numbers = 0,
    output_padding: Numbers = 0,
    groups: int = 1,
    dilation: Numbers = 1,
    *,
    activation: str | None = None,
    negative_slope: float = 0.01,
) -> Tensor:
    r"""Transposed convolution of images, then an activation, with the values of
    :func:`torch.nn.functional.conv_transpose2d` and that activation.

    .. math:: out[n, o, y, x] = f\Big(b[o] + \sum_{c, i, j} input[n, c, (y + p - i d) / s, (x + p - j d) / s]
        \cdot weight[c, o, i, j]\Big)

    over the taps :math:`(i, j)` for which the quotients are whole (Dumoulin & Visin 2016, chapter 4). Sums are kept in
    float32 at least, and float32 products may use TF32 where ``torch.backends.cudnn.conv`` allows it.

    Args:
        input: [N, Cin, H, W] or [Cin, H, W]; float32, float64, float16 or bfloat16.
        weight: [Cin, Cout / groups, KH, KW], of the dtype of ``input`` (under autocast, of any).
        bias: [Cout] or None.
        stride: distance of the input's pixels in the output; one number, or one for each dimension, as all that follow.
        padding: rows and columns cut off each side of the output.
        output_padding: rows and columns added to the bottom and the right, less than stride or dilation.
        groups: number of independent parts of the channels.
        dilation: distance of the kernel's taps in the output.
        activation: ``None``, ``"relu"``, ``"leaky_relu"``, ``"tanh"`` or ``"sigmoid"``.
        negative_slope: slope of leaky_relu below 0.

    Returns:
        [N, Cout, (H - 1) * stride - 2 * padding + dilation * (KH - 1) + output_padding + 1, and W likewise], of stock
        PyTorch's dtype and memory format.

    Raises:
        TypeError: for arguments of another type.
        ValueError: for an unknown ``activation``.
        RuntimeError: for shapes that do not fit, an ``output_padding`` not below stride or dilation, different dtypes
            outside autocast, different devices.
    """
    args = (stride, padding, output_padding, groups, dilation)
    return _conv_transpose(2, input, weight, bias, args, activation, negative_slope)


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: Numbers = 0,
    output_padding: Numbers = 0,
    groups: int = 1,
    dilation: Numbers = 1,
    *,
    activation: str | None = None,
    negative_slope: float = 0.01,
) -> Tensor:
    """Transposed convolution of volumes, then an activation: :func:`conv_transpose2d` with three dimensions.

    ``input`` is [N, Cin, D, H, W] or [Cin, D, H, W], ``weight`` [Cin, Cout / groups, KD, KH, KW]. Stock PyTorch's
    kernels convolve; the activation, on a GPU with the bias, is a pass of ours where that is faster.
    """
    args = (stride, padding, output_padding, groups, dilation)
    return _conv_transpose(3, input, weight, bias, args, activation, negative_slope)


def upsample_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    scale: int = 2,
    activation: str | None = None,
    negative_slope: float = 0.01,
) -> Tensor:
    r"""Nearest upsampling by 2, a 3x3 convolution with padding 1, then an activation, as one transposed convolution.

    .. math:: out = f(\mathrm{conv2d}(\mathrm{upsample}(input), weight, bias, padding=1))

    equals the transposed convolution of stride 2 and padding 1 with the 4x4 kernel whose rows, and then columns, are
    :math:`(w_2, w_1 + w_2, w_0 + w_1, w_0)`: 16 products for each output in place of 36 (Odena et al. 2016 for the
    layer; the identity follows by collecting the taps that fall on the same input). The sums of weights are rounded to
    their dtype.

    Args:
        input: [N, Cin, H, W] or [Cin, H, W]; float32, float64, float16 or bfloat16.
        weight: [Cout, Cin, 3, 3], as of ``torch.nn.Conv2d``.
        bias: [Cout] or None.
        scale: 2.
        activation: ``None``, ``"relu"``, ``"leaky_relu"``, ``"tanh"`` or ``"sigmoid"``.
        negative_slope: slope of leaky_relu below 0.

    Returns:
        [N, Cout, 2 H, 2 W], of stock PyTorch's dtype and memory format.

    Raises:
        TypeError: for arguments of another type.
        ValueError: for another ``scale`` or an unknown ``activation``.
        RuntimeError: for shapes that do not fit, different dtypes outside autocast, different devices.
    """
    if scale != 2:
        raise ValueError(f"scale must be 2, got {scale!r}")
    given = tensors(input, weight, bias)
    explain_upsampling_failure(*given)
    args = ops.FOLDED._replace(**activation_of(activation, negative_slope)._asdict())
    return _run(ops.upsample_conv2d, *given, args)


def explain(op: str, *args: Any, **kwargs: Any) -> backends.Explanation:
    """What serves the call of ``op`` with these arguments, which is not made."""
    bound = inspect.signature(globals()[op]).bind(*args, **kwargs)
    bound.apply_defaults()
    named = bound.arguments
    input, weight, bias = tensors(named["input"], named["weight"], named["bias"])
    act = activation_of(named["activation"], named["negative_slope"])
    if op == "upsample_conv2d":
        explain_upsampling_failure(input, weight, bias)
        return ops.explain_upsample(op, _batch(2, input), weight, bias, ops.FOLDED._replace(**act._asdict()))
    dims = int(op[-2])
    numbers = tuple(named[each] for each in ("stride", "padding", "output_padding", "groups", "dilation"))
    conv_args = arguments(dims, numbers, act)  # type: ignore[arg-type]
    if conv_args is None:
        raise TypeError(f"stride, padding, output_padding, groups and dilation must be integers, got {numbers}")
    explain_failure(dims, input, weight, bias, conv_args)
    if _is_apart(conv_args):
        conv_args = conv_args._replace(activation=NONE)
    return ops.explain(op, _batch(dims, input), weight, bias, conv_args)


def _conv_transpose(
    dims: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    numbers: tuple[Numbers, Numbers, Numbers, int, Numbers],
    activation: str | None,
    negative_slope: float,
) -> Tensor:
    act = activation_of(activation, negative_slope)
    input, weight, bias = tensors(input, weight, bias)
    args = arguments(dims, numbers, act)
    if args is None:  # an error of stock PyTorch's, or numbers of a kind that only it knows
        return activate(_STOCK[dims - 1](input, weight, bias, *numbers), *act)  # type: ignore[arg-type]
    if torch.compiler.is_compiling():
        return _run(ops.conv_transpose, input, weight, bias, args)
    try:
        return _run(ops.conv_transpose, input, weight, bias, args)
    except RuntimeError:
        explain_failure(dims, input, weight, bias, args)
        raise


def _run(op: Callable[..., Tensor], input: Tensor, weight: Tensor, bias: Tensor | None, args: ConvArgs) -> Tensor:
    """``op`` on a batch, with the activation where its derivative can be told from the output."""
    dims = len(args.stride)
    if _is_apart(args):
        linear = _run(op, input, weight, bias, args._replace(activation=NONE))
        return activate(linear, LEAKY_RELU, args.slope)
    if input.dim() == dims + 1:
        return op(input.unsqueeze(0), weight, bias, args).squeeze(0)
    return op(input, weight, bias, args)


def _is_apart(args: ConvArgs) -> bool:
    """Whether the activation is applied by stock PyTorch: of a falling slope the output's sign does not tell that of
    the input."""
    return args.activation == LEAKY_RELU and not args.slope >= 0


def _batch(dims: int, input: Tensor) -> Tensor:
    return input.unsqueeze(0) if input.dim() == dims + 1 else input
