"""Transposed convolution whose taps never meet, as one matrix product: the launcher of the Triton kernel.

No two input pixels reach the same output pixel where the kernel is as large as the stride, or the input is one pixel.
A launcher has the name and arguments of the registered op it serves.
"""

import functools
from typing import Any

from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from . import target
from .conv_transpose_matmul_kernels import matmul_kernel
from .conv_transpose_moments import NO_PARTS, Parts, new_parts
from .conv_transpose_pack import Matrix, is_aligned, packed, rows_stride, wants_k_major, weight_descriptor
from .conv_transpose_tiles import (
    TMA_ARCHITECTURE,
    Tile,
    alignment,
    fitting,
    index_type,
    new_output,
    precision,
    register_limit,
    strides_of,
)
from .integers import cdiv
from .layout import on_device


def conv_transpose2d_matmul_fwd(
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
    return matmul(
        input, weight, bias, stride, padding, output_padding, activation, slope, tf32, channels_last, False
    )[0]  # fmt: skip


def matmul(
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
    outputs, *kernel = weight.shape[1:]
    pixels, rows = images * height * width, outputs * kernel[0] * kernel[1]
    arch = target.architecture(input.device)
    bias = None if bias is None else bias.contiguous()
    with on_device(input):
        tap_major, matrix = weight_matrix(weight, channels_last)
        pitch = tma_pitch(input)
        descriptors = arch >= TMA_ARCHITECTURE and pitch is not None and is_aligned(matrix.tensor, matrix.pitch)
        tile, counts, programs = cut(
            pixels, rows, input.element_size(), arch, descriptors, moments, target.processors(input.device)
        )
        count = kernel[0] * kernel[1] * cdiv(pixels, tile.pixels)
        parts = new_parts(out, count, outputs) if moments else None
        x: Any = input
        a: Any = matrix.tensor
        if descriptors:
            x = TensorDescriptor(input, [pixels, channels], [pitch, 1], [tile.pixels, tile.depth])
            a = weight_descriptor(matrix, channels, rows, tile)
        index = index_type(tile.pixels // (height * width) + 2, max(rows, channels), matrix.pitch, input, out)
        flat = height == width == 1 and not any(padding) and tap_major == channels_last
        matmul_kernel[(programs,)](
            x, a, bias, out, *(parts or NO_PARTS), pixels, height * width, width, channels, outputs, *out.shape[2:],
            *padding, *counts, *strides_of(input), matrix.pitch, *out.stride(), slope, *kernel, *stride,
            activation, descriptors, has_lines(input), flat, tap_major, matrix.k_major, precision(input.dtype, tf32),
            index, alignment(input, matrix.pitch), tile.rows, tile.depth, tile.pixels, num_warps=tile.warps,
            num_stages=tile.stages, maxnreg=register_limit(tile, descriptors, input.dtype),
        )  # fmt: skip
    return out, parts


def has_lines(input: Tensor) -> bool:
    """Whether the rows of an image follow each other at the distance of its pixels."""
    _, _, height, width = input.shape
    stride_h, stride_w = input.stride()[2:]
    return height == 1 or (width > 1 and stride_h == width * stride_w)


def tma_pitch(input: Tensor) -> int | None:
    """Distance between pixels where the copy engine can read the input as [pixels, channels]."""
    images, channels, height, width = input.shape
    n, c, h, w = input.stride()
    pitch = next((s for size, s in ((width, w), (height, h), (images, n)) if size > 1), channels)
    fits = all(
        size == 1 or stride == pitch * inner
        for size, stride, inner in ((images, n, height * width), (height, h, width), (width, w, 1))
    )
    return pitch if fits and (c == 1 or channels == 1) and is_aligned(input, pitch) else None


def weight_matrix(weight: Tensor, channels_last: bool) -> tuple[bool, Matrix]:
    """Whether the rows are ordered (tap, co), else (co, tap); and the weight itself where the product can read it in
    place, else a copy in the order of the output."""
    if not wants_k_major(weight):
        for tap_major in (channels_last, not channels_last):
            pitch = rows_stride(weight, tap_major)
            if pitch is not None:
                return tap_major, Matrix(weight, pitch, False)
    return channels_last, packed(weight, channels_last)


@functools.lru_cache(maxsize=1024)
def cut(
    pixels: int, rows: int, itemsize: int, arch: int, descriptors: bool, moments: bool, processors: int
) -> tuple[Tile, tuple[int, int], int]:
    """The tile, how many tiles the rows and the whole make, and how many programs."""

    def tiles(tile: Tile) -> int:
        return cdiv(rows, tile.rows) * cdiv(pixels, tile.pixels)

    tile, count = fitting(arch, itemsize, rows, processors, tiles)
    if not descriptors:  # the address of every element read takes registers
        tile = tile._replace(depth=min(tile.depth, 32))
    if moments:  # they do too
        tile = tile._replace(pixels=tile.pixels // 2)
        count = tiles(tile)
    return tile, (cdiv(rows, tile.rows), count), min(count, processors * tile.per_processor)
