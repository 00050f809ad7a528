"""Reconstruction loss, Gaussian KL and their sum, the VAE loss: the launchers of the Triton kernels.

A launcher has the name and arguments of the registered op it serves. Sums are taken in two stages in a fixed
order, so results do not vary from run to run. Nothing is read back to the host: the kernels read the upstream
gradients and a tensor beta.
"""

import torch
from torch import Tensor

from .integers import cdiv
from .layout import (
    TRITON_DTYPES,
    WARPS,
    Latents,
    Plan,
    absent,
    accumulation_dtype,
    contiguous_like,
    cut_latents,
    dense,
    latents,
    on_device,
    plan,
    row_stride,
    strided_like,
    tiles_for,
)
from .sums import ONE_ROW_SUM_TILE, ROWS_SUM_TILE, reduced
from .vae_loss_kernels import (
    kl_bwd_kernel,
    kl_columns_kernel,
    kl_fwd_kernel,
    reconstruction_bwd_kernel,
    reconstruction_fwd_kernel,
    scale_kernel,
    vae_bwd_kernel,
    vae_fwd_kernel,
    vae_sum_kernel,
)

NONE, TOTAL, ROWS, COLUMNS = range(4)

COLUMNS_STEPS, COLUMNS_SPLITS = 4, 128  # of the column sums: tiles of a program at least; programs at most


def _operands(
    recon: Tensor, target: Tensor, weight: Tensor | None, rows: bool, acc: torch.dtype
) -> tuple[Tensor, Tensor, Tensor | None, Plan]:
    """The operands in one dense layout, and their cut into programs."""
    recon = dense(recon, rows)
    target = strided_like(target, recon)
    weight = None if weight is None else strided_like(weight, recon)
    return recon, target, weight, _cut(rows, acc, recon, target, weight)


def _cut(rows: bool, acc: torch.dtype, recon: Tensor, *others: Tensor | None) -> Plan:
    shape = (recon.shape[0], recon.shape[1:].numel()) if rows else (1, recon.numel())
    return plan(*shape, tiles_for(acc, shape[1:], (recon, *others)))


def reconstruction_loss_fwd(
    recon: Tensor,
    target: Tensor,
    weight: Tensor | None,
    kind: int,
    threshold: float,
    reduction: int,
    factor: float,
    store_grad: bool,
) -> tuple[Tensor, Tensor]:
    acc = accumulation_dtype(recon, target)
    with on_device(recon):
        recon, target, weight, cut = _operands(recon, target, weight, reduction == ROWS, acc)
        grad = torch.empty_like(recon) if store_grad else None
        value = torch.empty_like(recon) if reduction == NONE else None
        partial = recon.new_empty((cut.rows, cut.splits), dtype=acc) if value is None else None
        if cut.programs:
            reconstruction_fwd_kernel[(cut.programs,)](
                recon, target, weight, value, grad, partial, *cut.sizes, threshold, factor,
                kind, TRITON_DTYPES[acc], *cut.tile, num_warps=WARPS,
            )  # fmt: skip
        if partial is not None:
            value = reduced(partial, recon.shape[:1] if reduction == ROWS else ())
    return value, absent(recon) if grad is None else grad


def reconstruction_loss_bwd(
    g: Tensor,
    recon: Tensor,
    target: Tensor,
    weight: Tensor | None,
    kind: int,
    threshold: float,
    reduction: int,
    factor: float,
) -> Tensor:
    acc = accumulation_dtype(recon, target)
    with on_device(recon):
        recon, target, weight, cut = _operands(recon, target, weight, reduction == ROWS, acc)
        grad = torch.empty_like(recon)
        if reduction == NONE:
            g = strided_like(g, recon)
        if cut.programs:
            reconstruction_bwd_kernel[(cut.programs,)](
                g, recon, target, weight, grad, row_stride(g), *cut.sizes, threshold, factor,
                kind, reduction == NONE, TRITON_DTYPES[acc], *cut.tile, num_warps=WARPS,
            )  # fmt: skip
    return grad


