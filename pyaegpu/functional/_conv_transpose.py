"""Arguments of the transposed convolutions, as the ops take them, and what is wrong with those that fail."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyaegpu import _checks
from pyaegpu.functional._numbers import Numbers, is_key, one_for_each
from pyaegpu.ops.conv_transpose_graph import output_sizes
from pyaegpu.ops.conv_transpose_rules import ConvArgs
from pyaegpu.reference.activations import NONE

ACTIVATIONS = (None, "relu", "leaky_relu", "tanh", "sigmoid")


class Activation(NamedTuple):
    """An activation's number and the slope of leaky_relu."""

    activation: int
    slope: float


_NO_ACTIVATION = Activation(NONE, 0.0)


def activation_of(activation: str | None, negative_slope: float) -> Activation:
    """The activation of a call."""
    if activation is None:
        return _NO_ACTIVATION
    return Activation(
        _checks.choice("activation", activation, ACTIVATIONS), _checks.number("negative_slope", negative_slope)
    )


def arguments(
    dims: int, numbers: tuple[Numbers, Numbers, Numbers, int, Numbers], activation: Activation
) -> ConvArgs | None:
    """The numbers of a call, or None where stock PyTorch has to say what is wrong with them."""
    if not torch.compiler.is_compiling() and all(map(is_key, numbers)):
        return _cached_arguments(dims, numbers, activation)
    return _arguments(dims, numbers, activation)


def _arguments(
    dims: int, numbers: tuple[Numbers, Numbers, Numbers, int, Numbers], activation: Activation
) -> ConvArgs | None:
    stride, padding, output_padding, groups, dilation = numbers
    strides, paddings, extras, dilations = (
        one_for_each(each, dims) for each in (stride, padding, output_padding, dilation)
    )
    if strides is None or paddings is None or extras is None or dilations is None:
        return None
    if isinstance(groups, bool) or not isinstance(groups, (int, torch.SymInt)):
        return None
    return ConvArgs(strides, paddings, extras, groups, dilations, *activation)  # type: ignore[arg-type]


@functools.lru_cache(maxsize=1024)
def _cached_arguments(dims: int, numbers: Any, activation: Activation) -> ConvArgs | None:
    return _arguments(dims, numbers, activation)


def tensors(input: object, weight: object, bias: object) -> tuple[Tensor, Tensor, Tensor | None]:
    """The tensors of a call, cast as autocast casts those of a convolution.

    Raises:
        TypeError: for what is no tensor.
    """
    for name, value in (("input", input), ("weight", weight), ("bias", bias)):
        if not isinstance(value, Tensor) and (value is not None or name != "bias"):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if not _checks.autocasts(input):  # type: ignore[arg-type]
        return input, weight, bias  # type: ignore[return-value]
    dtype = torch.get_autocast_dtype(input.device.type)  # type: ignore[attr-defined]
    return tuple(_cast(t, dtype) for t in (input, weight, bias))  # type: ignore[return-value,arg-type]


def _cast(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if tensor is None or not tensor.is_floating_point() or tensor.dtype == torch.float64:
        return tensor
    return tensor.to(dtype)


def explain_failure(dims: int, input: Tensor, weight: Tensor, bias: Tensor | None, args: ConvArgs) -> None:
    """Raise an error that names the argument where stock PyTorch's does not.

    Raises:
        RuntimeError: for arguments that do not fit together; nothing is raised where they do.
    """
    one_type(input, weight, bias)
    for name, numbers, least in (("stride", args.stride, 1), ("dilation", args.dilation, 1)):
        if min(numbers) < least:
            raise RuntimeError(f"{name} must be at least {least}, got {numbers}")
    if weight.dim() != dims + 2:
        raise RuntimeError(
            f"weight must have {dims + 2} dimensions, [Cin, Cout / groups, and {dims} of the kernel]; "
            f"got shape {tuple(weight.shape)}"
        )
    if 0 in weight.shape:
        raise RuntimeError(f"weight must not be empty, got shape {tuple(weight.shape)}")
    if input.dim() not in (dims + 1, dims + 2):
        return
    sizes = output_sizes(input.shape[-dims:], weight.shape[2:], *args[:3], args.dilation)
    if min(sizes) < 1:
        raise RuntimeError(
            f"input of size {tuple(input.shape[-dims:])} is too small: with padding {args.padding} the output would "
            f"have size {tuple(sizes)}"
        )


def one_type(input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raise RuntimeError unless weight and bias have input's dtype and device."""
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is None:
            continue
        _checks.same_device(name, tensor, "input", input)
        if tensor.dtype != input.dtype:
            raise RuntimeError(f"{name} must have the dtype of input, {input.dtype}; got {tensor.dtype}")


def explain_upsampling_failure(input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raise an error that names the argument of ``upsample_conv2d`` that does not fit."""
    one_type(input, weight, bias)
    if input.dim() not in (3, 4):
        raise RuntimeError(f"input must be [N, Cin, H, W] or [Cin, H, W], got shape {tuple(input.shape)}")
    if weight.dim() != 4 or tuple(weight.shape[2:]) != (3, 3) or weight.shape[1] != input.shape[-3]:
        raise RuntimeError(
            f"weight must be [Cout, Cin, 3, 3] with the {input.shape[-3]} channels of input; got {tuple(weight.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise RuntimeError(f"bias must have shape ({weight.shape[0]},), got {tuple(bias.shape)}")
