"""Transposed convolution to few output channels: the launchers of the Triton kernels.

A launcher has the name and arguments of the registered op it serves.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import target
from .bias_act import column_sums
from .conv_transpose_phases import new_output
from .conv_transpose_small_kernels import small_bwd_kernel, small_fwd_kernel, small_input_kernel
from .conv_transpose_tiles import precision
from .integers import cdiv, next_power_of_2
from .layout import TRITON_DTYPES, absent, accumulation_dtype, on_device

# tl.dot takes no fewer rows, columns or summands.
LEAST = 16
FWD_PHASES = 4
FWD_ELEMENTS = 1024
FWD_DEPTH = 32
FWD_WARPS = 8
# Two for each multiprocessor of an H100 or H200; sums depend on it, so it is the same on every card.
BWD_PROGRAMS = 264
BIAS_PIXELS = 256


class Tile(NamedTuple):
    """Rows (output channel x taps), pixels, input channels and warps of a program of the backward."""

    rows: int
    pixels: int
    channels: int
    warps: int


# By whether the GPU has wgmma or its successor, and the bytes of an element; 64 rows hold a 4x4 kernel of 3 or 4
# channels, so that one pass gives all gradients. Elsewhere that spills.
BWD_TILES = {
    (True, 2): Tile(64, 32, 64, 8),
    (True, 4): Tile(64, 32, 64, 4),
    (False, 2): Tile(32, 32, 64, 4),
    (False, 4): Tile(32, 32, 64, 8),
}
# Of IEEE float32 and of float64.
EXACT_TILES = {4: Tile(32, 16, 32, 8), 8: Tile(16, 16, 32, 4)}


def bwd_tile(t: Tensor, precision: str) -> Tile:
    size = t.element_size()
    if precision == "ieee" and size in EXACT_TILES:
        return EXACT_TILES[size]
    return BWD_TILES[90 <= target.architecture(t.device) < 120, size]


def block(size: int, most: int) -> int:
    return min(most, max(LEAST, next_power_of_2(size)))


def conv_transpose2d_small_fwd(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    activation: int,
    slope: float,
    tf32: bool,
    channels_last: bool,
) -> Tensor:
    out = new_output(input, weight, stride, padding, output_padding, channels_last)
    call = forward_of(input, weight, out.shape[2:], stride, padding, tf32)
    with on_device(input):
        small_fwd_kernel[call.grid](
            input, weight, None if bias is None else bias.contiguous(), out, *call.sizes, *out.stride(), slope,
            *call.geometry, activation, *call.kind, num_warps=FWD_WARPS,
        )  # fmt: skip
    return out


class Forward(NamedTuple):
    """What the forward kernels take: the grid, sizes and the strides of input and weight, kernel, stride, padding and
    blocks, and the kind of product."""

    grid: tuple[int, int, int]
    sizes: tuple[int, ...]
    geometry: tuple[int, ...]
    kind: tuple[Any, ...]


def forward_of(
    input: Tensor, weight: Tensor, size: Sequence[int], stride: list[int], padding: list[int], tf32: bool
) -> Forward:
    """Of the height and width of the output."""
    acc = accumulation_dtype(input)
    images, channels = input.shape[:2]
    outs, *kernel = weight.shape[1:]
    # Slots of an axis: from that of the first output to that of the last.
    slots = [(size[i] - 1 + padding[i]) // stride[i] - padding[i] // stride[i] + 1 for i in range(2)]
    phases = [min(FWD_PHASES, next_power_of_2(s)) for s in stride]
    b_outs = max(next_power_of_2(outs), LEAST // (phases[0] * phases[1]))
    b_slots = max(LEAST, FWD_ELEMENTS // (b_outs * phases[0] * phases[1]))
    tiles = cdiv(slots[0] * slots[1], b_slots)
    b_channels = block(channels, LEAST if acc == torch.float64 else FWD_DEPTH)
    return Forward(
        (images * tiles, cdiv(stride[0], phases[0]), cdiv(stride[1], phases[1])),
        (channels, outs, *input.shape[2:], *size, slots[1], tiles, *input.stride(), *weight.stride()),
        (*kernel, *stride, *padding, b_outs, *phases, b_slots, b_channels),
        (precision(input.dtype, tf32), TRITON_DTYPES[acc]),
    )


def conv_transpose2d_small_bwd(
    g: Tensor,
    input: Tensor,
    weight: Tensor,
    out: Tensor | None,
    stride: list[int],
    padding: list[int],
    activation: int,
    slope: float,
    tf32: bool,
    channels_last: bool,
    need_input: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    order = torch.channels_last if channels_last else torch.contiguous_format
    d_input = torch.empty_like(input, memory_format=order) if need_input else None
    d_weight = torch.empty_like(weight, memory_format=order) if need_weight else None
    d_bias = g.new_empty(weight.shape[1]) if need_bias else None
    kind = (activation, precision(input.dtype, tf32), TRITON_DTYPES[accumulation_dtype(input)])
    common = Backward(
        bwd_tile(input, kind[1]),
        (*input.shape[1:2], weight.shape[1], input.shape[3], input.shape[2:].numel(), *g.shape[2:]),
        (*g.stride(), *(g if out is None else out).stride()),
        (*weight.shape[2:], *stride, *padding), slope, kind,
    )  # fmt: skip
    in_one = weight.shape[1:].numel() <= common.tile.rows
    with on_device(input):
        if need_weight or need_bias or (need_input and in_one):
            _sums(common, g, out, input, weight, d_input if in_one else None, d_weight, d_bias)
        if d_input is not None and not in_one:
            _input(common, g, out, weight, d_input)
    first, second, third = (absent(g) if t is None else t for t in (d_input, d_weight, d_bias))
    return first, second, third


class Backward(NamedTuple):
    """What both kernels take: the tile, sizes, the strides of g and out, kernel, stride and padding, and the kind."""

    tile: Tile
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    geometry: tuple[int, ...]
    slope: float
    kind: tuple[Any, ...]


def _pixel_strides(t: Tensor | None) -> tuple[int, int, int]:
    """Those of images, channels and pixels of a contiguous or channels_last tensor."""
    return (0, 0, 0) if t is None else (t.stride(0), t.stride(1), t.stride(3))


def _input(call: Backward, g: Tensor, out: Tensor | None, weight: Tensor, d_input: Tensor) -> None:
    images, channels, height, width = d_input.shape
    tile = call.tile
    tiles, b_channels = cdiv(height * width, tile.pixels), block(channels, tile.channels)
    small_input_kernel[(images * tiles, cdiv(channels, b_channels))](
        g, out, weight, d_input, tiles, *call.sizes, *call.strides, *weight.stride(), *_pixel_strides(d_input),
        call.slope, *call.geometry, b_channels, tile.rows, tile.pixels, *call.kind, num_warps=tile.warps,
    )  # fmt: skip


def _sums(
    call: Backward,
    g: Tensor,
    out: Tensor | None,
    input: Tensor,
    weight: Tensor,
    d_input: Tensor | None,
    d_weight: Tensor | None,
    d_bias: Tensor | None,
) -> None:
    """All but the gradient at the input where that takes more than one block of rows."""
    images, channels, height, width = input.shape
    rows = weight.shape[1:].numel()
    tile = call.tile
    b_channels, b_rows = block(channels, tile.channels), block(rows, tile.rows)
    channel_blocks, row_blocks = cdiv(channels, b_channels), cdiv(rows, b_rows)
    tiles = 0 if d_input is None and d_weight is None else cdiv(height * width, tile.pixels)
    bias_tiles = 0 if d_bias is None else cdiv(g.shape[2:].numel(), BIAS_PIXELS)
    programs = min(cdiv(BWD_PROGRAMS, channel_blocks * row_blocks), images * max(tiles, bias_tiles))
    bias_column = 0 if d_weight is None else d_weight.numel()
    columns = bias_column + (0 if d_bias is None else d_bias.numel())
    partial = input.new_empty((programs, columns), dtype=accumulation_dtype(input)) if columns else None
    small_bwd_kernel[(programs, channel_blocks, row_blocks)](
        g, out, input, weight, d_input, partial,
        images, tiles, cdiv(images * tiles, programs), bias_tiles, cdiv(images * bias_tiles, programs),
        columns, bias_column, *call.sizes, *call.strides, *input.stride(), *weight.stride(),
        *_pixel_strides(d_input), *((0,) * 4 if d_weight is None else d_weight.stride()), call.slope, *call.geometry,
        height == 1 or input.stride(2) == width * input.stride(3), d_weight is not None, d_bias is not None,
        b_channels, b_rows, tile.pixels, next_power_of_2(weight.shape[1]), BIAS_PIXELS, *call.kind,
        num_warps=tile.warps,
    )  # fmt: skip
    if partial is not None:
        column_sums(partial, d_weight, d_bias)