def reconstruction_loss_scale_(grad: Tensor, g: Tensor, reduction: int) -> None:
    """grad must be as reconstruction_loss_fwd stored it: dense, rows outermost for the rows reduction."""
    acc = accumulation_dtype(grad)
    cut = _stored_plan(grad, reduction, acc)
    with on_device(grad):
        if cut.programs:
            scale_kernel[(cut.programs,)](
                g, grad, row_stride(g), *cut.sizes, TRITON_DTYPES[acc], *cut.tile, num_warps=WARPS
            )


def _stored_plan(grad: Tensor, reduction: int, acc: torch.dtype) -> Plan:
    rows = reduction == ROWS
    if dense(grad, rows) is not grad:
        raise RuntimeError("the stored gradient must be dense, as the forward made it")
    return _cut(rows, acc, grad)


def gaussian_kl_fwd(
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
    acc = accumulation_dtype(mu, spread, mu2, logvar2)
    with on_device(mu):
        q = latents(reduction in (NONE, TOTAL), mu, spread, mu2, logvar2)
        if reduction == COLUMNS:
            return _kl_columns(q, mu.shape[1:], acc, form, (lo, hi, log_eps, factor))
        cut = cut_latents(q, acc)
        value = torch.empty(mu.shape, dtype=acc, device=mu.device) if reduction == NONE else None
        partial_shape = (cut.rows, cut.splits) if reduction == ROWS else (1, max(1, cut.programs))
        partial = mu.new_empty(partial_shape, dtype=acc) if value is None else None
        if cut.programs:
            kl_fwd_kernel[(cut.programs,)](
                *q.tensors, value, partial, *q.strides, *cut.sizes, lo, hi, log_eps, factor,
                form, reduction == ROWS, TRITON_DTYPES[acc], *cut.tile, num_warps=WARPS,
            )  # fmt: skip
        return reduced(partial, mu.shape[:1] if reduction == ROWS else ()) if value is None else value


def _kl_columns(
    q: Latents, shape: torch.Size, acc: torch.dtype, form: int, numbers: tuple[float, float, float, float]
) -> Tensor:
    b_rows, b_cols = tiles_for(acc, (q.cols, *q.strides), q.tensors)[0][1]
    span = b_rows * max(COLUMNS_STEPS, cdiv(cdiv(q.rows, COLUMNS_SPLITS), b_rows))
    splits = max(1, cdiv(q.rows, span))
    mu = q.tensors[0]
    partial = torch.empty((splits, q.cols), dtype=acc, device=mu.device)
    if q.cols:
        kl_columns_kernel[(cdiv(q.cols, b_cols), splits)](
            *q.tensors, partial, *q.strides, q.rows, q.cols, span, *numbers,
            form, TRITON_DTYPES[acc], b_rows, b_cols, num_warps=WARPS,
        )  # fmt: skip
    return reduced(partial, shape, by_column=True)


def gaussian_kl_bwd(
    g: Tensor,
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    acc = accumulation_dtype(mu, spread, mu2, logvar2)
    with on_device(mu):
        q = latents(reduction in (NONE, TOTAL), mu, spread, mu2, logvar2)
        cut = cut_latents(q, acc)
        grads = tuple(None if t is None else contiguous_like(t) for t in (mu, spread, mu2, logvar2))
        g_stride = row_stride(g)
        if reduction in (NONE, COLUMNS):
            g = g.contiguous()
        if cut.programs:
            kl_bwd_kernel[(cut.programs,)](
                g, *q.tensors, *grads, g_stride, *q.strides, *cut.sizes, lo, hi, log_eps, factor,
                form, reduction, TRITON_DTYPES[acc], *cut.tile, num_warps=WARPS,
            )  # fmt: skip
    dmu, dspread, dmu2, dlogvar2 = (absent(mu) if grad is None else grad for grad in grads)
    return dmu, dspread, dmu2, dlogvar2


def vae_loss_fwd(
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
    store_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    acc = accumulation_dtype(recon, mu)
    per_row = reduction == ROWS
    with on_device(recon):
        recon, target, weight, x = _operands(recon, target, weight, per_row, acc)
        q = latents(not per_row, mu, logvar)
        z = cut_latents(q, acc)
        grad = torch.empty_like(recon) if store_grad else None
        rows, kl_count = (x.rows, z.splits) if per_row else (1, z.programs)
        recon_partial = recon.new_empty((rows, x.splits), dtype=acc)
        kl_partial = recon.new_empty((rows, kl_count), dtype=acc)
        shape = (rows,) if per_row else ()
        loss, recon_loss, kl = (recon.new_empty(shape, dtype=acc) for _ in range(3))
        if rows:
            vae_fwd_kernel[(x.programs + z.programs,)](
                recon, target, weight, grad, recon_partial, *q.tensors, kl_partial, *q.strides,
                x.programs, *x.sizes, *z.sizes, recon_factor, kl_factor, lo, hi,
                kind, per_row, TRITON_DTYPES[acc], *x.tile, *z.tile, num_warps=WARPS,
            )  # fmt: skip
            b_rows, b_cols = ONE_ROW_SUM_TILE if rows == 1 else ROWS_SUM_TILE
            vae_sum_kernel[(cdiv(rows, b_rows),)](
                recon_partial, kl_partial, beta, loss, recon_loss, kl, rows, x.splits, kl_count, beta_value,
                TRITON_DTYPES[acc], b_rows, b_cols, num_warps=WARPS,
            )  # fmt: skip
    return loss, recon_loss, kl, absent(recon) if grad is None else grad


def vae_loss_bwd(
    g_loss: Tensor | None,
    g_recon: Tensor | None,
    g_kl: Tensor | None,
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
    acc = accumulation_dtype(recon, mu)
    with on_device(recon):
        recon, target, weight, x = _operands(recon, target, weight, reduction == ROWS, acc)
        grad = torch.empty_like(recon)
        dmu, dlogvar = _launch_vae_bwd(
            (g_loss, g_recon, g_kl), (recon, target, weight, grad), x, mu, logvar, beta,
            (beta_value, recon_factor, kl_factor, lo, hi), kind, reduction, False, acc,
        )  # fmt: skip
    return grad, dmu, dlogvar


def vae_loss_bwd_stored_(
    grad: Tensor,
    g_loss: Tensor | None,
    g_recon: Tensor | None,
    g_kl: Tensor | None,
    mu: Tensor,
    logvar: Tensor,
    beta: Tensor | None,
    beta_value: float,
    reduction: int,
    kl_factor: float,
    lo: float,
    hi: float,
) -> tuple[Tensor, Tensor]:
    acc = accumulation_dtype(grad, mu)
    with on_device(grad):
        return _launch_vae_bwd(
            (g_loss, g_recon, g_kl), (None, None, None, grad), _stored_plan(grad, reduction, acc),
            mu, logvar, beta, (beta_value, 1.0, kl_factor, lo, hi), 0, reduction, True, acc,
        )  # fmt: skip


def _launch_vae_bwd(
    upstream: tuple[Tensor | None, ...],
    tensors: tuple[Tensor | None, ...],
    x: Plan,
    mu: Tensor,
    logvar: Tensor,
    beta: Tensor | None,
    numbers: tuple[float, ...],
    kind: int,
    reduction: int,
    stored: bool,
    acc: torch.dtype,
) -> tuple[Tensor, Tensor]:
    q = latents(reduction == TOTAL, mu, logvar)
    z = cut_latents(q, acc)
    dmu, dlogvar = contiguous_like(mu), contiguous_like(logvar)
    if x.programs + z.programs:
        vae_bwd_kernel[(x.programs + z.programs,)](
            *upstream, *map(row_stride, upstream), *tensors, *q.tensors, dmu, dlogvar, beta, *q.strides,
            x.programs, *x.sizes, *z.sizes, *numbers,
            kind, stored, TRITON_DTYPES[acc], *x.tile, *z.tile, num_warps=WARPS,
        )  # fmt: skip
    return dmu, dlogvar
