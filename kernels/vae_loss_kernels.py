"""The kernels of the loss family, one per op and pass; vae_loss.py launches them."""

import triton
import triton.language as tl

from .formulas import kl_value
from .sums import row_sums
from .tiles import scalar, store, tile_mask
from .vae_loss_tiles import (
    kl_bwd_tiles,
    kl_fwd_tiles,
    load_latents,
    reconstruction_bwd_tiles,
    reconstruction_fwd_tiles,
    scale_tiles,
)

ROWS = tl.constexpr(2)

# Arguments whose divisibility or value 1 gains nothing: without this a last, smaller batch would recompile.
COUNTS = [
    "rows", "splits", "stride_g",
    "x_programs", "x_rows", "x_splits", "kl_rows", "kl_splits", "recon_count", "kl_count",
    "stride_g_loss", "stride_g_recon", "stride_g_kl",
]  # fmt: skip


@triton.jit(do_not_specialize=COUNTS)
def reconstruction_fwd_kernel(
    p_x, p_t, p_w, p_value, p_grad, p_partial,
    rows: tl.int64, cols: tl.int64, span: tl.int64, splits,
    threshold: tl.float64, factor: tl.float64,
    KIND: tl.constexpr, ACC: tl.constexpr, B_ROWS: tl.constexpr, B_COLS: tl.constexpr,
):  # fmt: skip
    reconstruction_fwd_tiles(
        tl.program_id(0).to(tl.int64), p_x, p_t, p_w, p_value, p_grad, p_partial,
        rows, cols, span, splits, threshold, factor, KIND, ACC, B_ROWS, B_COLS,
    )  # fmt: skip


@triton.jit(do_not_specialize=COUNTS)
def reconstruction_bwd_kernel(
    p_g, p_x, p_t, p_w, p_dx, stride_g: tl.int64,
    rows: tl.int64, cols: tl.int64, span: tl.int64, splits,
    threshold: tl.float64, factor: tl.float64,
    KIND: tl.constexpr, PER_ELEMENT: tl.constexpr,
    ACC: tl.constexpr, B_ROWS: tl.constexpr, B_COLS: tl.constexpr,
):  # fmt: skip
    reconstruction_bwd_tiles(
        tl.program_id(0).to(tl.int64), p_g, None, p_x, p_t, p_w, p_dx, stride_g, 0,
        rows, cols, span, splits, threshold, factor, KIND, PER_ELEMENT, ACC, B_ROWS, B_COLS,
    )  # fmt: skip


@triton.jit(do_not_specialize=COUNTS)
def scale_kernel(
    p_g, p_grad, stride_g: tl.int64, rows: tl.int64, cols: tl.int64, span: tl.int64, splits,
    ACC: tl.constexpr, B_ROWS: tl.constexpr, B_COLS: tl.constexpr,
):  # fmt: skip
    scale_tiles(
        tl.program_id(0).to(tl.int64), p_g, None, p_grad, stride_g, 0,
        rows, cols, span, splits, ACC, B_ROWS, B_COLS,
    )  # fmt: skip


@triton.jit(do_not_specialize=COUNTS)
def kl_fwd_kernel(
    p_mu, p_spread, p_mu2, p_logvar2, p_value, p_partial,
    stride_mu: tl.int64, stride_spread: tl.int64, stride_mu2: tl.int64, stride_logvar2: tl.int64,
    rows: tl.int64, cols: tl.int64, span: tl.int64, splits,
    lo: tl.float64, hi: tl.float64, log_eps: tl.float64, factor: tl.float64,
    FORM: tl.constexpr, PER_ROW: tl.constexpr, ACC: tl.constexpr, B_ROWS: tl.constexpr, B_COLS: tl.constexpr,
):  # fmt: skip
    kl_fwd_tiles(
        tl.program_id(0).to(tl.int64), p_mu, p_spread, p_mu2, p_logvar2, p_value, p_partial,
        stride_mu, stride_spread, stride_mu2, stride_logvar2, rows, cols, span, splits,
        lo, hi, log_eps, factor, FORM, PER_ROW, ACC, B_ROWS, B_COLS,
    )  # fmt: skip


