"""What the loss family's public functions share: checks of their inputs, and each part by its reduction."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyaegpu import _checks
from pyaegpu.ops import vae_loss as ops
from pyaegpu.reference.vae_loss import COLUMNS, L1, NONE, ROWS, SMOOTH_L1, TOTAL, accumulator

# mu, the tensor that holds the spread, and the mean and log variance of another Gaussian where there is one.
KLTensors = tuple[Tensor, Tensor, Tensor | None, Tensor | None]

# Kinds whose weighted mean divides by the sum of the weights, as torch.nn.functional's mse_loss and l1_loss do; the
# binary cross-entropies divide by the number of elements.
_WEIGHTED_MEAN = ("mse", "l1", "smooth_l1")


def is_fused(kind: str, recon_reduction: str, weight: Tensor | None, free_bits: float) -> bool:
    """Whether one op computes the loss: a bound on batch means, or a mean by weight, takes a sum to finish first."""
    return free_bits == 0 and (weight is None or recon_reduction != "mean" or kind not in _WEIGHTED_MEAN)


def reconstruction_inputs(recon: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    _checks.floating(recon=recon, target=target)
    _checks.alike("target", target, "recon", recon)
    recon, target = _checks.one_dtype({"recon": recon, "target": target})
    if weight is not None:
        _checks.floating(weight=weight)
        weight = _checks.broadcast_to("weight", weight, "recon", recon)
    return recon, target, weight


def kl_inputs(mu: Tensor, form: str, spread: Tensor, other: tuple[Tensor, Tensor] | None) -> KLTensors:
    named = {"mu": mu, form: spread}
    _checks.floating(**named)
    _checks.alike(form, spread, "mu", mu)
    if other is None:
        mu, spread = _checks.one_dtype(named)
        return mu, spread, None, None
    if not isinstance(other, (tuple, list)) or len(other) != 2:
        raise TypeError("other must be a pair (mu2, logvar2) of tensors")
    named |= {"other[0]": other[0], "other[1]": other[1]}
    _checks.floating(**named)
    expanded = [_checks.broadcast_to(name, named[name], "mu", mu) for name in ("other[0]", "other[1]")]
    mu, spread, mu2, logvar2 = _checks.one_dtype(
        {"mu": mu, form: spread, "other[0]": expanded[0], "other[1]": expanded[1]}
    )
    return mu, spread, mu2, logvar2


def check_pair(recon: Tensor, mu: Tensor, recon_reduction: str, kl_reduction: str) -> None:
    _checks.same_device("mu", mu, "recon", recon)
    if (recon.dtype == torch.float64) != (mu.dtype == torch.float64):
        raise RuntimeError(f"recon and mu must both be float64 or neither; got {recon.dtype} and {mu.dtype}")
    if (recon_reduction == "sample") != (kl_reduction == "sample"):
        raise ValueError(
            "recon_reduction and kl_reduction must both be 'sample' or neither; "
            f"got {recon_reduction!r} and {kl_reduction!r}"
        )
    if mu.dim() >= 2 and recon_reduction in ("batchmean", "sample") and recon.shape[:1] != mu.shape[:1]:
        raise ValueError(
            f"recon and mu must have one batch size, got shapes {tuple(recon.shape)} and {tuple(mu.shape)}"
        )


def beta_argument(beta: float | Tensor, recon: Tensor) -> tuple[Tensor | None, float]:
    if not isinstance(beta, Tensor):
        return None, _checks.number("beta", beta)
    if beta.dim() != 0:
        raise ValueError(f"beta must be a number or a 0-d tensor, got shape {tuple(beta.shape)}")
    _checks.floating(beta=beta)
    if beta.device.type == "cpu" != recon.device.type and not beta.requires_grad and not torch.compiler.is_compiling():
        return None, float(beta)  # already on the host: no copy to the device, which a CUDA graph could not capture
    return beta.to(recon.device, accumulator(recon.dtype)), 1.0


def factor(scale: float, tensor: Tensor, reduction: str) -> float:
    """``scale`` over what the reduction divides by; NaN for the mean of nothing, as stock gives."""
    if reduction not in ("mean", "batchmean"):
        return scale
    count = tensor.numel() if reduction == "mean" else tensor.shape[0]
    return scale / count if count else float("nan")


def reconstruction_part(
    recon: Tensor,
    target: Tensor,
    weight: Tensor | None,
    kind: str,
    kind_id: int,
    threshold: float,
    reduction: str,
    scale: float,
) -> Tensor:
    if kind_id == SMOOTH_L1 and threshold == 0:
        kind_id = L1
    if reduction == "mean" and weight is not None and kind in _WEIGHTED_MEAN:
        args = ops.ReconstructionArgs(kind_id, threshold, TOTAL, scale)
        return ops.reconstruction_loss(recon, target, weight, args) / weight.sum(dtype=accumulator(recon.dtype))
    mode = {"none": NONE, "sample": ROWS}.get(reduction, TOTAL)
    args = ops.ReconstructionArgs(kind_id, threshold, mode, factor(scale, recon, reduction))
    return ops.reconstruction_loss(recon, target, weight, args)


def kl_part(
    tensors: KLTensors,
    form: int,
    log_eps: float,
    bounds: tuple[float, float],
    free_bits: float,
    reduction: str,
) -> Tensor:
    mu = tensors[0]
    if reduction == "none" and _is_channels_last(mu):
        # Elementwise values keep the memory format of mu: the op sees its channels where they lie, last.
        moved = _each(tensors, lambda t: t.movedim(1, -1))
        return kl_part(moved, form, log_eps, bounds, free_bits, reduction).movedim(-1, 1)
    one_sample = mu.dim() < 2 and reduction != "none"
    if one_sample:
        tensors = _each(tensors, lambda t: t.reshape(1, -1))
    batch = tensors[0].shape[0] if tensors[0].dim() else 1
    if free_bits > 0:
        per_latent = _kl_op(tensors, form, log_eps, bounds, COLUMNS, factor(1.0, tensors[0], "batchmean"))
        value = _bounded(per_latent.clamp(min=free_bits), reduction, batch)
    else:
        mode = {"none": NONE, "sample": ROWS, "dim": COLUMNS}.get(reduction, TOTAL)
        scaled = "batchmean" if reduction == "dim" else reduction
        value = _kl_op(tensors, form, log_eps, bounds, mode, factor(1.0, tensors[0], scaled))
    if one_sample and reduction == "sample":
        return value.squeeze(0)
    return value.reshape(mu.shape) if one_sample and reduction == "dim" else value


def _is_channels_last(mu: Tensor) -> bool:
    return mu.dim() in (4, 5) and not mu.is_contiguous() and mu.movedim(1, -1).is_contiguous()


def _bounded(per_latent: Tensor, reduction: str, batch: int) -> Tensor:
    """The batch-mean divergence of each latent, reduced."""
    if reduction == "dim":
        return per_latent
    if reduction == "mean":
        return per_latent.mean()
    return per_latent.sum() * batch if reduction == "sum" else per_latent.sum()


def _each(tensors: KLTensors, f: Callable[[Tensor], Tensor]) -> KLTensors:
    mu, spread, mu2, logvar2 = tensors
    return f(mu), f(spread), None if mu2 is None else f(mu2), None if logvar2 is None else f(logvar2)


def kl_over_dims(
    tensors: KLTensors,
    form: int,
    log_eps: float,
    bounds: tuple[float, float],
    dims: int | Sequence[int],
) -> Tensor:
    """The divergence summed over ``dims``: they are moved last, so that each kept position is a row."""
    mu = tensors[0]
    given = (tuple(dims) or range(mu.dim())) if isinstance(dims, (tuple, list)) else (dims,)
    summed = sorted(_dimension(d, mu.dim()) for d in given)
    if len(set(summed)) < len(summed):
        raise RuntimeError(f"dims must name each dimension once, got {dims!r}")
    kept = [d for d in range(mu.dim()) if d not in summed]
    shape = [mu.shape[d] for d in kept]
    rows = 1
    for size in shape:
        rows *= size
    columns = 1
    for d in summed:
        columns *= mu.shape[d]
    moved = _each(tensors, lambda t: t.permute(*kept, *summed).reshape(rows, columns))
    return _kl_op(moved, form, log_eps, bounds, ROWS, 1.0).reshape(shape)


def _dimension(index: object, count: int) -> int:
    if not isinstance(index, int):
        raise TypeError(f"dims must be an int or a sequence of ints, got {type(index).__name__} {index!r}")
    if not -count <= index < count:
        raise IndexError(f"dims must lie in [{-count}, {count - 1}] for mu of {count} dimensions, got {index}")
    return index % count


def _kl_op(
    tensors: KLTensors,
    form: int,
    log_eps: float,
    bounds: tuple[float, float],
    mode: int,
    factor: float,
) -> Tensor:
    return ops.gaussian_kl(*tensors, ops.KLArgs(form, *bounds, log_eps, mode, factor))
