"""Views of tensors as the kernels address them, and how a [rows, columns] problem is cut into programs."""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

TRITON_DTYPES = {torch.float32: tl.float32, torch.float64: tl.float64}

# One or two waves on a large GPU, and few enough partial sums for the second stage.
TOTAL_PROGRAMS = 2048


class Tile(NamedTuple):
    """What one program holds at a time: rows x columns, powers of two."""

    rows: int
    cols: int


# Every kernel runs with this many warps, so that a thread has 8 elements of a wide tile and 2 of a narrow one. Wide:
# whole 16-byte accesses. Narrow: float64, whose formulas need registers (two of its values are 16 bytes), and data
# that no 16-byte access can reach, where every element has its own address in registers. Nothing spills.
WARPS = 8
# By the number of columns (the last takes any): several rows only where rows are short.
Tiles = tuple[tuple[int, Tile], ...]
WIDE_TILES: Tiles = ((128, Tile(32, 64)), (2048, Tile(4, 512)), (0, Tile(1, 2048)))
NARROW_TILES: Tiles = ((128, Tile(8, 64)), (0, Tile(1, 512)))


class Plan(NamedTuple):
    """Programs of one part: each takes tile.rows rows and `span` of their columns, `splits` of them a row."""

    tile: Tile
    rows: int
    cols: int
    splits: int
    span: int
    programs: int

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """As the kernels take them: rows, cols, span, splits."""
        return self.rows, self.cols, self.span, self.splits


def tiles_for(acc: torch.dtype, counts: tuple[int, ...], tensors: tuple[Tensor | None, ...]) -> Tiles:
    """counts: columns and distances between rows."""
    aligned = all(n % 16 == 0 for n in counts) and all(t is None or t.data_ptr() % 16 == 0 for t in tensors)
    return WIDE_TILES if aligned and acc == torch.float32 else NARROW_TILES


def plan(rows: int, cols: int, tiles: Tiles) -> Plan:
    tile = next((tile for limit, tile in tiles if rows > 1 and cols <= limit), tiles[-1][1])
    row_blocks = -(-rows // tile.rows)
    steps = max(1, -(-cols // tile.cols))
    per_program = -(-steps // max(1, TOTAL_PROGRAMS // max(1, row_blocks)))
    splits = -(-steps // per_program)
    return Plan(tile, rows, cols, splits, per_program * tile.cols, row_blocks * splits)


class Rows(NamedTuple):
    """A tensor read as [rows, columns]: contiguous rows, any distance between them."""

    tensor: Tensor
    stride: int


class Latents(NamedTuple):
    """The operands of an op on Gaussians as [rows, cols], with the distance between the rows of each."""

    tensors: tuple[Tensor | None, ...]
    strides: tuple[int, ...]
    rows: int
    cols: int

    @property
    def whole_quads(self) -> bool:
        """Every row starts at a multiple of four elements, as every tile does within its row."""
        return self.rows <= 1 or self.cols % 4 == 0


def accumulation_dtype(*tensors: Tensor | None) -> torch.dtype:
    wide = any(t is not None and t.dtype == torch.float64 for t in tensors)
    return torch.float64 if wide else torch.float32


def on_device(t: Tensor) -> AbstractContextManager[object]:
    # Usually the current device is the tensor's, and asking costs less than switching there and back.
    if not t.is_cuda or t.device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(t.device)


def is_dense(t: Tensor) -> bool:
    """No gap and no overlap: the strides are a permutation of the contiguous ones."""
    expected = 1
    for size, stride in sorted(zip(t.shape, t.stride(), strict=True), key=lambda axis: axis[1]):
        if size != 1 and stride != expected:
            return t.numel() == 0
        expected *= size
    return True


def dense(t: Tensor, rows: bool) -> Tensor:
    """t itself where its memory is one block (with dim 0 outermost if rows), else a contiguous copy."""
    if t.is_contiguous():
        return t
    outermost = not rows or t.stride(0) * t.shape[0] == t.numel()
    return t if outermost and is_dense(t) else t.contiguous()


def strided_like(t: Tensor, model: Tensor) -> Tensor:
    """t itself where it has the strides of the dense tensor `model`, else a copy that has."""
    axes = zip(model.shape, t.stride(), model.stride(), strict=True)
    if all(size == 1 or mine == wanted for size, mine, wanted in axes) or t.numel() == 0:
        return t
    return torch.empty_like(model, dtype=t.dtype).copy_(t)


def row_view(t: Tensor) -> Rows:
    """t as [shape[0], rest], copied only where a row is not contiguous."""
    if t.dim() == 0:
        return Rows(t, 1)
    expected = 1
    for size, stride in zip(reversed(t.shape[1:]), reversed(t.stride()[1:]), strict=True):
        if size != 1 and stride != expected:
            t = t.contiguous()
            break
        expected *= size
    return Rows(t, t.stride(0))


def latents(flat: bool, mu: Tensor, *others: Tensor | None) -> Latents:
    """flat: rows need not be told apart, so that contiguous operands become one long row."""
    views = [None if t is None else row_view(t) for t in (mu, *others)]
    rows, cols = (mu.shape[0], mu.shape[1:].numel()) if mu.dim() else (1, 1)
    if flat and all(view is None or rows <= 1 or view.stride == cols for view in views):
        rows, cols = 1, rows * cols
    tensors = tuple(None if view is None else view.tensor for view in views)
    return Latents(tensors, tuple(cols if view is None else view.stride for view in views), rows, cols)


def cut_latents(q: Latents, acc: torch.dtype) -> Plan:
    return plan(q.rows, q.cols, tiles_for(acc, (q.cols, *q.strides), q.tensors))


def row_stride(g: Tensor | None) -> int:
    """Distance between the rows' upstream gradients; 0 where one serves all."""
    return g.stride(0) if g is not None and g.dim() else 0


def absent(like: Tensor) -> Tensor:
    return like.new_empty(0)


def contiguous_like(t: Tensor) -> Tensor:
    return torch.empty_like(t, memory_format=torch.contiguous_format)
