"""The kernels of batch normalisation with an activation; norm_act.py launches them, norm_act_tiles.py says what rows,
channels, cols and steps are."""

import triton
import triton.language as tl

from .activations import activate, gradient_before
from .norm_act_tiles import affine, by_channel, load_channels, store_channels, tile_of, walk
from .tiles import integer, load, scalar, store, tile_mask, tile_offsets

# Arguments whose divisibility or value 1 gains nothing: without this a last, smaller batch would recompile.
COUNTS = ["rows", "steps", "count"]


@triton.jit
def finite_or_zero(x):
    """What sums may be taken relative to: an infinity must reach a mean as itself, not as inf - inf."""
    return tl.where(tl.abs(x) < float("inf"), x, 0.0)


@triton.jit
def tile_mean(
    p_x, i_tile, i_block, rows, cols, channels,
    acc: tl.constexpr, COLUMNS: tl.constexpr, b_rows: tl.constexpr, b_cols: tl.constexpr,
):  # fmt: skip
    o, m, held = tile_of(i_tile, i_block, rows, cols, channels, COLUMNS, b_rows, b_cols)
    return finite_or_zero(by_channel(load(p_x, o, m, acc), COLUMNS) / held.to(acc))


@triton.jit
def inverse_root(x):
    if x.dtype == tl.float64:
        return 1.0 / tl.sqrt(x)
    else:
        return tl.div_rn(tl.full(x.shape, 1.0, tl.float32), tl.sqrt_rn(x))


@triton.jit(do_not_specialize=COUNTS)
def stats_kernel(
    p_x, p_counts, p_means, p_m2s, p_offset, rows: tl.int64, cols: tl.int64, channels: tl.int64, steps: tl.int64,
    COLUMNS: tl.constexpr, ACC: tl.constexpr, B_ROWS: tl.constexpr, B_COLS: tl.constexpr,
):  # fmt: skip
    """Each program's count [splits], mean as a distance from that of the channel's first row, which goes to p_offset
    [channels], and sum of squared deviations [splits, channels].

    A program adds up distances from the mean of its first tile. However far that is from the others, of T tiles the sum
    of squares is at most about T times the result, so that no more than a factor of T is lost where the two cancel. And
    without the offset the means' own rounding would show where they are large.
    """
    i_block = tl.program_id(0).to(tl.int64)
    i_split = tl.program_id(1).to(tl.int64)
    i_start, i_stop = walk(i_split, rows, cols, steps, COLUMNS, B_ROWS, B_COLS)
    start = tile_mean(p_x, i_start, i_block, rows, cols, channels, ACC, COLUMNS, B_ROWS, B_COLS)
    count = integer(0)
    sums = tl.zeros((B_ROWS, B_COLS), ACC)
    squares = tl.zeros((B_ROWS, B_COLS), ACC)
    for i_tile in range(i_start, i_stop):
        o, m, held = tile_of(i_tile, i_block, rows, cols, channels, COLUMNS, B_ROWS, B_COLS)
        d = tl.where(m, load(p_x, o, m, ACC) - start, 0.0)
        count += held
        sums += d
        squares += d * d
    n = count.to(ACC)
    offset = tile_mean(p_x, integer(0), i_block, integer(1), cols, channels, ACC, COLUMNS, B_ROWS, B_COLS)
    shift = by_channel(sums, COLUMNS) / n
    m2 = by_channel(squares, COLUMNS) - shift * shift * n
    o_split = i_split * (cols if COLUMNS else channels)
    store_channels(p_means + o_split, i_block, cols, start - offset + shift, COLUMNS, B_COLS)
    store_channels(p_m2s + o_split, i_block, cols, tl.where(m2 < 0, 0.0, m2), COLUMNS, B_COLS)
    if i_block == 0:
        tl.store(p_counts + i_split, n)
    if i_split == 0:
        store_channels(p_offset, i_block, cols, offset, COLUMNS, B_COLS)


