"""The kernels of the sampling family, one per op and pass; reparameterize.py launches them.

Every one goes over its rows, and its span of their columns, tile by tile, as described in tiles.py.
"""

import triton
import triton.language as tl

from .formulas import LOGVAR, STD, clamp, exp, exp_parts
from .philox import normal_tile, seed_of
from .tiles import integer, load, program_range, scalar, store, store_partial, tile_mask, tile_offsets, upstream

# Arguments whose value gains nothing: without this each new seed, offset or batch size could recompile.
NUMBERS = ["seed_value", "offset", "rows", "splits", "stride_g_kl"]


@triton.jit
def noise_tile(
    p_eps, seed, offset, stride_eps, i_row, i_col, cols, m, dtype: tl.constexpr,
    QUADS: tl.constexpr, acc: tl.constexpr, b_rows: tl.constexpr, b_cols: tl.constexpr,
):  # fmt: skip
    """The noise given, or drawn for tensors of dtype."""
    if p_eps is not None:
        return load(p_eps, tile_offsets(i_row, i_col, stride_eps, b_rows, b_cols), m, acc)
    return normal_tile(seed, offset, i_row, i_col, cols, dtype, QUADS, acc, b_rows, b_cols)


@triton.jit
def bounded(logvar, lo, hi, BOUNDED: tl.constexpr):
    if BOUNDED:
        return clamp(logvar, lo, hi)
    return logvar


@triton.jit
def inside_only(slope, logvar, lo, hi, BOUNDED: tl.constexpr):
    """The derivative, 0 where logvar is outside its bounds."""
    if BOUNDED:
        return tl.where((logvar < lo) | (logvar > hi), 0.0, slope)
    return slope


@triton.jit
def sigma_of(spread, lo, hi, dtype: tl.constexpr, FORM: tl.constexpr, BOUNDED: tl.constexpr):
    if FORM == STD:
        return spread
    half = bounded(spread, lo, hi, BOUNDED) * 0.5
    # What the plain exponential loses is far below the last place of a 16-bit result.
    return tl.exp(half) if dtype.primitive_bitwidth == 16 else exp(half)


@triton.jit(do_not_specialize=NUMBERS)
def reparameterize_fwd_kernel(
    p_mu, p_spread, p_eps, p_seed, p_z, p_drawn, seed_value: tl.int64, offset: tl.int64,
    stride_mu: tl.int64, stride_spread: tl.int64, stride_eps: tl.int64,
    rows: tl.int64, cols: tl.int64, span: tl.int64, splits, lo: tl.float64, hi: tl.float64,
    FORM: tl.constexpr, BOUNDED: tl.constexpr, QUADS: tl.constexpr,
    ACC: tl.constexpr, B_ROWS: tl.constexpr, B_COLS: tl.constexpr,
):  # fmt: skip
    """z = mu + sigma * noise, and the noise itself where p_drawn is there."""
    i_row, m_row, i_start, i_stop = program_range(tl.program_id(0).to(tl.int64), rows, cols, span, splits, B_ROWS)
    seed = seed_of(p_seed, seed_value)
    offset = integer(offset)
    lo = scalar(lo, ACC)
    hi = scalar(hi, ACC)
    for i_col in range(i_start, i_stop, B_COLS):
        m = tile_mask(m_row, i_col, cols, B_COLS)
        mu = load(p_mu, tile_offsets(i_row, i_col, stride_mu, B_ROWS, B_COLS), m, ACC)
        spread = load(p_spread, tile_offsets(i_row, i_col, stride_spread, B_ROWS, B_COLS), m, ACC)
        eps = noise_tile(
            p_eps, seed, offset, stride_eps, i_row, i_col, cols, m, p_z.dtype.element_ty, QUADS, ACC, B_ROWS, B_COLS
        )  # fmt: skip
        sigma = sigma_of(spread, lo, hi, p_z.dtype.element_ty, FORM, BOUNDED)
        o = tile_offsets(i_row, i_col, cols, B_ROWS, B_COLS)
        store(p_z, o, mu + sigma * eps, m)
        if p_drawn is not None:
            store(p_drawn, o, eps, m)


