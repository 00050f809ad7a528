"""What the tiles of every family have in common: their addresses and masks, and what rows share.

Pointers are p_, masks m_, offsets o_, indices i_, block (tile) sizes b_. Every tensor is read as [rows, cols]
with contiguous rows, addressed from a 64-bit index, so that any element count fits. A program's columns end
at a multiple of its tile, and masks compare with `cols` itself, whose divisibility Triton knows: so accesses
stay 16 bytes wide.
"""

import triton
import triton.language as tl


@triton.jit
def tile_offsets(i_row, i_col, stride, b_rows: tl.constexpr, b_cols: tl.constexpr):
    stride = stride.to(tl.int64)
    inner = tl.arange(0, b_rows)[:, None] * stride + tl.arange(0, b_cols)[None, :]
    return (i_row * stride + i_col) + inner


@triton.jit
def tile_mask(m_row, i_col, cols, b_cols: tl.constexpr):
    return m_row[:, None] & (i_col + tl.arange(0, b_cols) < cols)[None, :]


@triton.jit
def load(p, o, m, acc: tl.constexpr):
    return tl.load(p + o, mask=m, other=0.0).to(acc)


@triton.jit
def store(p, o, value, m):
    tl.store(p + o, value.to(p.dtype.element_ty), mask=m)


@triton.jit
def scalar(value, acc: tl.constexpr):
    """A number argument in the accumulation dtype (through a literal it would pass float32)."""
    return tl.full((), value, acc)


@triton.jit
def integer(value):
    """An integer argument as int64. Triton's interpreter calls 2^31 to 2^32 - 1 that but keeps 32 bits; not in sums."""
    return tl.full((), 0, tl.int64) + value


@triton.jit
def program_range(pid, rows, cols, span, splits, b_rows: tl.constexpr):
    """First row, mask of the rows, first and last column of this program."""
    i_row = (pid // splits) * b_rows
    i_start = (pid % splits) * span
    return i_row, i_row + tl.arange(0, b_rows) < rows, i_start, tl.minimum(i_start + span, cols)


@triton.jit
def upstream(p_g, p_g2, scale, i_row, m_row, stride, stride2, acc: tl.constexpr, b_rows: tl.constexpr):
    """scale * g + g2 of each row, as a column; a stride of 0 reads one scalar for all, None counts as 0."""
    o_row = i_row + tl.arange(0, b_rows)
    g = tl.zeros((b_rows,), acc)
    if p_g is not None:
        g += load(p_g, o_row * stride, m_row, acc) * scale
    if p_g2 is not None:
        g += load(p_g2, o_row * stride2, m_row, acc)
    return g[:, None]


@triton.jit
def store_partial(p_partial, sums, pid, i_row, m_row, splits, PER_ROW: tl.constexpr, b_rows: tl.constexpr):
    """A row's sum goes to [row, split]; without rows, the program's sum to [program]."""
    if PER_ROW:
        o = (i_row + tl.arange(0, b_rows)) * splits + pid % splits
        tl.store(p_partial + o, sums, mask=m_row)
    else:
        tl.store(p_partial + pid, tl.sum(sums))
