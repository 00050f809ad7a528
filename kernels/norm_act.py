"""Batch normalisation with an activation: the launchers of the Triton kernels.

A launcher has the name and arguments of the registered op it serves; `moments` and `normalized` also serve the
convolutions whose epilogues take the statistics.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .bias_act import NARROW_ELEMENTS, WIDE_ELEMENTS, blocks_of
from .integers import cdiv, next_power_of_2
from .layout import (
    TOTAL_PROGRAMS,
    TRITON_DTYPES,
    WARPS,
    WIDE_TILES,
    Tile,
    absent,
    accumulation_dtype,
    on_device,
    tiles_for,
)
from .norm_act_kernels import (
    moments_kernel,
    norm_act_bwd_kernel,
    norm_act_kernel,
    norm_sums_kernel,
    running_kernel,
    stats_kernel,
)

# Channels innermost: columns of a tile, whole lines of memory and rows enough for few partial results.
COLUMNS = 64
# Of a second stage: whole sectors of memory, and many programs.
MERGED = Tile(512, 8)
RUNNING_ELEMENTS = 1024

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class Walk(NamedTuple):
    """How programs share dense memory, as norm_act_tiles.py says: its sizes are rows, cols, channels, steps."""

    sizes: tuple[int, int, int, int]
    in_columns: bool
    tile: Tile
    grid: tuple[int, int]
    channels: int
    elements: int


def walk_of(*tensors: Tensor) -> Walk:
    """tensors: all in one order."""
    blocks = blocks_of(tensors[0])
    in_columns = blocks.in_columns
    cols = blocks.channels if in_columns else blocks.inner
    wide = tiles_for(accumulation_dtype(tensors[0]), (cols,), tensors) is WIDE_TILES
    elements = WIDE_ELEMENTS if wide else NARROW_ELEMENTS
    b_cols = min(COLUMNS if in_columns else elements, next_power_of_2(cols))
    # However few rows there are: no batch recompiles.
    tile = Tile(elements // b_cols, b_cols)
    across = cdiv(cols, tile.cols)
    parts, steps = across if in_columns else blocks.channels, cdiv(blocks.outer, tile.rows)
    if not in_columns:
        steps *= across
    per_program = cdiv(steps, max(1, TOTAL_PROGRAMS // parts))
    sizes = (blocks.outer, cols, 1 if in_columns else blocks.channels, per_program)
    grid = (parts, cdiv(steps, per_program))
    return Walk(sizes, in_columns, tile, grid, blocks.channels, blocks.outer * blocks.inner)


def memory_format(t: Tensor, channels_last: bool) -> torch.memory_format:
    return CHANNELS_LAST.get(t.dim(), torch.contiguous_format) if channels_last else torch.contiguous_format


def whole(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.contiguous()


def batch_norm_act_fwd(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    eps: float,
    activation: int,
    slope: float,
    channels_last: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with on_device(input):
        x = input.contiguous(memory_format=memory_format(input, channels_last))
        out = torch.empty_like(x, memory_format=memory_format(input, channels_last))
        if training:
            mean, invstd, var = statistics(x, eps)
        else:
            assert running_mean is not None and running_var is not None
            mean, invstd, var = running(running_mean, running_var, accumulation_dtype(x), eps)
        normalize(x, weight, bias, mean, invstd, activation, slope, out)
    return out, mean, invstd, var


def statistics(x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    acc = accumulation_dtype(x)
    cut = walk_of(x)
    counts = x.new_empty(cut.grid[1], dtype=acc)
    means, m2s = (x.new_empty((cut.grid[1], cut.channels), dtype=acc) for _ in range(2))
    offset = x.new_empty(cut.channels, dtype=acc)
    stats_kernel[cut.grid](
        x, counts, means, m2s, offset, *cut.sizes, cut.in_columns, TRITON_DTYPES[acc], *cut.tile, num_warps=WARPS
    )
    return moments(counts, means, m2s, eps, offset)


def moments(
    counts: Tensor, means: Tensor, m2s: Tensor, eps: float, offset: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(mean, 1 / sqrt(biased variance + eps), unbiased variance) from the counts [parts], means and sums of squared
    deviations [parts, channels] of the parts; parts of count 0 do not matter. The means are less the offset [channels],
    if there is one."""
    parts, channels = means.shape
    mean, invstd, var = (means.new_empty(channels) for _ in range(3))
    with on_device(means):
        moments_kernel[(cdiv(channels, MERGED.cols),)](
            counts, means, m2s, offset, mean, invstd, var, parts, channels, eps,
            TRITON_DTYPES[means.dtype], *MERGED, num_warps=WARPS,
        )  # fmt: skip
    return mean, invstd, var


