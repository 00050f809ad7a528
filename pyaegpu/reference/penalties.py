"""Penalties of sparse and contractive autoencoders, in plain, differentiable PyTorch."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def kl_to_target(activity: Tensor, target: float) -> Tensor:
    """``p log(p / q) + (1 - p) log((1 - p) / (1 - q))`` of each unit, q its mean activation.

    q is kept off 0 and 1 by the dtype's epsilon, so that a dead unit gives a number; outside [0, 1] it gives NaN.
    """
    bound = torch.finfo(activity.dtype).eps
    q = activity.clamp(bound, 1.0 - bound)
    q = torch.where((activity < 0) | (activity > 1), math.nan, q)
    return target * (math.log(target) - torch.log(q)) + (1.0 - target) * (math.log1p(-target) - torch.log1p(-q))


def contraction(hidden: Tensor, weight: Tensor) -> Tensor:
    """``sum_j (h_j (1 - h_j))^2 sum_i W_ji^2`` of each sample."""
    slope = hidden * (1.0 - hidden)
    return (slope.square() * weight.square().sum(1)).sum(-1)
