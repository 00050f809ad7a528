"""The kernels of the pointwise pass, and the second stage of sums by column; bias_act.py launches them."""

import triton
import triton.language as tl

from .activations import activate, activation_gradient
from .tiles import load, scalar, store, tile_mask, tile_offsets

# Arguments whose divisibility or value 1 gains nothing: without this a last, smaller batch would recompile.
COUNTS = ["rows", "steps", "count"]


@triton.jit(do_not_specialize=COUNTS)
def bias_act_kernel(
    p_y, p_bias, rows: tl.int64, cols: tl.int64, span: tl.int64, channels: tl.int32, slope: tl.float64,
    ACTIVATION: tl.constexpr, COLUMNS: tl.constexpr,
    ACC: tl.constexpr, B_ROWS: tl.constexpr, B_COLS: tl.constexpr,
):  # fmt: skip
    """In place over y as [rows, cols]. COLUMNS: a column is a channel; else a row belongs to the channel
    row % channels."""
    i_row = tl.program_id(0).to(tl.int64) * B_ROWS
    m_row = i_row + tl.arange(0, B_ROWS) < rows
    i_start = tl.program_id(1) * span
    slope = scalar(slope, ACC)
    if p_bias is not None and not COLUMNS:
        o_channel = ((i_row % channels).to(tl.int32) + tl.arange(0, B_ROWS)) % channels
        bias = load(p_bias, o_channel, m_row, ACC)[:, None]
    for i_col in range(i_start, tl.minimum(i_start + span, cols), B_COLS):
        m = tile_mask(m_row, i_col, cols, B_COLS)
        o = tile_offsets(i_row, i_col, cols, B_ROWS, B_COLS)
        y = load(p_y, o, m, ACC)
        if p_bias is not None:
            if COLUMNS:
                o_channel = i_col + tl.arange(0, B_COLS)
                bias = load(p_bias, o_channel, o_channel < cols, ACC)[None, :]
            y += bias
        store(p_y, o, activate(y, slope, ACTIVATION), m)


@triton.jit(do_not_specialize=COUNTS)
def bias_act_bwd_kernel(
    p_g, p_out, p_dy, p_partial, rows: tl.int64, cols: tl.int64, channels: tl.int64, steps: tl.int64, slope: tl.float64,
    ACTIVATION: tl.constexpr, COLUMNS: tl.constexpr,
    ACC: tl.constexpr, B_ROWS: tl.constexpr, B_COLS: tl.constexpr,
):  # fmt: skip
    """d_y, and with p_partial [splits, channels] its sums by channel. Memory is [rows, channels, cols], and a program
    walks `steps` tiles of one channel; COLUMNS: it is [rows, cols], and a program walks rows of some columns."""
    i_block = tl.program_id(0).to(tl.int64)
    i_split = tl.program_id(1).to(tl.int64)
    slope = scalar(slope, ACC)
    sums = tl.zeros((B_ROWS, B_COLS), ACC)
    tiles_across = 1 if COLUMNS else tl.cdiv(cols, B_COLS)
    i_stop = tl.minimum(i_split * steps + steps, tl.cdiv(rows, B_ROWS) * tiles_across)
    for i_tile in range(i_split * steps, i_stop):
        i_row = (i_tile // tiles_across) * B_ROWS
        if COLUMNS:
            i_col = i_block * B_COLS
            i_first = i_col
        else:
            i_col = (i_tile % tiles_across) * B_COLS
            i_first = i_block * cols + i_col
        m = tile_mask(i_row + tl.arange(0, B_ROWS) < rows, i_col, cols, B_COLS)
        o = tile_offsets(i_row, i_first, cols * channels, B_ROWS, B_COLS)
        d = activation_gradient(load(p_g, o, m, ACC), load(p_out, o, m, ACC), slope, ACTIVATION)
        store(p_dy, o, d, m)
        sums += tl.where(m, d, 0.0)
    if p_partial is not None:
        if COLUMNS:
            o_col = i_block * B_COLS + tl.arange(0, B_COLS)
            tl.store(p_partial + i_split * cols + o_col, tl.sum(sums, axis=0), mask=o_col < cols)
        else:
            tl.store(p_partial + i_split * channels + i_block, tl.sum(sums))


@triton.jit(do_not_specialize=COUNTS)
def column_sums_kernel(
    p_partial, p_sum, p_sum2, count: tl.int64, cols: tl.int64, first: tl.int64,
    ACC: tl.constexpr, B_ROWS: tl.constexpr, B_COLS: tl.constexpr,
):  # fmt: skip
    """The second stage: p_partial [count, cols] summed over count, always in the same order; the first `first` columns
    to p_sum, the others to p_sum2."""
    i_col = tl.program_id(0).to(tl.int64) * B_COLS
    o_col = i_col + tl.arange(0, B_COLS)
    sums = tl.zeros((B_ROWS, B_COLS), ACC)
    for i_row in range(0, count, B_ROWS):
        m = tile_mask(i_row + tl.arange(0, B_ROWS) < count, i_col, cols, B_COLS)
        sums += load(p_partial, tile_offsets(i_row, i_col, cols, B_ROWS, B_COLS), m, ACC)
    total = tl.sum(sums, axis=0)
    if p_sum is not None:
        store(p_sum, o_col, total, o_col < first)
    if p_sum2 is not None:
        store(p_sum2, o_col - first, total, (o_col >= first) & (o_col < cols))