@triton.jit(do_not_specialize=COUNTS)
def moments_kernel(
    p_counts, p_means, p_m2s, p_offset, p_mean, p_invstd, p_var, count: tl.int64, cols: tl.int64, eps: tl.float64,
    ACC: tl.constexpr, B_ROWS: tl.constexpr, B_COLS: tl.constexpr,
):  # fmt: skip
    """p_means, distances from p_offset [cols], and p_m2s [count, cols] merged over count, always in the same order."""
    i_col = tl.program_id(0).to(tl.int64) * B_COLS
    o_col = i_col + tl.arange(0, B_COLS)
    start = finite_or_zero(load(p_means, o_col, o_col < cols, ACC))[None, :]
    n = tl.zeros((B_ROWS,), ACC)
    sums = tl.zeros((B_ROWS, B_COLS), ACC)
    for i_row in range(0, count, B_ROWS):
        o_row = i_row + tl.arange(0, B_ROWS)
        m = tile_mask(o_row < count, i_col, cols, B_COLS)
        held = load(p_counts, o_row, o_row < count, ACC)
        d = load(p_means, tile_offsets(i_row, i_col, cols, B_ROWS, B_COLS), m, ACC) - start
        n += held
        sums += tl.where(m & (held > 0)[:, None], d * held[:, None], 0.0)
    n = tl.sum(n)
    mean = start + (tl.sum(sums, axis=0) / n)[None, :]
    m2 = tl.zeros((B_ROWS, B_COLS), ACC)
    for i_row in range(0, count, B_ROWS):
        o_row = i_row + tl.arange(0, B_ROWS)
        m = tile_mask(o_row < count, i_col, cols, B_COLS)
        o = tile_offsets(i_row, i_col, cols, B_ROWS, B_COLS)
        held = load(p_counts, o_row, o_row < count, ACC)[:, None]
        d = load(p_means, o, m, ACC) - mean
        m2 += tl.where(m & (held > 0), d * d * held + load(p_m2s, o, m, ACC), 0.0)
    m2 = tl.sum(m2, axis=0)
    m_col = o_col < cols
    if p_offset is not None:
        mean += load(p_offset, o_col, m_col, ACC)[None, :]
    store(p_mean, o_col[None, :], mean, m_col[None, :])
    store(p_invstd, o_col, inverse_root(m2 / n + scalar(eps, ACC)), m_col)
    store(p_var, o_col, m2 / (n - 1.0), m_col)


@triton.jit
def running_kernel(
    p_running_mean, p_running_var, p_mean, p_invstd, p_var, cols: tl.int64, eps: tl.float64,
    ACC: tl.constexpr, B_COLS: tl.constexpr,
):  # fmt: skip
    """The statistics of inference in ACC."""
    o = tl.program_id(0).to(tl.int64) * B_COLS + tl.arange(0, B_COLS)
    m = o < cols
    var = load(p_running_var, o, m, ACC)
    store(p_mean, o, load(p_running_mean, o, m, ACC), m)
    store(p_invstd, o, inverse_root(var + scalar(eps, ACC)), m)
    store(p_var, o, var, m)


@triton.jit(do_not_specialize=COUNTS)
def norm_act_kernel(
    p_x, p_weight, p_bias, p_mean, p_invstd, p_out,
    rows: tl.int64, cols: tl.int64, channels: tl.int64, steps: tl.int64, slope: tl.float64,
    ACTIVATION: tl.constexpr, COLUMNS: tl.constexpr, ACC: tl.constexpr, B_ROWS: tl.constexpr, B_COLS: tl.constexpr,
):  # fmt: skip
    """activation((x - mean) * invstd * weight + bias)."""
    i_block = tl.program_id(0).to(tl.int64)
    # Last tiles first: those that the pass for the statistics read last may still be cached.
    i_split = (tl.num_programs(1) - 1 - tl.program_id(1)).to(tl.int64)
    slope = scalar(slope, ACC)
    mean, _invstd, scale, bias = affine(p_weight, p_bias, p_mean, p_invstd, i_block, cols, ACC, COLUMNS, B_COLS)
    i_start, i_stop = walk(i_split, rows, cols, steps, COLUMNS, B_ROWS, B_COLS)
    for i_tile in range(i_start, i_stop):
        o, m, _held = tile_of(i_tile, i_block, rows, cols, channels, COLUMNS, B_ROWS, B_COLS)
        z = (load(p_x, o, m, ACC) - mean) * scale + bias
        store(p_out, o, activate(z, slope, ACTIVATION), m)


