"""Batch normalisation with its activation."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

from pyaegpu import backends
from pyaegpu.functional._norm_act import check_parameters, norm_arguments
from pyaegpu.ops import norm_act as ops
from pyaegpu.ops.norm_act import Running


def batch_norm_act(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    negative_slope: float = 0.01,
) -> Tensor:
    r"""Batch normalisation, then an activation, with the values of :func:`torch.nn.functional.batch_norm` and that
    activation.

    .. math:: out = f\Big(\frac{x - \mu_c}{\sqrt{\sigma_c^2 + eps}} \cdot weight_c + bias_c\Big)

    where, in training, :math:`\mu_c` and :math:`\sigma_c^2` are the mean and the biased variance of a channel over the
    batch and all places (Ioffe & Szegedy 2015), merged from those of tiles (Chan et al. 1979), and the running
    statistics move towards the mean and the unbiased variance: :math:`(1 - momentum)\, old + momentum\, new`, in place.
    Otherwise they are the running statistics. Statistics and sums are kept in float32 at least. Where our
    kernels serve, ``input`` is the one tensor of its size that is saved for the backward.

    Args:
        input: [N, C] or [N, C, *spatial] of one to three dimensions; float32, float64, float16 or bfloat16.
        running_mean: [C], or None in training.
        running_var: likewise; both or neither.
        weight: [C] or None for ones; the parameters and the running statistics have the dtype of ``input``, or are all
            float32 beside a float16 or bfloat16 ``input``.
        bias: [C] or None for zeros.
        training: whether to normalise by the batch's statistics.
        momentum: share of the batch in the running statistics.
        eps: added to the variance.
        activation: ``None``, ``"relu"``, ``"leaky_relu"``, ``"tanh"`` or ``"sigmoid"``.
        negative_slope: slope of leaky_relu below 0.

    Returns:
        A tensor of ``input``'s shape and dtype, in stock PyTorch's memory format.

    Raises:
        TypeError: for arguments of another type.
        ValueError: for an unknown ``activation``; in training, for one value per channel, an ``eps`` that is not
            positive, or one of the running statistics without the other.
        IndexError: for an ``input`` of fewer than two dimensions.
        RuntimeError: for parameters of another size, dtype or device, or no running statistics outside training.
    """
    running = Running(running_mean, running_var)
    args = norm_arguments(training, momentum, eps, activation, negative_slope)
    _check_input(input)
    check_parameters(input.shape[1], args, running, weight=weight, bias=bias)
    return ops.batch_norm_act(input, running, weight, bias, args)


def explain(op: str, *args: Any, **kwargs: Any) -> backends.Explanation:
    """What serves the call of ``batch_norm_act`` with these arguments, which is not made."""
    bound = inspect.signature(batch_norm_act).bind(*args, **kwargs)
    bound.apply_defaults()
    named = bound.arguments
    input, running = named["input"], Running(named["running_mean"], named["running_var"])
    keys = ("training", "momentum", "eps", "activation", "negative_slope")
    norm = norm_arguments(*(named[key] for key in keys))
    _check_input(input)
    params = {name: named[name] for name in ("weight", "bias")}
    check_parameters(input.shape[1], norm, running, **params)
    channels_last = ops.takes_channels_last(input)
    return ops.explain(op, input, running, named["weight"], named["bias"], norm, channels_last)


def _check_input(input: Any) -> None:
    if not isinstance(input, Tensor):
        raise TypeError(f"input must be a torch.Tensor, got {type(input).__name__}")
    if input.dim() < 2:
        raise IndexError(f"input must be [N, C] or [N, C, *spatial], got shape {tuple(input.shape)}")
