"""What the matrix products of a transposed convolution have in common: tiles, precision, the result's memory."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from .integers import cdiv


class Tile(NamedTuple):
    """Rows (output channels), pixels and channels that a program multiplies at a time, and how it is run."""

    rows: int
    pixels: int
    depth: int
    warps: int
    stages: int
    per_processor: int


# By whether the GPU has wgmma and the bytes of an element: up to 64 rows, and more. 64 rows are the least that wgmma
# takes. Two programs share a processor, so that one multiplies while the other stores; no tile needs more than the
# 101,376 bytes that the smaller cards of an architecture have. With 64 rows, eight warps would halve what wgmma takes
# at once and read shared memory more often for it; without wgmma they only need fewer registers.
TILES = {
    (True, 2): (Tile(64, 128, 64, 8, 4, 2), Tile(128, 128, 64, 8, 3, 2)),
    (True, 4): (Tile(64, 128, 32, 4, 4, 2), Tile(128, 128, 32, 8, 3, 2)),
    (False, 2): (Tile(64, 128, 32, 8, 4, 2), Tile(128, 128, 32, 8, 4, 2)),
    (False, 4): (Tile(64, 128, 32, 8, 3, 2), Tile(128, 128, 32, 8, 3, 1)),
}
TMA_ARCHITECTURE = 90
INDEX_LIMIT = 2**31


def register_limit(tile: Tile, descriptors: bool, dtype: torch.dtype, shared: bool = True) -> int | None:
    """What lets two programs of eight warps share a processor, where nothing spills for it; else all that a thread may
    have, since the assembler, left alone, may take few and spill."""
    if tile.warps != 8 or not descriptors or dtype.itemsize != 2:
        return None
    return 128 if shared else 255


def precision(dtype: torch.dtype, tf32: bool) -> str:
    return "tf32" if tf32 and dtype == torch.float32 else "ieee"


def fitting(arch: int, itemsize: int, rows: int, processors: int, count: Callable[[Tile], int]) -> tuple[Tile, int]:
    """The tile for a product of so many rows and the count of such tiles; the small one too where the large one would
    leave processors idle."""
    small, large = TILES[arch >= TMA_ARCHITECTURE, itemsize]
    if rows <= small.rows or 2 * count(large) <= processors:
        return small, count(small)
    return large, count(large)


def index_type(images: int, rows: int, pitch: int, *tensors: Tensor) -> tl.dtype:
    """The type of distances in a tile, which reaches over so many images, and in a weight of so many rows."""
    reach = rows * pitch
    for t in tensors:
        inside = sum((size - 1) * stride for size, stride in zip(t.shape[1:], t.stride()[1:], strict=True))
        reach = max(reach, images * t.stride(0) + inside)
    return tl.int32 if reach < INDEX_LIMIT else tl.int64


def strides_of(input: Tensor) -> tuple[int, ...]:
    """As the kernels take them: 0 for a dimension of one element, whose own stride means nothing."""
    return tuple(stride if size > 1 else 0 for size, stride in zip(input.shape, input.stride(), strict=True))


def alignment(input: Tensor, pitch: int) -> int:
    """What the channels and the distances of pixels and of the weight's rows are multiples of; 1 where of 16, which the
    compiler sees by itself."""
    n, _, h, w = strides_of(input)
    divisor = math.gcd(16, input.shape[1], pitch, n, h, w)
    return 1 if divisor == 16 else divisor


@functools.lru_cache(maxsize=1024)
def box(images: int, rows: int, cols: int, pixels: int) -> tuple[int, int, int]:
    """The box of so many pixels, its sides powers of two, that covers images x rows x cols with least excess; of
    several the widest."""
    sizes = [1 << i for i in range(pixels.bit_length())]
    found = [(pixels // (h * w), h, w) for w in sizes for h in sizes if h * w <= pixels]
    return min(found, key=lambda sides: (boxes(images, rows, cols, sides), -sides[2], -sides[1]))


def boxes(images: int, rows: int, cols: int, sides: tuple[int, int, int]) -> int:
    return cdiv(images, sides[0]) * cdiv(rows, sides[1]) * cdiv(cols, sides[2])


def new_output(
    input: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    channels_last: bool,
) -> Tensor:
    size = [
        (input.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + weight.shape[2 + i] + output_padding[i]
        for i in range(2)
    ]
    order = torch.channels_last if channels_last else torch.contiguous_format
    shape = (input.shape[0], weight.shape[1], *size)
    return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=order)