@triton.jit(do_not_specialize=NUMBERS)
def reparameterize_bwd_kernel(
    p_g, p_spread, p_eps, p_seed, p_dspread, p_deps, seed_value: tl.int64, offset: tl.int64,
    stride_g: tl.int64, stride_spread: tl.int64, stride_eps: tl.int64,
    rows: tl.int64, cols: tl.int64, span: tl.int64, splits, lo: tl.float64, hi: tl.float64,
    FORM: tl.constexpr, BOUNDED: tl.constexpr, QUADS: tl.constexpr,
    ACC: tl.constexpr, B_ROWS: tl.constexpr, B_COLS: tl.constexpr,
):  # fmt: skip
    """g * noise * d sigma / d spread, and g * sigma where p_deps is there. The first of the STD form needs no
    p_spread."""
    i_row, m_row, i_start, i_stop = program_range(tl.program_id(0).to(tl.int64), rows, cols, span, splits, B_ROWS)
    seed = seed_of(p_seed, seed_value)
    offset = integer(offset)
    lo = scalar(lo, ACC)
    hi = scalar(hi, ACC)
    for i_col in range(i_start, i_stop, B_COLS):
        m = tile_mask(m_row, i_col, cols, B_COLS)
        o = tile_offsets(i_row, i_col, cols, B_ROWS, B_COLS)
        g = load(p_g, tile_offsets(i_row, i_col, stride_g, B_ROWS, B_COLS), m, ACC)
        eps = noise_tile(
            p_eps, seed, offset, stride_eps, i_row, i_col, cols, m, p_g.dtype.element_ty, QUADS, ACC, B_ROWS, B_COLS
        )  # fmt: skip
        slope = g * eps
        if p_spread is not None:
            spread = load(p_spread, tile_offsets(i_row, i_col, stride_spread, B_ROWS, B_COLS), m, ACC)
            sigma = sigma_of(spread, lo, hi, p_g.dtype.element_ty, FORM, BOUNDED)
            if FORM == LOGVAR:
                slope = inside_only(slope * sigma * 0.5, spread, lo, hi, BOUNDED)
            if p_deps is not None:
                store(p_deps, o, g * sigma, m)
        store(p_dspread, o, slope, m)


@triton.jit(do_not_specialize=NUMBERS)
def reparameterize_kl_fwd_kernel(
    p_mu, p_logvar, p_eps, p_seed, p_z, p_value, p_partial, seed_value: tl.int64, offset: tl.int64,
    stride_mu: tl.int64, stride_logvar: tl.int64, stride_eps: tl.int64,
    rows: tl.int64, cols: tl.int64, span: tl.int64, splits, lo: tl.float64, hi: tl.float64, factor: tl.float64,
    PER_ROW: tl.constexpr, BOUNDED: tl.constexpr, QUADS: tl.constexpr,
    ACC: tl.constexpr, B_ROWS: tl.constexpr, B_COLS: tl.constexpr,
):  # fmt: skip
    """z, and the KL per element (p_value) or summed (p_partial)."""
    pid = tl.program_id(0).to(tl.int64)
    i_row, m_row, i_start, i_stop = program_range(pid, rows, cols, span, splits, B_ROWS)
    seed = seed_of(p_seed, seed_value)
    offset = integer(offset)
    lo = scalar(lo, ACC)
    hi = scalar(hi, ACC)
    factor = scalar(factor, ACC)
    sums = tl.zeros((B_ROWS, B_COLS), ACC)
    for i_col in range(i_start, i_stop, B_COLS):
        m = tile_mask(m_row, i_col, cols, B_COLS)
        mu = load(p_mu, tile_offsets(i_row, i_col, stride_mu, B_ROWS, B_COLS), m, ACC)
        logvar = load(p_logvar, tile_offsets(i_row, i_col, stride_logvar, B_ROWS, B_COLS), m, ACC)
        eps = noise_tile(
            p_eps, seed, offset, stride_eps, i_row, i_col, cols, m, p_z.dtype.element_ty, QUADS, ACC, B_ROWS, B_COLS
        )  # fmt: skip
        # With h = expm1(l / 2): exp(l) - 1 - l = h^2 + 2 (h - l / 2), which keeps its digits at small l.
        sigma, h, rest = exp_parts(bounded(logvar, lo, hi, BOUNDED) * 0.5)
        o = tile_offsets(i_row, i_col, cols, B_ROWS, B_COLS)
        store(p_z, o, mu + sigma * eps, m)
        kl = (h * h + mu * mu) * 0.5 + rest
        if p_value is not None:
            store(p_value, o, kl * factor, m)
        else:
            sums += tl.where(m, kl, 0.0)
    if p_partial is not None:
        store_partial(p_partial, tl.sum(sums, axis=1) * factor, pid, i_row, m_row, splits, PER_ROW, B_ROWS)


