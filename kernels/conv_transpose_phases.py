"""Transposed convolution by phases of its stride: the launcher of the Triton kernel.

A launcher has the name and arguments of the registered op it serves.
"""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from . import target
from .conv_transpose_moments import NO_PARTS, Parts, new_parts
from .conv_transpose_pack import Matrix, is_aligned, packed, rows_stride, wants_k_major, weight_descriptor
from .conv_transpose_phases_kernels import phases_kernel
from .conv_transpose_tiles import (
    TMA_ARCHITECTURE,
    Tile,
    alignment,
    box,
    boxes,
    fitting,
    index_type,
    new_output,
    precision,
    register_limit,
    strides_of,
)
from .integers import cdiv
from .layout import on_device


class Cut(NamedTuple):
    """A tile and its box of pixels, the positions and tiles as the kernel takes them, how many parts the phases' tiles
    of pixels are, and how many programs."""

    tile: Tile
    box: tuple[int, int, int]
    counts: tuple[int, ...]
    parts: int
    programs: int


def conv_transpose2d_phases_fwd(
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
    return phases(
        input, weight, bias, stride, padding, output_padding, activation, slope, tf32, channels_last, False
    )[0]  # fmt: skip


def phases(
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
    moments: bool,
) -> tuple[Tensor, Parts | None]:
    """The result and, where wanted, its moments."""
    out = new_output(input, weight, stride, padding, output_padding, channels_last)
    images, channels, height, width = input.shape
    outputs, kernel = weight.shape[1], weight.shape[2:]
    rows = outputs * kernel[0] * kernel[1]
    arch = target.architecture(input.device)
    input = readable(input)
    strides = tma_strides(input)
    descriptors = arch >= TMA_ARCHITECTURE and strides is not None
    bias = None if bias is None else bias.contiguous()
    with on_device(input):
        tile, sides, counts, count, programs = cut(
            images, tuple(out.shape[2:]), outputs, tuple(stride), input.element_size(), arch, descriptors,
            target.processors(input.device),
        )  # fmt: skip
        parts = new_parts(out, count, outputs) if moments else None
        matrix = weight_matrix(weight, descriptors)
        x: Any = input
        a: Any = matrix.tensor
        if descriptors:
            x = TensorDescriptor(input, [images, height, width, channels], strides, [*sides, tile.depth])
            a = weight_descriptor(matrix, channels, rows, tile)
        spanned = sides[0] if descriptors else tile.pixels // (counts[0] * counts[1]) + 2
        index = index_type(spanned, max(rows, channels), matrix.pitch, input, out)
        # With moments 128 registers do on sm_90; the addresses of a contiguous result need more.
        limit = register_limit(tile, descriptors, input.dtype, arch == 90) if moments and channels_last else None
        phases_kernel[(programs,)](
            x, a, bias, out, *(parts or NO_PARTS), images, height, width, channels, outputs, *out.shape[2:], *padding,
            *counts, *strides_of(input), matrix.pitch, *out.stride(), slope, *kernel, *stride,
            activation, descriptors, matrix.k_major, precision(input.dtype, tf32), index,
            alignment(input, matrix.pitch), tile.rows, tile.depth, *sides,
            num_warps=tile.warps, num_stages=tile.stages, maxnreg=limit,
        )  # fmt: skip
    return out, parts


def readable(input: Tensor) -> Tensor:
    """The input, or a channels_last copy of one that could be read neither by the copy engine nor several channels at
    once: each element is read once for every tap."""
    return input if input.stride(1) == 1 else input.contiguous(memory_format=torch.channels_last)


def tma_strides(input: Tensor) -> list[int] | None:
    """The strides of images, rows, columns and channels as the copy engine takes them, or None where it does not."""
    channels = input.shape[1]
    strides = [s if size > 1 else channels for size, s in zip(input.shape, input.stride(), strict=True)]
    n, c, h, w = strides
    if (c != 1 and channels > 1) or not is_aligned(input, n, h, w):
        return None
    return [n, h, w, 1]


def weight_matrix(weight: Tensor, descriptors: bool) -> Matrix:
    """The weight itself where the product can read it in place, else a packed copy."""
    pitch = None if wants_k_major(weight) else rows_stride(weight, True)
    if pitch is None or (descriptors and not is_aligned(weight, pitch, weight.shape[1])):
        return packed(weight, True)
    return Matrix(weight, pitch, False)


@functools.lru_cache(maxsize=1024)
def cut(
    images: int,
    out_size: tuple[int, int],
    outputs: int,
    stride: tuple[int, int],
    itemsize: int,
    arch: int,
    in_boxes: bool,
    processors: int,
) -> Cut:
    rows, cols = (cdiv(size, s) for size, s in zip(out_size, stride, strict=True))

    def sides_of(tile: Tile) -> tuple[int, int, int]:
        return box(images, rows, cols, tile.pixels) if in_boxes else (tile.pixels, 1, 1)

    def pixel_tiles(tile: Tile) -> int:
        return boxes(images, rows, cols, sides_of(tile)) if in_boxes else cdiv(images * rows * cols, tile.pixels)

    def tiles(tile: Tile) -> int:
        return stride[0] * stride[1] * pixel_tiles(tile) * cdiv(outputs, tile.rows)

    tile, count = fitting(arch, itemsize, outputs, processors, tiles)
    sides = sides_of(tile)
    counts = (
        rows, cols, cdiv(rows, sides[1]), cdiv(cols, sides[2]), pixel_tiles(tile),
        cdiv(outputs, tile.rows),
    )  # fmt: skip
    parts = stride[0] * stride[1] * pixel_tiles(tile)
    return Cut(tile, sides, counts, parts, min(count, processors * tile.per_processor))
