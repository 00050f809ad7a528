"""What one program of the loss kernels does: its rows, and its span of their columns, tile by tile."""

import triton
import triton.language as tl

from .formulas import kl_slopes, kl_value, reconstruction, reconstruction_slope
from .tiles import load, program_range, scalar, store, store_partial, tile_mask, tile_offsets, upstream

ELEMENTS = tl.constexpr(0)
COLUMNS = tl.constexpr(3)


@triton.jit
def reconstruction_fwd_tiles(
    pid, p_x, p_t, p_w, p_value, p_grad, p_partial, rows, cols, span, splits, threshold, factor,
    KIND: tl.constexpr, acc: tl.constexpr, b_rows: tl.constexpr, b_cols: tl.constexpr,
):  # fmt: skip
    """Loss and, with p_grad, gradient in one pass; the loss per element (p_value) or summed (p_partial)."""
    i_row, m_row, i_start, i_stop = program_range(pid, rows, cols, span, splits, b_rows)
    threshold = scalar(threshold, acc)
    factor = scalar(factor, acc)
    sums = tl.zeros((b_rows, b_cols), acc)
    for i_col in range(i_start, i_stop, b_cols):
        m = tile_mask(m_row, i_col, cols, b_cols)
        o = tile_offsets(i_row, i_col, cols, b_rows, b_cols)
        loss, slope = reconstruction(load(p_x, o, m, acc), load(p_t, o, m, acc), threshold, KIND)
        if p_w is not None:
            w = load(p_w, o, m, acc)
            loss *= w
            slope *= w
        if p_grad is not None:
            store(p_grad, o, slope * factor, m)
        if p_value is not None:
            store(p_value, o, loss * factor, m)
        else:
            sums += tl.where(m, loss, 0.0)
    if p_partial is not None:
        sums = tl.sum(sums, axis=1) * factor
        store_partial(p_partial, sums, pid, i_row, m_row, splits, True, b_rows)


@triton.jit
def reconstruction_bwd_tiles(
    pid, p_g, p_g2, p_x, p_t, p_w, p_dx, stride_g, stride_g2, rows, cols, span, splits, threshold, factor,
    KIND: tl.constexpr, PER_ELEMENT: tl.constexpr,
    acc: tl.constexpr, b_rows: tl.constexpr, b_cols: tl.constexpr,
):  # fmt: skip
    """(g + g2) * factor * weight * slope; PER_ELEMENT: g has one value per element."""
    i_row, m_row, i_start, i_stop = program_range(pid, rows, cols, span, splits, b_rows)
    threshold = scalar(threshold, acc)
    g = scalar(factor, acc)
    if not PER_ELEMENT:
        g = upstream(p_g, p_g2, 1.0, i_row, m_row, stride_g, stride_g2, acc, b_rows) * g
    for i_col in range(i_start, i_stop, b_cols):
        m = tile_mask(m_row, i_col, cols, b_cols)
        o = tile_offsets(i_row, i_col, cols, b_rows, b_cols)
        slope = reconstruction_slope(load(p_x, o, m, acc), load(p_t, o, m, acc), threshold, KIND)
        if p_w is not None:
            slope *= load(p_w, o, m, acc)
        if PER_ELEMENT:
            slope *= load(p_g, o, m, acc)
        store(p_dx, o, slope * g, m)


@triton.jit
def scale_tiles(
    pid, p_g, p_g2, p_grad, stride_g, stride_g2, rows, cols, span, splits,
    acc: tl.constexpr, b_rows: tl.constexpr, b_cols: tl.constexpr,
):  # fmt: skip
    """grad *= g + g2, without touching the rows where that is exactly 1."""
    i_row, m_row, i_start, i_stop = program_range(pid, rows, cols, span, splits, b_rows)
    g = upstream(p_g, p_g2, 1.0, i_row, m_row, stride_g, stride_g2, acc, b_rows)
    m_row &= tl.reshape(g, (b_rows,)) != 1.0
    if tl.max(m_row.to(tl.int32), axis=0) != 0:
        for i_col in range(i_start, i_stop, b_cols):
            m = tile_mask(m_row, i_col, cols, b_cols)
            o = tile_offsets(i_row, i_col, cols, b_rows, b_cols)
            store(p_grad, o, load(p_grad, o, m, acc) * g, m)