@triton.jit(do_not_specialize=COUNTS)
def kl_columns_kernel(
    p_mu, p_spread, p_mu2, p_logvar2, p_partial,
    stride_mu: tl.int64, stride_spread: tl.int64, stride_mu2: tl.int64, stride_logvar2: tl.int64,
    rows: tl.int64, cols: tl.int64, span: tl.int64,
    lo: tl.float64, hi: tl.float64, log_eps: tl.float64, factor: tl.float64,
    FORM: tl.constexpr, ACC: tl.constexpr, B_ROWS: tl.constexpr, B_COLS: tl.constexpr,
):  # fmt: skip
    """Sums over `span` rows of each column, to p_partial[split, column]."""
    i_col = tl.program_id(0).to(tl.int64) * B_COLS
    i_split = tl.program_id(1).to(tl.int64)
    lo = scalar(lo, ACC)
    hi = scalar(hi, ACC)
    log_eps = scalar(log_eps, ACC)
    sums = tl.zeros((B_ROWS, B_COLS), ACC)
    for i_row in range(i_split * span, tl.minimum(i_split * span + span, rows), B_ROWS):
        m = tile_mask(i_row + tl.arange(0, B_ROWS) < rows, i_col, cols, B_COLS)
        mu, spread, mu2, logvar2 = load_latents(
            p_mu, p_spread, p_mu2, p_logvar2, i_row, i_col, m,
            stride_mu, stride_spread, stride_mu2, stride_logvar2, ACC, B_ROWS, B_COLS,
        )  # fmt: skip
        kl = kl_value(mu, spread, mu2, logvar2, lo, hi, log_eps, FORM, p_mu2 is not None)
        sums += tl.where(m, kl, 0.0)
    o_col = i_col + tl.arange(0, B_COLS)
    store(p_partial, i_split * cols + o_col, tl.sum(sums, axis=0) * scalar(factor, ACC), o_col < cols)


@triton.jit(do_not_specialize=COUNTS)
def kl_bwd_kernel(
    p_g, p_mu, p_spread, p_mu2, p_logvar2, p_dmu, p_dspread, p_dmu2, p_dlogvar2, stride_g: tl.int64,
    stride_mu: tl.int64, stride_spread: tl.int64, stride_mu2: tl.int64, stride_logvar2: tl.int64,
    rows: tl.int64, cols: tl.int64, span: tl.int64, splits,
    lo: tl.float64, hi: tl.float64, log_eps: tl.float64, factor: tl.float64,
    FORM: tl.constexpr, G_LAYOUT: tl.constexpr, ACC: tl.constexpr, B_ROWS: tl.constexpr, B_COLS: tl.constexpr,
):  # fmt: skip
    kl_bwd_tiles(
        tl.program_id(0).to(tl.int64), p_g, None, 1.0, p_mu, p_spread, p_mu2, p_logvar2,
        p_dmu, p_dspread, p_dmu2, p_dlogvar2, stride_g, 0,
        stride_mu, stride_spread, stride_mu2, stride_logvar2, rows, cols, span, splits,
        lo, hi, log_eps, factor, FORM, G_LAYOUT, ACC, B_ROWS, B_COLS,
    )  # fmt: skip


@triton.jit
def beta_of(p_beta, beta_value, ACC: tl.constexpr):
    if p_beta is not None:
        return tl.load(p_beta).to(ACC)
    return scalar(beta_value, ACC)


@triton.jit(do_not_specialize=COUNTS)
def vae_fwd_kernel(
    p_x, p_t, p_w, p_grad, p_recon_partial, p_mu, p_logvar, p_kl_partial,
    stride_mu: tl.int64, stride_logvar: tl.int64,
    x_programs: tl.int64, x_rows: tl.int64, x_cols: tl.int64, x_span: tl.int64, x_splits,
    kl_rows: tl.int64, kl_cols: tl.int64, kl_span: tl.int64, kl_splits,
    recon_factor: tl.float64, kl_factor: tl.float64, lo: tl.float64, hi: tl.float64,
    KIND: tl.constexpr, PER_ROW: tl.constexpr, ACC: tl.constexpr,
    X_ROWS: tl.constexpr, X_COLS: tl.constexpr, KL_ROWS: tl.constexpr, KL_COLS: tl.constexpr,
):  # fmt: skip
    """Programs below x_programs sum the reconstruction loss, the others the KL."""
    pid = tl.program_id(0).to(tl.int64)
    if pid < x_programs:
        reconstruction_fwd_tiles(
            pid, p_x, p_t, p_w, None, p_grad, p_recon_partial, x_rows, x_cols, x_span, x_splits,
            1.0, recon_factor, KIND, ACC, X_ROWS, X_COLS,
        )  # fmt: skip
    else:
        kl_fwd_tiles(
            pid - x_programs, p_mu, p_logvar, None, None, None, p_kl_partial, stride_mu, stride_logvar, 0, 0,
            kl_rows, kl_cols, kl_span, kl_splits, lo, hi, 0.0, kl_factor, 0, PER_ROW, ACC, KL_ROWS, KL_COLS,
        )  # fmt: skip