@triton.jit(do_not_specialize=NUMBERS)
def reparameterize_kl_bwd_kernel(
    p_g_z, p_g_kl, p_mu, p_logvar, p_eps, p_seed, p_dmu, p_dlogvar, p_deps, seed_value: tl.int64, offset: tl.int64,
    stride_g_kl: tl.int64, stride_g_z: tl.int64, stride_mu: tl.int64, stride_logvar: tl.int64, stride_eps: tl.int64,
    rows: tl.int64, cols: tl.int64, span: tl.int64, splits, lo: tl.float64, hi: tl.float64, factor: tl.float64,
    PER_ELEMENT: tl.constexpr, BOUNDED: tl.constexpr, QUADS: tl.constexpr,
    ACC: tl.constexpr, B_ROWS: tl.constexpr, B_COLS: tl.constexpr,
):  # fmt: skip
    """The gradients of both results; one that is not there (None) adds nothing. PER_ELEMENT: g_kl has one value
    per element, else per row, or one for all."""
    i_row, m_row, i_start, i_stop = program_range(tl.program_id(0).to(tl.int64), rows, cols, span, splits, B_ROWS)
    seed = seed_of(p_seed, seed_value)
    offset = integer(offset)
    lo = scalar(lo, ACC)
    hi = scalar(hi, ACC)
    factor = scalar(factor, ACC)
    if not PER_ELEMENT:
        g_row = upstream(p_g_kl, None, 1.0, i_row, m_row, stride_g_kl, 0, ACC, B_ROWS)
    for i_col in range(i_start, i_stop, B_COLS):
        m = tile_mask(m_row, i_col, cols, B_COLS)
        o = tile_offsets(i_row, i_col, cols, B_ROWS, B_COLS)
        logvar = load(p_logvar, tile_offsets(i_row, i_col, stride_logvar, B_ROWS, B_COLS), m, ACC)
        sigma, h, _ = exp_parts(bounded(logvar, lo, hi, BOUNDED) * 0.5)
        d_mu = tl.zeros((B_ROWS, B_COLS), ACC)
        d_logvar = tl.zeros((B_ROWS, B_COLS), ACC)
        g_z = tl.zeros((B_ROWS, B_COLS), ACC)
        if p_g_z is not None:
            g_z = load(p_g_z, tile_offsets(i_row, i_col, stride_g_z, B_ROWS, B_COLS), m, ACC)
            eps = noise_tile(
                p_eps, seed, offset, stride_eps, i_row, i_col, cols, m, p_dmu.dtype.element_ty,
                QUADS, ACC, B_ROWS, B_COLS,
            )  # fmt: skip
            d_mu += g_z
            d_logvar += g_z * eps * sigma
        if p_g_kl is not None:
            g_kl = (load(p_g_kl, o, m, ACC) if PER_ELEMENT else g_row) * factor
            mu = load(p_mu, tile_offsets(i_row, i_col, stride_mu, B_ROWS, B_COLS), m, ACC)
            d_mu += g_kl * mu
            d_logvar += g_kl * (h * (h + 2.0))
        store(p_dmu, o, d_mu, m)
        store(p_dlogvar, o, inside_only(d_logvar * 0.5, logvar, lo, hi, BOUNDED), m)
        if p_deps is not None:
            store(p_deps, o, g_z * sigma, m)
