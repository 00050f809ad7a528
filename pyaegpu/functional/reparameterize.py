"""Gaussian samples by the reparameterization trick, alone or with their KL divergence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyaegpu import _checks
from pyaegpu.functional import _vae_loss as parts
from pyaegpu.functional._noise import Generators, by_sample, inverse_of, memory_order, one_or_each
from pyaegpu.ops import reparameterize as ops
from pyaegpu.reference.vae_loss import LOGVAR, NONE, ROWS, STD, TOTAL

_KL_REDUCTIONS = ("none", "sum", "mean", "batchmean", "sample", "dim")


def reparameterize(
    mu: Tensor,
    logvar: Tensor | None = None,
    *,
    std: Tensor | None = None,
    eps: Tensor | None = None,
    generator: Generators = None,
    training: bool = True,
    clamp: tuple[float, float] | None = None,
    return_eps: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Sample of a diagonal Gaussian through which gradients flow, its noise drawn in the kernel.

    :math:`z = \mu + \sigma \varepsilon`, :math:`\sigma = e^{logvar/2}`, :math:`\varepsilon \sim N(0, I)` (Kingma and
    Welling 2014, section 2.4). The backward draws :math:`\varepsilon` again from its seed: no noise is stored, unless
    stock PyTorch's functions serve the call (see :func:`pyaegpu.explain`).

    Args:
        mu: mean, of any shape: float32, float64, float16 or bfloat16.
        logvar: log variance, of the shape of ``mu``; exactly one of ``logvar`` and ``std`` is given.
        std: standard deviation, of the shape of ``mu``.
        eps: the noise to use instead of drawing it, of the shape of ``mu``; it gets a gradient.
        generator: source of the noise, default the device's own, which ``torch.manual_seed`` sets. A list has one
            generator for each sample of dim 0, whose noise then is the same in any batch; a list of one serves all.
        training: if False, ``mu`` is returned.
        clamp: bounds of ``logvar``; the gradient passes on the bounds and is zero outside.
        return_eps: also return the noise.

    Returns:
        ``z``, or ``(z, eps)``, in the dtype that ``mu + torch.exp(0.5 * logvar) * eps`` would have, and in the memory
        format of ``mu``. Without ``training``: ``mu``, or ``(mu, zeros)``.

    Raises:
        TypeError: unless exactly one of ``logvar`` and ``std`` is given; ``clamp`` without ``logvar``.
        ValueError: for unequal shapes, and a list of generators of another length than the batch.
        RuntimeError: for tensors that are not floating-point, and different devices.
    """
    spread = std if logvar is None else logvar
    if spread is None or (logvar is not None and std is not None):
        raise TypeError(f"exactly one of logvar and std must be given, got {'none' if spread is None else 'both'}")
    name, form = ("logvar", LOGVAR) if std is None else ("std", STD)
    if clamp is not None and name != "logvar":
        raise TypeError(f"clamp bounds logvar, but {name} was given")
    args = ops.SampleArgs(form, *_checks.clamp_bounds(clamp))
    mu, spread, eps = _inputs(mu, name, spread, eps)
    rng, each = one_or_each(generator, "mu", mu)
    if not training:
        return (mu, torch.zeros_like(mu)) if return_eps else mu
    z, noise = _samples(mu, spread, eps, rng, each, args, return_eps)
    return (z, noise) if return_eps else z


