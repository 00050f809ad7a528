"""The kernel of max-pooling; max_pool.py launches it, window_tiles.py says what tiles, WINDOW and LAST are."""

import triton
import triton.language as tl

from .window_tiles import (
    SIZES,
    cell,
    extents,
    first_position,
    origin,
    pair_columns,
    place,
    plane_of,
    position,
    step,
    unit_tile,
    unzip,
    within,
)

CODES = tl.constexpr(1)
PLANE_INDICES = tl.constexpr(2)


@triton.jit
def take_over(value, its_mark, best, mark):
    """The first of equals stays, the last NaN wins."""
    over = (value > best) | (value != value)
    return tl.where(over, value, best), tl.where(over, its_mark, mark)


@triton.jit
def mark_of(k_d, k_h, k_w, height, width, WINDOW: tl.constexpr, KIND: tl.constexpr):
    """What is noted of a position while windows are searched: its code, or its distance in the plane."""
    if KIND == PLANE_INDICES:
        return step(k_d, k_h, k_w, height, width, WINDOW)
    else:
        return (k_d * WINDOW[0][1] + k_h) * WINDOW[0][2] + k_w


@triton.jit
def first_mark(d, h, w, height, width, WINDOW: tl.constexpr, KIND: tl.constexpr):
    k_d, k_h, k_w = first_position(d, 0, WINDOW), first_position(h, 1, WINDOW), first_position(w, 2, WINDOW)
    return mark_of(k_d, k_h, k_w, height, width, WINDOW, KIND)


@triton.jit(do_not_specialize=SIZES)
def max_pool_kernel(
    p_x, p_out, p_indices, units: tl.int64, channels: tl.int64, depth: tl.int64, height: tl.int64, width: tl.int64,
    pooled_depth: tl.int64, pooled_height: tl.int64, pooled_width: tl.int64,
    WINDOW: tl.constexpr, PAIRED: tl.constexpr, CHUNK: tl.constexpr,
    IMAGE_HINT: tl.constexpr, POOLED_HINT: tl.constexpr, DIMS: tl.constexpr, LAST: tl.constexpr, EXACT: tl.constexpr,
    KIND: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr, B_ROWS: tl.constexpr, B_COLS: tl.constexpr,
):  # fmt: skip
    """PAIRED: windows of two columns, side by side along whole rows, are read as such. CHUNK positions of a window, or
    of its rows where PAIRED, are searched without a loop."""
    pooled_depth, pooled_height, pooled_width, channels = extents(
        pooled_depth, pooled_height, pooled_width, channels, INDEX
    )
    depth, height, width, _ = extents(depth, height, width, channels, INDEX)
    i_plane, d, h, w, first, column, m = unit_tile(
        tl.program_id(0), units, pooled_depth, pooled_height, pooled_width, channels,
        DIMS, LAST, EXACT, INDEX, B_ROWS, B_COLS,
    )  # fmt: skip
    p_x = plane_of(p_x, i_plane, depth, height, width, channels, IMAGE_HINT)
    best = tl.full((B_ROWS, B_COLS), float("-inf"), ACC)
    mark = tl.zeros((B_ROWS, B_COLS), INDEX) + first_mark(d, h, w, height, width, WINDOW, KIND)
    PER_STEP: tl.constexpr = 2 if PAIRED else 1
    STEPS: tl.constexpr = WINDOW[0][0] * WINDOW[0][1] * WINDOW[0][2] // PER_STEP
    for i_chunk in range(0, STEPS, CHUNK):
        for i_step in tl.static_range(CHUNK):
            k_d, k_h, k_w = position((i_chunk + i_step) * PER_STEP, WINDOW)
            i_d, i_h = cell(d, k_d, 0, WINDOW), cell(h, k_h, 1, WINDOW)
            inside = m & within(i_d, depth) & within(i_h, height)
            here = mark_of(k_d, k_h, k_w, height, width, WINDOW, KIND)
            if PAIRED:
                pairs = pair_columns(first, B_COLS)
                o = place(i_d, i_h, pairs, pairs, height, width, channels, LAST, IMAGE_HINT)
                even, odd = unzip(tl.load(p_x + o, mask=inside, other=float("-inf")), B_ROWS, B_COLS)
                best, mark = take_over(even.to(ACC), here, best, mark)
                best, mark = take_over(odd.to(ACC), here + 1, best, mark)
            else:
                i_w = cell(w, k_w, 2, WINDOW)
                o = place(i_d, i_h, i_w, column, height, width, channels, LAST, IMAGE_HINT)
                value = tl.load(p_x + o, mask=inside & within(i_w, width), other=float("-inf"))
                best, mark = take_over(value.to(ACC), here, best, mark)
    o = place(d, h, w, column, pooled_height, pooled_width, channels, LAST, POOLED_HINT)
    p_out = plane_of(p_out, i_plane, pooled_depth, pooled_height, pooled_width, channels, POOLED_HINT)
    tl.store(p_out + o, best.to(p_out.dtype.element_ty), mask=m)
    if p_indices is not None:
        if KIND == PLANE_INDICES:
            mark += origin(d, h, w, height, width, WINDOW)
        p_indices = plane_of(p_indices, i_plane, pooled_depth, pooled_height, pooled_width, channels, POOLED_HINT)
        tl.store(p_indices + o, mark.to(p_indices.dtype.element_ty), mask=m)