@triton.jit(do_not_specialize=COUNTS)
def vae_sum_kernel(
    p_recon_partial, p_kl_partial, p_beta, p_loss, p_recon, p_kl,
    rows: tl.int64, recon_count: tl.int64, kl_count: tl.int64, beta_value: tl.float64,
    ACC: tl.constexpr, B_ROWS: tl.constexpr, B_COLS: tl.constexpr,
):  # fmt: skip
    """The second stage of vae_fwd_kernel, and loss = reconstruction + beta * kl."""
    i_row = tl.program_id(0).to(tl.int64) * B_ROWS
    o_row = i_row + tl.arange(0, B_ROWS)
    m = o_row < rows
    recon = row_sums(p_recon_partial, i_row, m, recon_count, recon_count, 1, ACC, B_ROWS, B_COLS)
    kl = row_sums(p_kl_partial, i_row, m, kl_count, kl_count, 1, ACC, B_ROWS, B_COLS)
    tl.store(p_recon + o_row, recon, mask=m)
    tl.store(p_kl + o_row, kl, mask=m)
    tl.store(p_loss + o_row, recon + kl * beta_of(p_beta, beta_value, ACC), mask=m)


@triton.jit(do_not_specialize=COUNTS)
def vae_bwd_kernel(
    p_g_loss, p_g_recon, p_g_kl, stride_g_loss: tl.int64, stride_g_recon: tl.int64, stride_g_kl: tl.int64,
    p_x, p_t, p_w, p_dx, p_mu, p_logvar, p_dmu, p_dlogvar, p_beta,
    stride_mu: tl.int64, stride_logvar: tl.int64,
    x_programs: tl.int64, x_rows: tl.int64, x_cols: tl.int64, x_span: tl.int64, x_splits,
    kl_rows: tl.int64, kl_cols: tl.int64, kl_span: tl.int64, kl_splits,
    beta_value: tl.float64, recon_factor: tl.float64, kl_factor: tl.float64, lo: tl.float64, hi: tl.float64,
    KIND: tl.constexpr, STORED: tl.constexpr, ACC: tl.constexpr,
    X_ROWS: tl.constexpr, X_COLS: tl.constexpr, KL_ROWS: tl.constexpr, KL_COLS: tl.constexpr,
):  # fmt: skip
    """STORED: p_dx holds the forward's gradient and is scaled; else it is computed from p_x, p_t, p_w."""
    pid = tl.program_id(0).to(tl.int64)
    if pid < x_programs:
        if STORED:
            scale_tiles(
                pid, p_g_loss, p_g_recon, p_dx, stride_g_loss, stride_g_recon,
                x_rows, x_cols, x_span, x_splits, ACC, X_ROWS, X_COLS,
            )  # fmt: skip
        else:
            reconstruction_bwd_tiles(
                pid, p_g_loss, p_g_recon, p_x, p_t, p_w, p_dx, stride_g_loss, stride_g_recon,
                x_rows, x_cols, x_span, x_splits, 1.0, recon_factor, KIND, False, ACC, X_ROWS, X_COLS,
            )  # fmt: skip
    else:
        kl_bwd_tiles(
            pid - x_programs, p_g_loss, p_g_kl, beta_of(p_beta, beta_value, ACC),
            p_mu, p_logvar, None, None, p_dmu, p_dlogvar, None, None, stride_g_loss, stride_g_kl,
            stride_mu, stride_logvar, 0, 0, kl_rows, kl_cols, kl_span, kl_splits,
            lo, hi, 0.0, kl_factor, 0, ROWS, ACC, KL_ROWS, KL_COLS,
        )  # fmt: skip
