"""Weights of a transposed convolution as the matrix that its products read."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from .conv_transpose_tiles import Tile
from .integers import cdiv
from .layout import WARPS

PACK_TILE = (32, 64)


class Matrix(NamedTuple):
    """The weight as a matrix: [Cin, rows of the product], or [rows, Cin] where `k_major`."""

    tensor: Tensor
    pitch: int
    k_major: bool


def rows_stride(weight: Tensor, tap_major: bool) -> int | None:
    """Distance between input channels where each one's values lie together, ordered (tap, co) or (co, tap)."""
    shape, strides = weight.shape, weight.stride()
    expected = 1
    for axis in (1, 3, 2) if tap_major else (3, 2, 1):
        if shape[axis] != 1 and strides[axis] != expected:
            return None
        expected *= shape[axis]
    return strides[0] if shape[0] != 1 else expected


def packed(weight: Tensor, tap_major: bool) -> Matrix:
    """A copy as [rows, Cin], each row starting at a multiple of 16 bytes."""
    channels, outputs, k_h, k_w = weight.shape
    each = 16 // weight.element_size()
    pitch = -(-channels // each) * each
    out = weight.new_empty(outputs * k_h * k_w, pitch)
    read_tap_major = rows_stride(weight, True) is not None
    grid = (cdiv(channels, PACK_TILE[0]), cdiv(out.shape[0], PACK_TILE[1]))
    pack_kernel[grid](
        weight, out, channels, outputs, k_h * k_w, k_w, *weight.stride(), pitch,
        read_tap_major, tap_major, *PACK_TILE, num_warps=WARPS,
    )  # fmt: skip
    return Matrix(out, pitch, True)


def is_aligned(t: Tensor, *strides: int) -> bool:
    """Whether the tensor and its rows start at multiples of 16 bytes, as the copy engine wants."""
    return t.data_ptr() % 16 == 0 and all(s > 0 and s * t.element_size() % 16 == 0 for s in strides)


def wants_k_major(weight: Tensor) -> bool:
    """The tensor cores read 4-byte operands along K only."""
    return weight.dtype == torch.float32


def weight_descriptor(matrix: Matrix, channels: int, rows: int, tile: Tile) -> TensorDescriptor:
    shape, block = [channels, rows], [tile.depth, tile.rows]
    if matrix.k_major:
        shape, block = shape[::-1], block[::-1]
    return TensorDescriptor(matrix.tensor, shape, [matrix.pitch, 1], block)


@triton.jit(do_not_specialize=["taps", "k_w", "stride_h", "stride_w"])
def pack_kernel(
    p_weight, p_out, channels, outputs, taps, k_w,
    stride_i: tl.int64, stride_o: tl.int64, stride_h: tl.int64, stride_w: tl.int64, pitch: tl.int64,
    READ_TAP_MAJOR: tl.constexpr, TAP_MAJOR: tl.constexpr, B_CHANNELS: tl.constexpr, B_ROWS: tl.constexpr,
):  # fmt: skip
    """p_out[row, ci] = weight[ci, co, tap], row being (tap, co) or (co, tap); read in the order of the weight."""
    i_c = tl.program_id(0) * B_CHANNELS + tl.arange(0, B_CHANNELS)
    i = tl.program_id(1) * B_ROWS + tl.arange(0, B_ROWS)
    if READ_TAP_MAJOR:
        i_o, i_tap = i % outputs, i // outputs
    else:
        i_o, i_tap = i // taps, i % taps
    m = (i_c < channels)[:, None] & (i < outputs * taps)[None, :]
    o_row = i_o * stride_o + (i_tap // k_w) * stride_h + (i_tap % k_w) * stride_w
    values = tl.load(p_weight + i_c[:, None] * stride_i + o_row[None, :], mask=m, other=0.0)
    i_row = i_tap * outputs + i_o if TAP_MAJOR else i_o * taps + i_tap
    tl.store(p_out + i_row[None, :] * pitch + i_c[:, None], values.to(p_out.dtype.element_ty), mask=m)
