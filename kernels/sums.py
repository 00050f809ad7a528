"""The second stage of the sums: partial sums added in a fixed order, so that results do not vary from run to run."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .integers import cdiv
from .layout import TRITON_DTYPES, WARPS
from .tiles import load

ONE_ROW_SUM_TILE = (1, 1024)
ROWS_SUM_TILE = (32, 32)


@triton.jit
def row_sums(
    p_partial, i_row, m_row, count, stride_row, stride,
    acc: tl.constexpr, b_rows: tl.constexpr, b_cols: tl.constexpr,
):  # fmt: skip
    """The sum of `count` partial sums of each row, always in the same order."""
    o_row = (i_row + tl.arange(0, b_rows))[:, None] * stride_row
    sums = tl.zeros((b_rows, b_cols), acc)
    for i_col in range(0, count, b_cols):
        o_col = i_col + tl.arange(0, b_cols)
        m = m_row[:, None] & (o_col < count)[None, :]
        sums += load(p_partial, o_row + o_col[None, :] * stride, m, acc)
    return tl.sum(sums, axis=1)


@triton.jit(do_not_specialize=["rows", "count", "stride_row", "stride"])
def sum_kernel(
    p_partial, p_sum, rows: tl.int64, count: tl.int64, stride_row: tl.int64, stride: tl.int64,
    ACC: tl.constexpr, B_ROWS: tl.constexpr, B_COLS: tl.constexpr,
):  # fmt: skip
    """The second stage: p_sum[row] = sum of p_partial[row * stride_row + i * stride] over i < count."""
    i_row = tl.program_id(0).to(tl.int64) * B_ROWS
    o_row = i_row + tl.arange(0, B_ROWS)
    sums = row_sums(p_partial, i_row, o_row < rows, count, stride_row, stride, ACC, B_ROWS, B_COLS)
    tl.store(p_sum + o_row, sums, mask=o_row < rows)


def reduced(partial: Tensor, shape: tuple[int, ...] | torch.Size, by_column: bool = False) -> Tensor:
    """The sums of the partial sums, [rows, count] or, by_column, [count, columns]."""
    count, rows = partial.shape if by_column else reversed(partial.shape)
    if count == 1:
        return partial.reshape(shape)
    out = partial.new_empty(rows)
    b_rows, b_cols = ONE_ROW_SUM_TILE if rows == 1 else ROWS_SUM_TILE
    strides = (1, rows) if by_column else (count, 1)
    acc = partial.dtype
    if rows:
        sum_kernel[(cdiv(rows, b_rows),)](
            partial, out, rows, count, *strides, TRITON_DTYPES[acc], b_rows, b_cols, num_warps=WARPS
        )
    return out.reshape(shape)
