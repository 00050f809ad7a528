"""The loss family: reconstruction losses, the Gaussian KL divergence, and their sum in one op."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyaegpu import _checks
from pyaegpu.functional import _vae_loss as parts
from pyaegpu.ops import vae_loss as ops
from pyaegpu.reference.vae_loss import LOGVAR, ROWS, STD, TOTAL, VAR

KINDS = ("bce", "bce_logits", "mse", "l1", "smooth_l1")
_FORMS = {"logvar": LOGVAR, "std": STD, "var": VAR}


def reconstruction_loss(
    recon: Tensor,
    target: Tensor,
    kind: str = "bce",
    *,
    reduction: str = "sum",
    weight: Tensor | None = None,
    scale: float = 1.0,
    beta: float = 1.0,
) -> Tensor:
    r"""Reconstruction loss between ``recon`` and ``target``, fused with its gradient.

    With x = recon, t = target, per element:

    - ``"bce"``: :math:`-(t \max(\log x, -100) + (1 - t) \max(\log(1 - x), -100))`, x in [0, 1]
    - ``"bce_logits"``: the same of sigmoid(x), computed as :math:`(1 - t)x + \max(-x, 0) + \log(1 + e^{-|x|})`
    - ``"mse"``: :math:`(x - t)^2`; ``"l1"``: :math:`|x - t|`
    - ``"smooth_l1"``: :math:`(x - t)^2 / (2\beta)` where :math:`|x - t| < \beta`, else :math:`|x - t| - \beta/2`

    Args:
        recon: reconstruction of any shape, float32, float64, float16 or bfloat16.
        target: tensor of the shape and dtype of ``recon``.
        kind: ``"bce"``, ``"bce_logits"``, ``"mse"``, ``"l1"`` or ``"smooth_l1"``.
        reduction: ``"none"``, ``"sum"``, ``"mean"``, ``"batchmean"`` (sum / batch) or ``"sample"`` (sum per sample).
            The batch is dim 0; a 1-D ``recon`` is one sample.
        weight: factor of each element, broadcastable to ``recon``. With ``"mean"``, mse, l1 and smooth_l1 divide by
            the sum of the weights and the cross-entropies by the number of elements, as torch.nn.functional does.
        scale: factor of the whole loss.
        beta: threshold of ``"smooth_l1"``; 0 gives ``"l1"``.

    Returns:
        The loss in the dtype of ``recon``, or float32 where autocast gives stock PyTorch's loss that dtype.

    Raises:
        ValueError: for unequal shapes, an unknown kind or reduction.
        RuntimeError: for different or non-floating dtypes (outside autocast), different devices, a negative ``beta``,
            and on the CPU for values outside [0, 1] with ``"bce"``; on a GPU such an element gives NaN.
    """
    kind_id = _checks.choice("kind", kind, KINDS)
    _checks.choice("reduction", reduction, ("none", "sum", "mean", "batchmean", "sample"))
    recon, target, weight = parts.reconstruction_inputs(recon, target, weight)
    if not _checks.number("beta", beta) >= 0:
        raise RuntimeError(f"beta must be at least 0, got {beta}")
    scale = _checks.number("scale", scale)
    out = torch.float32 if recon.dtype != torch.float64 and _checks.autocasts(recon) else recon.dtype
    if reduction == "none":
        recon, target = recon.to(out), target.to(out)
    weight = None if weight is None else weight.to(recon.dtype)
    one_sample = recon.dim() < 2 and reduction in ("batchmean", "sample")
    if one_sample:
        recon, target = recon.reshape(1, -1), target.reshape(1, -1)
        weight = None if weight is None else weight.reshape(1, -1)
    value = parts.reconstruction_part(recon, target, weight, kind, kind_id, beta, reduction, scale).to(out)
    return value.squeeze(0) if one_sample and reduction == "sample" else value


def gaussian_kl(
    mu: Tensor,
    logvar: Tensor | None = None,
    *,
    std: Tensor | None = None,
    var: Tensor | None = None,
    other: tuple[Tensor, Tensor] | None = None,
    clamp: tuple[float, float] | None = None,
    free_bits: float = 0.0,
    log_eps: float = 0.0,
    reduction: str = "batchmean",
    dims: int | Sequence[int] | None = None,
) -> Tensor:
    r"""KL divergence of a diagonal Gaussian from the standard normal, or from ``other``, in nats.

    :math:`KL = \frac12 \sum (\sigma^2 + \mu^2 - 1 - \log \sigma^2)` (Kingma and Welling 2014, appendix B); with
    ``other=(mu2, logvar2)``: :math:`\frac12 \sum (e^{d} - 1 - d + (\mu - \mu_2)^2 e^{-logvar_2})`,
    :math:`d = \log \sigma^2 - logvar_2`. Computed without cancellation at small d.

    Args:
        mu: mean, batch in dim 0; a 1-D ``mu`` is one sample.
        logvar: log variance; exactly one of ``logvar``, ``std`` and ``var`` is given, of the shape of ``mu``.
        std: standard deviation; its sign does not matter.
        var: variance.
        other: mean and log variance of the second Gaussian, broadcastable to ``mu``.
        clamp: bounds of ``logvar``; the gradient passes on the bounds and is zero outside.
        free_bits: least value of each latent's batch-mean KL, in nats (Kingma et al. 2016); it goes with the
            reductions ``"sum"`` (times the batch), ``"mean"``, ``"batchmean"`` and ``"dim"``.
        log_eps: added inside the log, for ``std`` and ``var``.
        reduction: ``"none"``, ``"sum"``, ``"mean"``, ``"batchmean"`` (sum / batch), ``"sample"`` (sum per sample, or
            over ``dims``) or ``"dim"`` (mean over the batch, per latent).
        dims: dimensions that ``"sample"`` sums over; default all but the first.

    Returns:
        The divergence; float32 for half-precision inputs.

    Raises:
        TypeError: unless exactly one of ``logvar``, ``std``, ``var`` is given; ``clamp`` without ``logvar``,
            ``log_eps`` with it.
        ValueError: for unequal shapes, an unknown reduction, ``free_bits`` or ``dims`` with a reduction they do not
            go with.
        IndexError: for ``dims`` that ``mu`` does not have.
        RuntimeError: for different or non-floating dtypes (outside autocast) and different devices.
    """
    given = {name: t for name, t in (("logvar", logvar), ("std", std), ("var", var)) if t is not None}
    if len(given) != 1:
        raise TypeError(f"exactly one of logvar, std and var must be given, got {', '.join(given) or 'none'}")
    [(form, spread)] = given.items()
    if clamp is not None and form != "logvar":
        raise TypeError(f"clamp bounds logvar, but {form} was given")
    if log_eps != 0.0 and form == "logvar":
        raise TypeError("log_eps is added inside the log of std or var, but logvar was given")
    _checks.choice("reduction", reduction, ("none", "sum", "mean", "batchmean", "sample", "dim"))
    mu, spread, mu2, logvar2 = parts.kl_inputs(mu, form, spread, other)
    lo, hi = _checks.clamp_bounds(clamp)
    free_bits = _checks.number("free_bits", free_bits, 0.0)
    log_eps = _checks.number("log_eps", log_eps, 0.0)
    if dims is not None and reduction != "sample":
        raise ValueError(f"dims goes with reduction='sample', got {reduction!r}")
    if free_bits > 0 and reduction in ("none", "sample"):
        raise ValueError(f"free_bits bounds batch means: reduction must not be {reduction!r}")
    tensors = (mu, spread, mu2, logvar2)
    if dims is not None:
        return parts.kl_over_dims(tensors, _FORMS[form], log_eps, (lo, hi), dims)
    return parts.kl_part(tensors, _FORMS[form], log_eps, (lo, hi), free_bits, reduction)


def vae_loss(
    recon: Tensor,
    target: Tensor,
    mu: Tensor,
    logvar: Tensor,
    *,
    kind: str = "bce",
    beta: float | Tensor = 1.0,
    recon_reduction: str = "sum",
    kl_reduction: str = "sum",
    recon_scale: float = 1.0,
    weight: Tensor | None = None,
    free_bits: float = 0.0,
    clamp: tuple[float, float] | None = None,
    return_parts: bool = False,
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    r"""Loss of a variational autoencoder, reconstruction + beta * KL, as one fused op.

    :math:`L = s \, R(x, t) + \beta \, KL(N(\mu, e^{logvar}) \| N(0, I))` (Kingma and Welling 2014; beta: Higgins et
    al. 2017), with R as in :func:`reconstruction_loss` and KL as in :func:`gaussian_kl`.

    Args:
        recon: reconstruction x of any shape; batch in dim 0, or one sample where ``mu`` is 1-D.
        target: t, of the shape and dtype of ``recon``.
        mu: mean of the posterior, batch in dim 0, or 1-D for one sample.
        logvar: log variance of the posterior, of the shape and dtype of ``mu``.
        kind: of the reconstruction loss (smooth_l1 with threshold 1).
        beta: weight of the KL part: a number, or a 0-d tensor (annealed without recompiling; it gets a gradient).
        recon_reduction: ``"sum"``, ``"mean"`` or ``"batchmean"``; or ``"sample"`` for both, one loss per sample.
        kl_reduction: likewise.
        recon_scale: factor of the reconstruction part.
        weight: factor of each element of the reconstruction loss, broadcastable to ``recon``.
        free_bits: least batch-mean KL of each latent, in nats.
        clamp: bounds of ``logvar``.
        return_parts: also return the reconstruction part (after ``recon_scale``) and the KL (before ``beta``).

    Returns:
        The loss, or ``(loss, reconstruction, kl)``, all differentiable; float32 for half-precision inputs.

    Raises:
        TypeError: for arguments of another type.
        ValueError: for unequal shapes, an unknown kind or reduction, ``"sample"`` for one part only.
        RuntimeError: for different or non-floating dtypes (outside autocast), different devices, and on the CPU for
            values outside [0, 1] with ``"bce"``; on a GPU such an element gives NaN.
    """
    kind_id = _checks.choice("kind", kind, KINDS)
    allowed = ("sum", "mean", "batchmean", "sample")
    _checks.choice("recon_reduction", recon_reduction, allowed)
    _checks.choice("kl_reduction", kl_reduction, allowed)
    recon, target, weight = parts.reconstruction_inputs(recon, target, weight)
    mu, logvar, _, _ = parts.kl_inputs(mu, "logvar", logvar, None)
    parts.check_pair(recon, mu, recon_reduction, kl_reduction)
    recon_scale = _checks.number("recon_scale", recon_scale)
    free_bits = _checks.number("free_bits", free_bits, 0.0)
    lo, hi = _checks.clamp_bounds(clamp)
    weight = None if weight is None else weight.to(recon.dtype)
    beta_tensor, beta_value = parts.beta_argument(beta, recon)
    unbatched = mu.dim() < 2
    if unbatched:
        recon, target, mu, logvar = recon[None], target[None], mu[None], logvar[None]
        weight = None if weight is None else weight[None]
    if free_bits > 0 and recon_reduction == "sample":
        raise ValueError("free_bits bounds batch means: recon_reduction and kl_reduction must not be 'sample'")
    if parts.is_fused(kind, recon_reduction, weight, free_bits):
        args = ops.VAEArgs(
            beta_value,
            kind_id,
            ROWS if recon_reduction == "sample" else TOTAL,
            parts.factor(recon_scale, recon, recon_reduction),
            parts.factor(1.0, mu, kl_reduction),
            lo,
            hi,
        )
        losses = ops.vae_loss(recon, target, weight, mu, logvar, beta_tensor, args)
    else:
        reconstruction = parts.reconstruction_part(
            recon, target, weight, kind, kind_id, 1.0, recon_reduction, recon_scale
        )
        kl = parts.kl_part((mu, logvar, None, None), LOGVAR, 0.0, (lo, hi), free_bits, kl_reduction)
        losses = reconstruction + (beta_value if beta_tensor is None else beta_tensor) * kl, reconstruction, kl
    if unbatched and recon_reduction == "sample":
        losses = (losses[0].squeeze(0), losses[1].squeeze(0), losses[2].squeeze(0))
    return losses if return_parts else losses[0]
