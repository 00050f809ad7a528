"""Arguments of batch normalisation, as the ops take them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pyaegpu import _checks
from pyaegpu.functional._conv_transpose import activation_of
from pyaegpu.ops.norm_act import NormArgs, Running


def norm_arguments(
    training: bool, momentum: float, eps: float, activation: str | None, negative_slope: float
) -> NormArgs:
    """The numbers of a call.

    Raises:
        TypeError: for arguments of another type.
        ValueError: for an unknown activation, or an eps in training that is not positive.
    """
    act = activation_of(activation, negative_slope)
    if not isinstance(training, bool):
        raise TypeError(f"training must be a bool, got {type(training).__name__}")
    numbers = _checks.number("momentum", momentum), _checks.number("eps", eps)
    if training and not eps > 0:
        raise ValueError(f"eps must be positive during training, got {eps}")
    return NormArgs(training, *numbers, *act)


def check_parameters(channels: int, args: NormArgs, running: Running, **params: Any) -> None:
    """Each of ``params`` and of the running statistics is None or has one value for each channel.

    Raises:
        TypeError: for what is neither a tensor nor None.
        ValueError: for one of the running statistics without the other.
        RuntimeError: for another size, or an evaluation without running statistics.
    """
    named = {"running_mean": running.mean, "running_var": running.var}
    for name, tensor in {**named, **params}.items():
        if tensor is not None:
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{name} must be a torch.Tensor or None, got {type(tensor).__name__}")
            if tensor.numel() != channels:
                raise RuntimeError(f"{name} must have one value for each of {channels} channels, got {tensor.numel()}")
    for name, tensor in named.items():
        if tensor is None and not args.training:
            raise RuntimeError(f"{name} must be given when training is False")
    if (running.mean is None) != (running.var is None):
        raise ValueError("running_mean and running_var must be both given or both None")
