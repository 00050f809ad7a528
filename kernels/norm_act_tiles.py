"""What the kernels of batch normalisation have in common: how their programs walk through memory.

Memory is [rows, channels, cols], and a program walks `steps` tiles of one channel. COLUMNS: it is [rows, cols] with a
column for each channel, `channels` is 1, and a program walks rows of some columns.
"""

import triton
import triton.language as tl

from .tiles import load, store, tile_mask, tile_offsets


@triton.jit
def tile_of(
    i_tile, i_block, rows, cols, channels, COLUMNS: tl.constexpr, b_rows: tl.constexpr, b_cols: tl.constexpr
):  # fmt: skip
    """Offsets and mask of a tile, and how many elements of a channel it holds."""
    if COLUMNS:
        i_row = i_tile * b_rows
        i_col = i_block * b_cols
        i_first = i_col
        held = tl.minimum(rows - i_row, b_rows)
    else:
        across = tl.cdiv(cols, b_cols)
        i_row = (i_tile // across) * b_rows
        i_col = (i_tile % across) * b_cols
        i_first = i_block * cols + i_col
        held = tl.minimum(rows - i_row, b_rows) * tl.minimum(cols - i_col, b_cols)
    m = tile_mask(i_row + tl.arange(0, b_rows) < rows, i_col, cols, b_cols)
    return tile_offsets(i_row, i_first, cols * channels, b_rows, b_cols), m, held


@triton.jit
def walk(i_split, rows, cols, steps, COLUMNS: tl.constexpr, b_rows: tl.constexpr, b_cols: tl.constexpr):
    """The first tile of a program, and the one after its last."""
    across = 1 if COLUMNS else tl.cdiv(cols, b_cols)
    return i_split * steps, tl.minimum(i_split * steps + steps, tl.cdiv(rows, b_rows) * across)


@triton.jit
def by_channel(t, COLUMNS: tl.constexpr):
    """A tile's sums: a row of them, or one."""
    if COLUMNS:
        return tl.sum(t, axis=0)[None, :]
    else:
        return tl.sum(t)


@triton.jit
def load_channels(p, i_block, cols, acc: tl.constexpr, COLUMNS: tl.constexpr, b_cols: tl.constexpr):
    """The values of a program's channels: a row of them, or one."""
    if COLUMNS:
        o = i_block * b_cols + tl.arange(0, b_cols)
        return load(p, o, o < cols, acc)[None, :]
    else:
        return tl.load(p + i_block).to(acc)


@triton.jit
def store_channels(p, i_block, cols, value, COLUMNS: tl.constexpr, b_cols: tl.constexpr):
    if COLUMNS:
        o = i_block * b_cols + tl.arange(0, b_cols)[None, :]
        store(p, o, value, o < cols)
    else:
        tl.store(p + i_block, value)


@triton.jit
def affine(
    p_weight, p_bias, p_mean, p_invstd, i_block, cols,
    acc: tl.constexpr, COLUMNS: tl.constexpr, b_cols: tl.constexpr,
):  # fmt: skip
    """mean, invstd, scale and bias of (x - mean) * scale + bias."""
    mean = load_channels(p_mean, i_block, cols, acc, COLUMNS, b_cols)
    invstd = load_channels(p_invstd, i_block, cols, acc, COLUMNS, b_cols)
    scale = invstd
    if p_weight is not None:
        scale = load_channels(p_weight, i_block, cols, acc, COLUMNS, b_cols) * invstd
    bias = tl.zeros_like(mean)
    if p_bias is not None:
        bias = load_channels(p_bias, i_block, cols, acc, COLUMNS, b_cols)
    return mean, invstd, scale, bias
