"""Gaussian samples by the reparameterization trick, in plain, differentiable PyTorch.

Each function takes the numbers of the compiled op of its name and its noise as a tensor.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyaegpu.reference.vae_loss import LOGVAR, STD, gaussian_kl

__all__ = ["LOGVAR", "STD", "reparameterize", "reparameterize_kl", "scaled"]


def scaled(spread: Tensor, eps: Tensor, form: int, lo: float, hi: float) -> Tensor:
    """``sigma * eps``, ``spread`` being the log variance or the standard deviation."""
    if form == STD:
        return spread * eps
    bounded = spread.clamp(lo, hi) if lo > -math.inf or hi < math.inf else spread
    return torch.exp(0.5 * bounded) * eps


def reparameterize(mu: Tensor, spread: Tensor, eps: Tensor, form: int, lo: float, hi: float) -> Tensor:
    """``mu + sigma * eps``."""
    return mu + scaled(spread, eps, form, lo, hi)


def reparameterize_kl(
    mu: Tensor, logvar: Tensor, eps: Tensor, lo: float, hi: float, reduction: int, factor: float
) -> tuple[Tensor, Tensor]:
    """The sample, and its distribution's KL divergence from the standard normal."""
    z = reparameterize(mu, logvar, eps, LOGVAR, lo, hi)
    return z, gaussian_kl(mu, logvar, None, None, LOGVAR, lo, hi, 0.0, reduction, factor)