@triton.jit(do_not_specialize=COUNTS)
def norm_act_bwd_kernel(
    p_g, p_x, p_weight, p_bias, p_mean, p_invstd, p_sums, p_dx, p_partial,
    rows: tl.int64, cols: tl.int64, channels: tl.int64, steps: tl.int64, inverse_count: tl.float64, slope: tl.float64,
    ACTIVATION: tl.constexpr, COLUMNS: tl.constexpr, ACC: tl.constexpr, B_ROWS: tl.constexpr, B_COLS: tl.constexpr,
):  # fmt: skip
    """With d = g * act'(z): d_x, and with p_partial [splits, 2, channels] each program's sums of d and d * xhat. p_sums
    [2, channels] are those of all elements, by which d_x is that in training; inverse_count is 1 / count."""
    i_block = tl.program_id(0).to(tl.int64)
    i_split = tl.program_id(1).to(tl.int64)
    all_channels = cols if COLUMNS else channels
    slope = scalar(slope, ACC)
    mean, invstd, scale, bias = affine(p_weight, p_bias, p_mean, p_invstd, i_block, cols, ACC, COLUMNS, B_COLS)
    if p_sums is not None:
        # Last tiles first, as in the forward.
        i_split = tl.num_programs(1) - 1 - i_split
        share = scalar(inverse_count, ACC)
        mean_d = load_channels(p_sums, i_block, cols, ACC, COLUMNS, B_COLS) * share
        slope_d = load_channels(p_sums + all_channels, i_block, cols, ACC, COLUMNS, B_COLS) * share * invstd
    sums = tl.zeros((B_ROWS, B_COLS), ACC)
    products = tl.zeros((B_ROWS, B_COLS), ACC)
    i_start, i_stop = walk(i_split, rows, cols, steps, COLUMNS, B_ROWS, B_COLS)
    for i_tile in range(i_start, i_stop):
        o, m, _held = tile_of(i_tile, i_block, rows, cols, channels, COLUMNS, B_ROWS, B_COLS)
        centred = load(p_x, o, m, ACC) - mean
        d = gradient_before(load(p_g, o, m, ACC), centred * scale + bias, slope, ACTIVATION)
        if p_partial is not None:
            sums += tl.where(m, d, 0.0)
            products += tl.where(m, d * centred, 0.0)
        if p_dx is not None:
            if p_sums is not None:
                d = d - mean_d - centred * slope_d
            store(p_dx, o, d * scale, m)
    if p_partial is not None:
        p_partial += i_split * 2 * all_channels
        store_channels(p_partial, i_block, cols, by_channel(sums, COLUMNS), COLUMNS, B_COLS)
        products = by_channel(products, COLUMNS) * invstd
        store_channels(p_partial + all_channels, i_block, cols, products, COLUMNS, B_COLS)


@triton.jit(do_not_specialize=COUNTS)
def norm_sums_kernel(
    p_partial, p_sums, p_d_bias, p_d_weight, count: tl.int64, cols: tl.int64,
    ACC: tl.constexpr, B_ROWS: tl.constexpr, B_COLS: tl.constexpr,
):  # fmt: skip
    """p_partial [count, 2 * cols] summed over count, always in the same order: to p_sums, and its halves to the
    gradients in their dtypes."""
    i_col = tl.program_id(0).to(tl.int64) * B_COLS
    o_col = i_col + tl.arange(0, B_COLS)
    sums = tl.zeros((B_ROWS, B_COLS), ACC)
    for i_row in range(0, count, B_ROWS):
        m = tile_mask(i_row + tl.arange(0, B_ROWS) < count, i_col, cols * 2, B_COLS)
        sums += load(p_partial, tile_offsets(i_row, i_col, cols * 2, B_ROWS, B_COLS), m, ACC)
    total = tl.sum(sums, axis=0)
    if p_sums is not None:
        store(p_sums, o_col, total, o_col < cols * 2)
    if p_d_bias is not None:
        store(p_d_bias, o_col, total, o_col < cols)
    if p_d_weight is not None:
        store(p_d_weight, o_col - cols, total, (o_col >= cols) & (o_col < cols * 2))
