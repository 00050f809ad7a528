"""Batch normalisation and its activation, in plain, differentiable PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from pyaegpu.reference.activations import activate


def batch_norm_act(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    activation: int,
    slope: float,
) -> Tensor:
    """Batch normalisation, which updates the running statistics in training, then the activation."""
    normal = F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return activate(normal, activation, slope)
