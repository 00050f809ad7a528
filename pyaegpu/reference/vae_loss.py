"""Reconstruction losses and the Gaussian KL divergence in plain, differentiable PyTorch.

Each function takes the same numbers as the compiled op of its name (see ``pyaegpu/ops/vae_loss.py``), so that it can
stand in for any of them: under functorch transforms, for second derivatives, and where no kernel runs.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

BCE, BCE_LOGITS, MSE, L1, SMOOTH_L1 = range(5)
NONE, TOTAL, ROWS, COLUMNS = range(4)
LOGVAR, STD, VAR = range(3)

# Terms of (e^d - 1 - d) / d^2 = 1/2! + d/3! + ...; fourteen reach float64's precision for |d| < 0.25.
_SERIES = tuple(1.0 / math.factorial(k) for k in range(2, 16))
_SERIES_BOUND = 0.25


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums of ``dtype`` values are kept: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def reconstruction_loss(
    recon: Tensor,
    target: Tensor,
    weight: Tensor | None,
    kind: int,
    threshold: float,
    reduction: int,
    factor: float,
) -> Tensor:
    """``factor * sum(weight * loss(recon, target))``, reduced as ``reduction`` says."""
    acc = accumulator(recon.dtype)
    with _no_autocast(recon):
        if reduction == TOTAL and weight is None:
            return _scaled(_stock_loss(recon.to(acc), target.to(acc), kind, threshold, "sum"), factor)
        loss = _stock_loss(recon.to(acc), target.to(acc), kind, threshold, "none")
        if weight is not None:
            loss = loss * weight.to(acc)
        value = _scaled(_sum(loss, reduction), factor)
    return value.to(recon.dtype) if reduction == NONE else value


def gaussian_kl(
    mu: Tensor,
    spread: Tensor,
    mu2: Tensor | None,
    logvar2: Tensor | None,
    form: int,
    lo: float,
    hi: float,
    log_eps: float,
    reduction: int,
    factor: float,
) -> Tensor:
    """``factor * sum(KL(N(mu, var) || N(mu2, var2)))``; ``spread`` holds the log variance, the std or the variance."""
    acc = accumulator(mu.dtype)
    with _no_autocast(mu):
        # The difference e^d - 1 - d keeps float32's precision without a series when it is taken in float64.
        d = _log_variance(spread.double(), form, lo, hi, log_eps)
        distance = mu.to(acc)
        if mu2 is not None and logvar2 is not None:
            d = d - logvar2.double()
            distance = (distance - mu2.to(acc)) * torch.exp(-0.5 * logvar2.to(acc))
        rest = _exp_minus_tangent(d) if acc == torch.float64 else torch.expm1(d) - d
        if form != LOGVAR and log_eps != 0.0:
            rest = rest - (log_eps if logvar2 is None else log_eps * torch.exp(-logvar2.double()))
        kl = torch.addcmul(rest.to(acc), distance, distance)
        return _scaled(_sum(kl, reduction), 0.5 * factor)


def vae_loss(
    recon: Tensor,
    target: Tensor,
    weight: Tensor | None,
    mu: Tensor,
    logvar: Tensor,
    beta: Tensor | None,
    beta_value: float,
    kind: int,
    reduction: int,
    recon_factor: float,
    kl_factor: float,
    lo: float,
    hi: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """``(reconstruction + beta * kl, reconstruction, kl)``."""
    reconstruction = reconstruction_loss(recon, target, weight, kind, 1.0, reduction, recon_factor)
    kl = gaussian_kl(mu, logvar, None, None, LOGVAR, lo, hi, 0.0, reduction, kl_factor)
    return reconstruction + (beta_value if beta is None else beta) * kl, reconstruction, kl


def _stock_loss(recon: Tensor, target: Tensor, kind: int, threshold: float, reduction: str) -> Tensor:
    if kind == BCE:
        return _binary_cross_entropy(recon, target, reduction)
    if kind == BCE_LOGITS:
        return F.binary_cross_entropy_with_logits(recon, target, reduction=reduction)
    if kind == MSE:
        return F.mse_loss(recon, target, reduction=reduction)
    if kind == L1:
        return F.l1_loss(recon, target, reduction=reduction)
    return F.smooth_l1_loss(recon, target, reduction=reduction, beta=threshold)


def _binary_cross_entropy(recon: Tensor, target: Tensor, reduction: str) -> Tensor:
    if recon.device.type != "cuda":
        return F.binary_cross_entropy(recon, target, reduction=reduction)
    loss = _unchecked_binary_cross_entropy(recon, target)
    return loss.sum() if reduction == "sum" else loss


def _unchecked_binary_cross_entropy(recon: Tensor, target: Tensor) -> Tensor:
    # Stock asserts on the device for a value outside [0, 1], which ends the process's use of the GPU: such an element
    # is kept from it and gives NaN instead.
    valid = (recon >= 0) & (recon <= 1) & (target >= 0) & (target <= 1)
    loss = F.binary_cross_entropy(torch.where(valid, recon, 0.5), torch.where(valid, target, 0.5), reduction="none")
    # The branch not taken must be finite too: 0 * NaN in its gradient would reach the valid elements.
    return torch.where(valid, loss, torch.where(valid, 0.0, recon) * math.nan)


def _log_variance(spread: Tensor, form: int, lo: float, hi: float, log_eps: float) -> Tensor:
    if form == LOGVAR:
        return spread.clamp(lo, hi) if lo > -math.inf or hi < math.inf else spread
    if form == STD and log_eps == 0.0:
        return 2.0 * spread.abs().log()
    variance = spread * spread if form == STD else spread
    return torch.log(variance + log_eps)


def _exp_minus_tangent(d: Tensor) -> Tensor:
    """``e^d - 1 - d`` without cancellation at small ``d``."""
    small = d.abs() < _SERIES_BOUND
    # The series only sees small arguments, so that its unused branch has no Inf to turn a gradient into NaN.
    inside = torch.where(small, d, 0.0)
    series = torch.full_like(inside, _SERIES[-1])
    for coefficient in reversed(_SERIES[:-1]):
        series = series * inside + coefficient
    return torch.where(small, series * inside * inside, torch.expm1(d) - d)


def _sum(values: Tensor, reduction: int) -> Tensor:
    if reduction == TOTAL:
        return values.sum()
    if reduction == ROWS:
        return values.flatten(1).sum(1) if values.dim() > 1 else values
    return values.sum(0) if reduction == COLUMNS else values


def _scaled(values: Tensor, factor: float) -> Tensor:
    # A graph must not be specialised on a factor that follows the batch size, so it is compared in eager only.
    return values if not torch.compiler.is_compiling() and factor == 1.0 else values * factor


def _no_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Autocast off, where it is on: the formulas choose their own precision."""
    device = tensor.device.type
    on = device != "meta" and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else nullcontext()
