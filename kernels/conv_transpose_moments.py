"""Count, mean and sum of squared deviations of each part of a convolution's result, for the batch norm after it."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .integers import cdiv
from .layout import WARPS, Tile, on_device
from .norm_act_kernels import finite_or_zero

# So many parts the few programs that finish the statistics walk through in some microseconds.
MANY_PARTS = 2048
MERGE_TILE = Tile(128, 32)


class Parts(NamedTuple):
    """Of every part of the pixels: how many they are, and [parts, channels] their means and squared deviations. Where
    they are none, the others may be anything."""

    counts: Tensor
    means: Tensor
    m2s: Tensor


NO_PARTS = (None, None, None)


def new_parts(like: Tensor, parts: int, channels: int) -> Parts:
    shape = (parts, channels)
    return Parts(*(like.new_empty(size, dtype=torch.float32) for size in (shape[:1], shape, shape)))


def fewer(parts: Parts) -> Parts:
    """Those of a tile in one, where they are many."""
    count, channels = parts.means.shape
    if count <= MANY_PARTS:
        return parts
    merged = new_parts(parts.means, cdiv(count, MERGE_TILE.rows), channels)
    grid = (len(merged.counts), cdiv(channels, MERGE_TILE.cols))
    with on_device(parts.means):
        merge_kernel[grid](*parts, *merged, count, channels, *MERGE_TILE, num_warps=WARPS)
    return merged


@triton.jit
def store_moments(values, m_pixel, count, m_kept, i_pivot, i_part, i_o, m_row, channels, p_counts, p_means, p_m2s):
    """values [rows, pixels]: each row is the channel i_o of a part, whose pixels are `count` of m_pixel, or none where
    not m_kept. One mask of both would take twice the registers.

    Squared are distances from one of the pixels: where the squares cancel, they lose a factor of `count` at most.
    """
    i_part = (i_part + tl.zeros_like(i_o)).to(tl.int64)
    i = tl.arange(0, values.shape[1])
    pivot = finite_or_zero(tl.sum(tl.where((i == i_pivot)[None, :], values, 0.0), axis=1))
    apart = tl.where(m_pixel[None, :], values - pivot[:, None], 0.0)
    sums = tl.sum(apart, axis=1)
    shift = sums / tl.maximum(count, 1.0)
    m2 = tl.sum(apart * apart, axis=1) - sums * shift
    mean, m2 = pivot + shift, tl.where(m2 < 0, 0.0, m2)
    o = i_part * channels + i_o
    tl.store(p_counts + i_part, tl.where(m_kept, count, 0.0), mask=m_row & (i_o == 0))
    tl.store(p_means + o, mean, mask=m_row)
    tl.store(p_m2s + o, m2, mask=m_row)


@triton.jit(do_not_specialize=["parts"])
def merge_kernel(
    p_counts, p_means, p_m2s, p_merged_counts, p_merged_means, p_merged_m2s, parts, channels,
    B_PARTS: tl.constexpr, B_CHANNELS: tl.constexpr,
):  # fmt: skip
    i_merged = tl.program_id(0).to(tl.int64)
    i_part = i_merged * B_PARTS + tl.arange(0, B_PARTS)
    i_o = tl.program_id(1) * B_CHANNELS + tl.arange(0, B_CHANNELS)
    m_o = i_o < channels
    o = i_part[:, None] * channels + i_o[None, :]
    count = tl.load(p_counts + i_part, mask=i_part < parts, other=0.0)[:, None]
    m = (count > 0) & m_o[None, :]
    mean = tl.load(p_means + o, mask=m, other=0.0)
    m2 = tl.load(p_m2s + o, mask=m, other=0.0)
    all_count = tl.sum(count)
    share = count / tl.maximum(all_count, 1.0)
    # The mean of the distances from what is near it: what is large in all of them does not round.
    near = finite_or_zero(tl.sum(mean * share, axis=0))
    all_mean = near + tl.sum((mean - near[None, :]) * share, axis=0)
    apart = mean - all_mean[None, :]
    all_m2 = tl.sum(m2 + apart * apart * count, axis=0)
    o = i_merged * channels + i_o
    tl.store(p_merged_counts + i_merged, all_count)
    tl.store(p_merged_means + o, all_mean, mask=m_o)
    tl.store(p_merged_m2s + o, all_m2, mask=m_o)