def running(mean: Tensor, var: Tensor, acc: torch.dtype, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    channels = mean.numel()
    results = [mean.new_empty(channels, dtype=acc) for _ in range(3)]
    b_cols = min(RUNNING_ELEMENTS, next_power_of_2(channels))
    running_kernel[(cdiv(channels, b_cols),)](
        mean.contiguous(), var.contiguous(), *results, channels, eps, TRITON_DTYPES[acc], b_cols, num_warps=WARPS
    )
    return results[0], results[1], results[2]


def normalized(
    y: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, invstd: Tensor, activation: int, slope: float
) -> Tensor:
    """activation((y - mean) * invstd * weight + bias) in the strides of y, which is dense."""
    out = torch.empty_like(y)
    with on_device(y):
        normalize(y, weight, bias, mean, invstd, activation, slope, out)
    return out


def normalize(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    invstd: Tensor,
    activation: int,
    slope: float,
    out: Tensor,
) -> None:
    cut = walk_of(x, out)
    norm_act_kernel[cut.grid](
        x, whole(weight), whole(bias), mean, invstd, out, *cut.sizes, slope,
        activation, cut.in_columns, TRITON_DTYPES[mean.dtype], *cut.tile, num_warps=WARPS,
    )  # fmt: skip


def batch_norm_act_bwd(
    g: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    invstd: Tensor,
    training: bool,
    activation: int,
    slope: float,
    channels_last: bool,
    need_input: bool,
    need_params: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    acc = mean.dtype
    order = memory_format(input, channels_last)
    with on_device(input):
        g, x = g.contiguous(memory_format=order), input.contiguous(memory_format=order)
        weight, bias = whole(weight), whole(bias)
        d_x = torch.empty_like(x, memory_format=order) if need_input else None
        d_weight, d_bias = (mean.new_empty(mean.shape, dtype=acc if p is None else p.dtype) for p in (weight, bias))
        cut = walk_of(x, g)

        def differentiate(sums: Tensor | None, d_x: Tensor | None, partial: Tensor | None) -> None:
            norm_act_bwd_kernel[cut.grid](
                g, x, weight, bias, mean, invstd, sums, d_x, partial, *cut.sizes, 1 / cut.elements, slope,
                activation, cut.in_columns, TRITON_DTYPES[acc], *cut.tile, num_warps=WARPS,
            )  # fmt: skip

        sums = mean.new_empty(2, cut.channels) if training and need_input else None
        if need_params or sums is not None:
            partial = mean.new_empty(cut.grid[1], 2, cut.channels)
            differentiate(None, None if training else d_x, partial)
            sum_up(partial, sums, *((d_bias, d_weight) if need_params else (None, None)))
        if need_input and (training or not need_params):
            differentiate(sums, d_x, None)
    if not need_params:
        d_weight, d_bias = absent(input), absent(input)
    return absent(input) if d_x is None else d_x, d_weight, d_bias


def sum_up(partial: Tensor, sums: Tensor | None, d_bias: Tensor | None, d_weight: Tensor | None) -> None:
    parts, _, channels = partial.shape
    norm_sums_kernel[(cdiv(2 * channels, MERGED.cols),)](
        partial, sums, d_bias, d_weight, parts, channels, TRITON_DTYPES[partial.dtype], *MERGED, num_warps=WARPS
    )
