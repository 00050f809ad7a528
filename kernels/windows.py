"""The geometry of windows as the launchers see it, and how the elements of images are cut into programs."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from .integers import cdiv, next_power_of_2
from .layout import WARPS, Tile

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
Triple = tuple[int, int, int]

# Elements side by side in a unit, at most; and where a row has an odd number of them.
UNIT = 16
ODD_UNIT = 8
# Positions of a window up to which a kernel is compiled without a loop over them.
UNROLLED = 32


def memory_format(t: Tensor, channels_last: bool) -> torch.memory_format:
    return CHANNELS_LAST[t.dim()] if channels_last else torch.contiguous_format


def empty_images(like: Tensor, sizes: Sequence[int], channels_last: bool) -> Tensor:
    order = memory_format(like, channels_last)
    return torch.empty((*like.shape[:2], *sizes), dtype=like.dtype, device=like.device, memory_format=order)


def in_order(t: Tensor, channels_last: bool) -> Tensor:
    return t.contiguous(memory_format=memory_format(t, channels_last))


def triple(numbers: Sequence[int], fill: int = 1) -> Triple:
    """Of fewer than three dimensions depth, or depth and height, are `fill`."""
    depth, height, width = (fill,) * (3 - len(numbers)) + tuple(numbers)
    return depth, height, width


class Window(NamedTuple):
    kernel: Triple
    stride: Triple
    padding: Triple
    dilation: Triple

    @property
    def positions(self) -> int:
        return math.prod(self.kernel)

    @property
    def tiles(self) -> bool:
        """Windows lie side by side from the first element on."""
        return self.kernel == self.stride and not any(self.padding) and self.dilation == (1, 1, 1)


def window_of(kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> Window:
    return Window(triple(kernel), triple(stride), triple(padding, 0), triple(dilation))


class Cut(NamedTuple):
    """Programs that share a grid of elements, each with a tile of units (window_tiles.py). exact: units end where rows
    do."""

    units: int
    exact: bool
    tile: Tile
    programs: int


class Pooling(NamedTuple):
    """Windows over planes: `last`, images with all their channels side by side, else single channels."""

    dims: int
    last: bool
    planes: int
    channels: int
    window: Window
    image: Triple
    pooled: Triple

    @property
    def paired(self) -> bool:
        """Two columns make a window, and the windows a row: rows are read and written whole."""
        along_rows = tuple(numbers[2] for numbers in self.window)
        return not self.last and along_rows == (2, 2, 0, 1) and self.image[2] == 2 * self.pooled[2]

    @property
    def whole(self) -> bool:
        """Whether a kernel can go from window to window, with accesses of 16 bytes on both sides."""
        return self.window.tiles and (self.last or self.paired) and self.window.positions <= UNROLLED

    @property
    def candidates(self) -> Triple:
        """How many windows may hold an element, along each axis."""
        kernel, stride, _, dilation = self.window
        depth, height, width = (((k - 1) * d) // s + 1 for k, s, d in zip(kernel, stride, dilation, strict=True))
        return depth, height, width

    @property
    def covering(self) -> Triple:
        """As many windows, side by side, as hold all of the image, and no fewer than there are."""
        sizes = zip(self.image, self.window.kernel, self.pooled, strict=True)
        depth, height, width = (max(-(-size // k), windows) for size, k, windows in sizes)
        return depth, height, width

    def row(self, sizes: Triple) -> int:
        """How many elements lie side by side."""
        return self.channels if self.last else sizes[2]

    def cut(self, sizes: Triple, size: int, paired: bool = False) -> Cut:
        """size: of what a thread has 16 bytes, for each element of the grid."""
        row = self.row(sizes)
        unit = math.gcd(row, UNIT)
        if unit == 1 and not paired:
            unit = min(ODD_UNIT, next_power_of_2(row))
        units = self.planes * math.prod(sizes) * self.channels // row * cdiv(row, unit)
        tile = Tile(32 * WARPS * 16 // size // unit, unit)
        return Cut(units, row % unit == 0, tile, cdiv(units, tile.rows))

    def pair_size(self, t: Tensor) -> int:
        """The size of the two columns of the image, or more, that belong to a pooled element of contiguous memory."""
        return t.element_size() * (1 if self.last else 2)

    def numbers(self, cut: Cut) -> tuple[int, ...]:
        """A kernel's arguments of changing sizes."""
        return cut.units, self.channels, *self.image, *self.pooled

    def form(self, cut: Cut, paired: bool = False) -> tuple[Any, ...]:
        """A kernel's constants. The hints divide the offsets of units."""
        steps = self.window.positions // (2 if paired else 1)
        hints = (math.gcd(self.row(sizes), UNIT) for sizes in (self.image, self.pooled))
        chunk = steps if steps <= UNROLLED else 1
        return tuple(self.window), paired, chunk, *hints, self.dims, self.last, cut.exact

    def index(self, *cuts: Cut) -> tl.dtype:
        """Holds every unit, those too that a last tile lacks, and every offset in a plane with its padding."""
        counts = (2 * math.prod(sizes) * self.channels for sizes in (self.image, self.pooled))
        return tl.int32 if max(*counts, *(c.units + c.tile.rows for c in cuts)) < 2**31 else tl.int64


def pooling_of(t: Tensor, channels_last: bool, window: Window, image: Sequence[int], pooled: Sequence[int]) -> Pooling:
    """t: of either side."""
    n, c = t.shape[:2]
    # One channel innermost is contiguous memory.
    last = channels_last and c > 1
    planes, channels = (n, c) if last else (n * c, 1)
    return Pooling(t.dim() - 2, last, planes, channels, window, triple(image), triple(pooled))