@triton.jit
def load_latents(
    p_mu, p_spread, p_mu2, p_logvar2, i_row, i_col, m, stride_mu, stride_spread, stride_mu2, stride_logvar2,
    acc: tl.constexpr, b_rows: tl.constexpr, b_cols: tl.constexpr,
):  # fmt: skip
    """The four operands; without another Gaussian the last two repeat the first, and are not used."""
    mu = load(p_mu, tile_offsets(i_row, i_col, stride_mu, b_rows, b_cols), m, acc)
    spread = load(p_spread, tile_offsets(i_row, i_col, stride_spread, b_rows, b_cols), m, acc)
    mu2 = mu
    logvar2 = mu
    if p_mu2 is not None:
        mu2 = load(p_mu2, tile_offsets(i_row, i_col, stride_mu2, b_rows, b_cols), m, acc)
        logvar2 = load(p_logvar2, tile_offsets(i_row, i_col, stride_logvar2, b_rows, b_cols), m, acc)
    return mu, spread, mu2, logvar2


@triton.jit
def kl_fwd_tiles(
    pid, p_mu, p_spread, p_mu2, p_logvar2, p_value, p_partial,
    stride_mu, stride_spread, stride_mu2, stride_logvar2, rows, cols, span, splits, lo, hi, log_eps, factor,
    FORM: tl.constexpr, PER_ROW: tl.constexpr, acc: tl.constexpr, b_rows: tl.constexpr, b_cols: tl.constexpr,
):  # fmt: skip
    """KL per element (p_value) or summed (p_partial)."""
    i_row, m_row, i_start, i_stop = program_range(pid, rows, cols, span, splits, b_rows)
    lo = scalar(lo, acc)
    hi = scalar(hi, acc)
    log_eps = scalar(log_eps, acc)
    factor = scalar(factor, acc)
    sums = tl.zeros((b_rows, b_cols), acc)
    for i_col in range(i_start, i_stop, b_cols):
        m = tile_mask(m_row, i_col, cols, b_cols)
        mu, spread, mu2, logvar2 = load_latents(
            p_mu, p_spread, p_mu2, p_logvar2, i_row, i_col, m,
            stride_mu, stride_spread, stride_mu2, stride_logvar2, acc, b_rows, b_cols,
        )  # fmt: skip
        kl = kl_value(mu, spread, mu2, logvar2, lo, hi, log_eps, FORM, p_mu2 is not None)
        if p_value is not None:
            store(p_value, tile_offsets(i_row, i_col, cols, b_rows, b_cols), kl * factor, m)
        else:
            sums += tl.where(m, kl, 0.0)
    if p_partial is not None:
        store_partial(p_partial, tl.sum(sums, axis=1) * factor, pid, i_row, m_row, splits, PER_ROW, b_rows)


@triton.jit
def kl_bwd_tiles(
    pid, p_g, p_g2, g_scale, p_mu, p_spread, p_mu2, p_logvar2, p_dmu, p_dspread, p_dmu2, p_dlogvar2,
    stride_g, stride_g2, stride_mu, stride_spread, stride_mu2, stride_logvar2, rows, cols, span, splits,
    lo, hi, log_eps, factor,
    FORM: tl.constexpr, G_LAYOUT: tl.constexpr, acc: tl.constexpr, b_rows: tl.constexpr, b_cols: tl.constexpr,
):  # fmt: skip
    """(g_scale * g + g2) * factor * the derivatives; g per ELEMENTS, COLUMNS or rows (also one for all)."""
    i_row, m_row, i_start, i_stop = program_range(pid, rows, cols, span, splits, b_rows)
    lo = scalar(lo, acc)
    hi = scalar(hi, acc)
    log_eps = scalar(log_eps, acc)
    factor = scalar(factor, acc)
    if G_LAYOUT != ELEMENTS and G_LAYOUT != COLUMNS:
        g_row = upstream(p_g, p_g2, g_scale, i_row, m_row, stride_g, stride_g2, acc, b_rows)
    for i_col in range(i_start, i_stop, b_cols):
        m = tile_mask(m_row, i_col, cols, b_cols)
        o = tile_offsets(i_row, i_col, cols, b_rows, b_cols)
        mu, spread, mu2, logvar2 = load_latents(
            p_mu, p_spread, p_mu2, p_logvar2, i_row, i_col, m,
            stride_mu, stride_spread, stride_mu2, stride_logvar2, acc, b_rows, b_cols,
        )  # fmt: skip
        at_mu, at_spread, at_logvar2 = kl_slopes(mu, spread, mu2, logvar2, lo, hi, log_eps, FORM, p_mu2 is not None)
        if G_LAYOUT == ELEMENTS:
            g = load(p_g, o, m, acc) * factor
        elif G_LAYOUT == COLUMNS:
            o_col = i_col + tl.arange(0, b_cols)
            g = load(p_g, o_col, o_col < cols, acc)[None, :] * factor
        else:
            g = g_row * factor
        store(p_dmu, o, at_mu * g, m)
        store(p_dspread, o, at_spread * g, m)
        if p_mu2 is not None:
            store(p_dmu2, o, at_mu * -g, m)
            store(p_dlogvar2, o, at_logvar2 * g, m)
