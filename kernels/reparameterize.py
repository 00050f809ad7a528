"""Gaussian samples by the reparameterization trick, alone and with the KL: the launchers of the Triton kernels.

A launcher has the name and arguments of the registered op it serves. Noise that is not given is drawn in the
kernel, in the backward again, from a seed and an offset: numbers, or a seed tensor that the kernel reads.
"""

import math

import torch
from torch import Tensor

from .layout import (
    TRITON_DTYPES,
    WARPS,
    absent,
    accumulation_dtype,
    contiguous_like,
    cut_latents,
    latents,
    on_device,
    row_stride,
)
from .reparameterize_kernels import (
    reparameterize_bwd_kernel,
    reparameterize_fwd_kernel,
    reparameterize_kl_bwd_kernel,
    reparameterize_kl_fwd_kernel,
)
from .sums import reduced

NONE, TOTAL, ROWS = range(3)


def _is_bounded(lo: float, hi: float) -> bool:
    return lo > -math.inf or hi < math.inf


def reparameterize_fwd(
    mu: Tensor,
    spread: Tensor,
    eps: Tensor | None,
    seed: Tensor | None,
    seed_value: int,
    offset: int,
    form: int,
    lo: float,
    hi: float,
    return_eps: bool,
) -> tuple[Tensor, Tensor]:
    acc = accumulation_dtype(mu)
    with on_device(mu):
        q = latents(True, mu, spread, eps)
        cut = cut_latents(q, acc)
        z = contiguous_like(mu)
        drawn = contiguous_like(mu) if return_eps else None
        if cut.programs:
            reparameterize_fwd_kernel[(cut.programs,)](
                *q.tensors, seed, z, drawn, seed_value, offset, *q.strides, *cut.sizes, lo, hi,
                form, _is_bounded(lo, hi), q.whole_quads, TRITON_DTYPES[acc], *cut.tile, num_warps=WARPS,
            )  # fmt: skip
    return z, absent(mu) if drawn is None else drawn


def reparameterize_bwd(
    g: Tensor,
    spread: Tensor | None,
    eps: Tensor | None,
    seed: Tensor | None,
    seed_value: int,
    offset: int,
    form: int,
    lo: float,
    hi: float,
    eps_grad: bool,
) -> tuple[Tensor, Tensor]:
    acc = accumulation_dtype(g)
    with on_device(g):
        q = latents(True, g.contiguous(), spread, eps)
        cut = cut_latents(q, acc)
        d_spread = contiguous_like(g)
        d_eps = contiguous_like(g) if eps_grad else None
        if cut.programs:
            reparameterize_bwd_kernel[(cut.programs,)](
                *q.tensors, seed, d_spread, d_eps, seed_value, offset, *q.strides, *cut.sizes, lo, hi,
                form, _is_bounded(lo, hi), q.whole_quads, TRITON_DTYPES[acc], *cut.tile, num_warps=WARPS,
            )  # fmt: skip
    return d_spread, absent(g) if d_eps is None else d_eps


def reparameterize_kl_fwd(
    mu: Tensor,
    logvar: Tensor,
    eps: Tensor | None,
    seed: Tensor | None,
    seed_value: int,
    offset: int,
    lo: float,
    hi: float,
    reduction: int,
    factor: float,
) -> tuple[Tensor, Tensor]:
    acc = accumulation_dtype(mu)
    per_row = reduction == ROWS
    with on_device(mu):
        q = latents(not per_row, mu, logvar, eps)
        cut = cut_latents(q, acc)
        z = contiguous_like(mu)
        kl = torch.empty(mu.shape, dtype=acc, device=mu.device) if reduction == NONE else None
        partial_shape = (cut.rows, cut.splits) if per_row else (1, cut.programs)
        partial = mu.new_empty(partial_shape, dtype=acc) if kl is None else None
        if cut.programs:
            reparameterize_kl_fwd_kernel[(cut.programs,)](
                *q.tensors, seed, z, kl, partial, seed_value, offset, *q.strides, *cut.sizes, lo, hi, factor,
                per_row, _is_bounded(lo, hi), q.whole_quads, TRITON_DTYPES[acc], *cut.tile, num_warps=WARPS,
            )  # fmt: skip
        return z, reduced(partial, mu.shape[:1] if per_row else ()) if kl is None else kl


def reparameterize_kl_bwd(
    g_z: Tensor | None,
    g_kl: Tensor | None,
    mu: Tensor,
    logvar: Tensor,
    eps: Tensor | None,
    seed: Tensor | None,
    seed_value: int,
    offset: int,
    lo: float,
    hi: float,
    reduction: int,
    factor: float,
    eps_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    acc = accumulation_dtype(mu)
    with on_device(mu):
        q = latents(reduction != ROWS, mu, logvar, eps, None if g_z is None else g_z.contiguous())
        cut = cut_latents(q, acc)
        if g_kl is not None and reduction == NONE:
            g_kl = g_kl.contiguous()
        d_mu, d_logvar = contiguous_like(mu), contiguous_like(logvar)
        d_eps = contiguous_like(mu) if eps_grad else None
        if cut.programs:
            reparameterize_kl_bwd_kernel[(cut.programs,)](
                q.tensors[3], g_kl, *q.tensors[:3], seed, d_mu, d_logvar, d_eps, seed_value, offset,
                row_stride(g_kl), q.strides[3], *q.strides[:3], *cut.sizes, lo, hi, factor,
                reduction == NONE, _is_bounded(lo, hi), q.whole_quads, TRITON_DTYPES[acc], *cut.tile, num_warps=WARPS,
            )  # fmt: skip
    return d_mu, d_logvar, absent(mu) if d_eps is None else d_eps