def reparameterize_kl(
    mu: Tensor,
    logvar: Tensor,
    *,
    eps: Tensor | None = None,
    generator: Generators = None,
    clamp: tuple[float, float] | None = None,
    reduction: str = "batchmean",
) -> tuple[Tensor, Tensor]:
    r"""Sample of a diagonal Gaussian and its KL divergence from the standard normal, in one kernel.

    :math:`z = \mu + e^{logvar/2} \varepsilon`; :math:`KL = \frac12 \sum (e^{logvar} + \mu^2 - 1 - logvar)`, in nats
    (Kingma and Welling 2014, section 2.4 and appendix B), without cancellation at small ``logvar``.

    Args:
        mu: mean, batch in dim 0; a 1-D ``mu`` is one sample.
        logvar: log variance, of the shape of ``mu``.
        eps: the noise to use instead of drawing it, of the shape of ``mu``; it gets a gradient.
        generator: source of the noise, as in :func:`reparameterize`.
        clamp: bounds of ``logvar``, for both results; the gradient passes on the bounds and is zero outside.
        reduction: of the divergence: ``"none"``, ``"sum"``, ``"mean"``, ``"batchmean"`` (sum / batch), ``"sample"``
            (sum per sample) or ``"dim"`` (mean over the batch, per latent). ``"dim"``, a list
            of generators and a ``mu`` whose dim 0 is not outermost in memory take a second kernel.

    Returns:
        ``(z, kl)``: z as :func:`reparameterize` gives it, kl in float32 for half-precision inputs.

    Raises:
        ValueError: for unequal shapes, an unknown reduction, a list of generators of another length than the batch.
        RuntimeError: for tensors that are not floating-point, and different devices.
    """
    _checks.choice("reduction", reduction, _KL_REDUCTIONS)
    lo, hi = _checks.clamp_bounds(clamp)
    mu, logvar, eps = _inputs(mu, "logvar", logvar, eps)
    rng, each = one_or_each(generator, "mu", mu)
    order = memory_order(mu)
    if (each is not None and eps is None) or reduction == "dim" or (order is not None and order[0] != 0):
        z, _ = _samples(mu, logvar, eps, rng, each, ops.SampleArgs(LOGVAR, lo, hi), False)
        return z, parts.kl_part((mu, logvar, None, None), LOGVAR, 0.0, (lo, hi), 0.0, reduction)
    if mu.dim() < 2 and reduction != "none":
        row = _each(mu, logvar, eps, lambda t: t.reshape(1, -1))
        z, kl = _sample_kl(*row, rng, lo, hi, reduction)
        return z.reshape(mu.shape), kl.squeeze(0) if reduction == "sample" else kl
    if order is None:
        return _sample_kl(mu, logvar, eps, rng, lo, hi, reduction)
    z, kl = _sample_kl(*_each(mu, logvar, eps, lambda t: t.permute(order)), rng, lo, hi, reduction)
    back = inverse_of(order)
    return z.permute(back), kl.permute(back) if reduction == "none" else kl


def _inputs(mu: Tensor, name: str, spread: Tensor, eps: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    if eps is None and _checks.are_plain(mu, spread):
        return mu, spread, None
    named = {"mu": mu, name: spread} | ({} if eps is None else {"eps": eps})
    _checks.floating(**named)
    for key, tensor in named.items():
        _checks.alike(key, tensor, "mu", mu)
    mu, spread, *rest = _checks.promoted(list(named.values()), exponential=name == "logvar")
    return mu, spread, rest[0] if rest else None


def _each(
    mu: Tensor, spread: Tensor, eps: Tensor | None, f: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor | None]:
    return f(mu), f(spread), None if eps is None else f(eps)


def _samples(
    mu: Tensor,
    spread: Tensor,
    eps: Tensor | None,
    generator: torch.Generator | None,
    each: list[torch.Generator] | None,
    args: ops.SampleArgs,
    return_eps: bool,
) -> Sequence[Tensor]:
    """``(z, eps)``, drawn at once or, with a generator for each sample, one by one."""
    if each is None or eps is not None:
        return _sample(mu, spread, eps, generator, args, return_eps)
    return by_sample(lambda m, s, one: _sample(m, s, None, one, args, return_eps), each, mu, spread)


def _sample(
    mu: Tensor,
    spread: Tensor,
    eps: Tensor | None,
    generator: torch.Generator | None,
    args: ops.SampleArgs,
    return_eps: bool,
) -> tuple[Tensor, Tensor]:
    """The op on tensors that lie in memory as ``mu`` does."""
    order = memory_order(mu)
    if order is None:
        return ops.reparameterize(mu, spread, eps, generator, args, return_eps)
    moved = _each(mu, spread, eps, lambda t: t.permute(order))
    z, noise = ops.reparameterize(*moved, generator, args, return_eps)
    back = inverse_of(order)
    return z.permute(back), noise.permute(back) if return_eps else noise


def _sample_kl(
    mu: Tensor,
    logvar: Tensor,
    eps: Tensor | None,
    generator: torch.Generator | None,
    lo: float,
    hi: float,
    reduction: str,
) -> tuple[Tensor, Tensor]:
    mode = {"none": NONE, "sample": ROWS}.get(reduction, TOTAL)
    args = ops.SampleKLArgs(lo, hi, mode, parts.factor(1.0, mu, reduction))
    return ops.reparameterize_kl(mu, logvar, eps, generator, args)
