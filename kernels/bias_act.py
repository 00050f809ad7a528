"""Bias and activation of a layer's output in one pass: the launchers of the Triton kernels.

A launcher has the name and arguments of the registered op it serves.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .bias_act_kernels import bias_act_bwd_kernel, bias_act_kernel, column_sums_kernel
from .integers import cdiv, next_power_of_2
from .layout import (
    TOTAL_PROGRAMS,
    TRITON_DTYPES,
    WARPS,
    WIDE_TILES,
    Tile,
    absent,
    accumulation_dtype,
    is_dense,
    on_device,
    plan,
    strided_like,
    tiles_for,
)

# Elements that a program holds at a time: 16 bytes of each tensor a thread, or one or two elements where no access of
# 16 bytes fits.
WIDE_ELEMENTS = 2048
NARROW_ELEMENTS = 512
SUM_ELEMENTS = 4096
SUM_COLUMNS = 64


class Blocks(NamedTuple):
    """Dense memory as [outer, channels, inner]: any order of the dimensions is one of these."""

    outer: int
    channels: int
    inner: int

    @property
    def in_columns(self) -> bool:
        """Channels are innermost: channels_last."""
        return self.inner == 1


def blocks_of(t: Tensor) -> Blocks:
    channels = t.shape[1]
    inner = t.stride(1) if channels > 1 else t[0, 0].numel()
    return Blocks(t.numel() // (channels * inner), channels, inner)


def tile_for(acc: torch.dtype, rows: int, cols: int, *tensors: Tensor) -> Tile:
    """About as many columns as there are, and rows to fill the tile."""
    wide = tiles_for(acc, (cols,), tensors) is WIDE_TILES
    elements = WIDE_ELEMENTS if wide else NARROW_ELEMENTS
    b_cols = min(elements, next_power_of_2(cols))
    return Tile(min(elements // b_cols, next_power_of_2(rows)), b_cols)


def bias_act_(y: Tensor, bias: Tensor | None, activation: int, slope: float) -> None:
    if not is_dense(y):
        whole = y.contiguous()
        bias_act_(whole, bias, activation, slope)
        y.copy_(whole)
        return
    acc = accumulation_dtype(y)
    blocks = blocks_of(y)
    rows, cols = blocks.outer * blocks.channels, blocks.inner
    if bias is None:
        rows, cols = 1, y.numel()
    elif blocks.in_columns:
        rows, cols = blocks.outer, blocks.channels
    cut = plan(rows, cols, ((0, tile_for(acc, rows, cols, y)),))
    with on_device(y):
        bias_act_kernel[(cut.programs // cut.splits, cut.splits)](
            y, None if bias is None else bias.contiguous(), *cut.sizes[:3], blocks.channels, slope,
            activation, blocks.in_columns, TRITON_DTYPES[acc], *cut.tile, num_warps=WARPS,
        )  # fmt: skip


def bias_act_bwd(g: Tensor, out: Tensor, need_bias: bool, activation: int, slope: float) -> tuple[Tensor, Tensor]:
    if not is_dense(out):
        out = out.contiguous()
    acc = accumulation_dtype(out)
    blocks = blocks_of(out) if need_bias else Blocks(1, 1, out.numel())
    in_columns = blocks.in_columns
    cols = blocks.channels if in_columns else blocks.inner
    with on_device(out):
        g = strided_like(g, out)
        d_y = torch.empty_like(out)
        tile = tile_for(acc, blocks.outer, cols, g, out, d_y)
        across = cdiv(cols, tile.cols)
        parts, steps = across if in_columns else blocks.channels, cdiv(blocks.outer, tile.rows)
        if not in_columns:
            steps *= across
        per_program = cdiv(steps, max(1, TOTAL_PROGRAMS // parts))
        splits = cdiv(steps, per_program)
        partial = out.new_empty((splits, blocks.channels), dtype=acc) if need_bias else None
        bias_act_bwd_kernel[(parts, splits)](
            g, out, d_y, partial, blocks.outer, cols, 1 if in_columns else blocks.channels, per_program, slope,
            activation, in_columns, TRITON_DTYPES[acc], *tile, num_warps=WARPS,
        )  # fmt: skip
        d_bias = absent(out)
        if partial is not None:
            d_bias = out.new_empty(blocks.channels)
            column_sums(partial, d_bias, None)
    return d_y, d_bias


def column_sums(partial: Tensor, first: Tensor | None, second: Tensor | None) -> None:
    """The sums of partial [count, columns], those of the first columns into `first`, of the last into `second`, each in
    its dtype and in the order of its memory."""
    count, cols = partial.shape
    b_cols = min(SUM_COLUMNS, next_power_of_2(cols))
    b_rows = min(SUM_ELEMENTS // b_cols, next_power_of_2(count))
    column_sums_kernel[(cdiv(cols, b_cols),)](
        partial, first, second, count, cols, 0 if first is None else first.numel(),
        TRITON_DTYPES[partial.dtype], b_rows, b_cols, num_warps=WARPS,
    )  # fmt: skip
