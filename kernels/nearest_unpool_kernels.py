"""The kernels of upsampling without indices; nearest_unpool.py launches them, window_tiles.py says what tiles, WINDOW
and LAST are.

A value fills its window, or with NAILS is at its first cell, where all else is zero.
"""

import triton
import triton.language as tl

from .window_tiles import SIZES, cell, extents, pair_columns, place, plane_of, position, unit_tile, unzip, zip_columns


@triton.jit(do_not_specialize=SIZES)
def fill_windows_kernel(
    p_x, p_out, units: tl.int64, channels: tl.int64, depth: tl.int64, height: tl.int64, width: tl.int64,
    pooled_depth: tl.int64, pooled_height: tl.int64, pooled_width: tl.int64,
    WINDOW: tl.constexpr, PAIRED: tl.constexpr, CHUNK: tl.constexpr,
    IMAGE_HINT: tl.constexpr, POOLED_HINT: tl.constexpr, DIMS: tl.constexpr, LAST: tl.constexpr, EXACT: tl.constexpr,
    NAILS: tl.constexpr, INDEX: tl.constexpr, B_ROWS: tl.constexpr, B_COLS: tl.constexpr,
):  # fmt: skip
    """A tile of values, each of which is read once and written to all of its window."""
    pooled_depth, pooled_height, pooled_width, channels = extents(
        pooled_depth, pooled_height, pooled_width, channels, INDEX
    )
    depth, height, width, _ = extents(depth, height, width, channels, INDEX)
    i_plane, d, h, w, first, column, m = unit_tile(
        tl.program_id(0), units, pooled_depth, pooled_height, pooled_width, channels,
        DIMS, LAST, EXACT, INDEX, B_ROWS, B_COLS,
    )  # fmt: skip
    p_x = plane_of(p_x, i_plane, pooled_depth, pooled_height, pooled_width, channels, POOLED_HINT)
    p_out = plane_of(p_out, i_plane, depth, height, width, channels, IMAGE_HINT)
    o = place(d, h, w, column, pooled_height, pooled_width, channels, LAST, POOLED_HINT)
    x = tl.load(p_x + o, mask=m, other=0.0)
    nothing = tl.zeros_like(x)
    PER_STEP: tl.constexpr = 2 if PAIRED else 1
    for i_step in tl.static_range(CHUNK):
        k_d, k_h, k_w = position(i_step * PER_STEP, WINDOW)
        i_d, i_h = cell(d, k_d, 0, WINDOW), cell(h, k_h, 1, WINDOW)
        value = nothing if NAILS and i_step > 0 else x
        if PAIRED:
            columns = pair_columns(first, B_COLS)
            pairs = zip_columns(value, nothing if NAILS else value, B_ROWS, B_COLS)
            tl.store(
                p_out + place(i_d, i_h, columns, columns, height, width, channels, LAST, IMAGE_HINT), pairs, mask=m
            )
        else:
            i_w = cell(w, k_w, 2, WINDOW)
            tl.store(p_out + place(i_d, i_h, i_w, column, height, width, channels, LAST, IMAGE_HINT), value, mask=m)


@triton.jit(do_not_specialize=SIZES)
def repeat_kernel(
    p_x, p_out, units: tl.int64, channels: tl.int64, depth: tl.int64, height: tl.int64, width: tl.int64,
    pooled_depth: tl.int64, pooled_height: tl.int64, pooled_width: tl.int64,
    WINDOW: tl.constexpr, PAIRED: tl.constexpr, CHUNK: tl.constexpr,
    IMAGE_HINT: tl.constexpr, POOLED_HINT: tl.constexpr, DIMS: tl.constexpr, LAST: tl.constexpr, EXACT: tl.constexpr,
    NAILS: tl.constexpr, INDEX: tl.constexpr, B_ROWS: tl.constexpr, B_COLS: tl.constexpr,
):  # fmt: skip
    """A tile of the image, each element of which asks its window: for wide windows, whose writes would lie apart."""
    pooled_depth, pooled_height, pooled_width, channels = extents(
        pooled_depth, pooled_height, pooled_width, channels, INDEX
    )
    depth, height, width, _ = extents(depth, height, width, channels, INDEX)
    i_plane, d, h, w, _first, column, m = unit_tile(
        tl.program_id(0), units, depth, height, width, channels, DIMS, LAST, EXACT, INDEX, B_ROWS, B_COLS
    )  # fmt: skip
    p_x = plane_of(p_x, i_plane, pooled_depth, pooled_height, pooled_width, channels, POOLED_HINT)
    p_out = plane_of(p_out, i_plane, depth, height, width, channels, IMAGE_HINT)
    p_d, p_h, p_w = d // WINDOW[0][0], h // WINDOW[0][1], w // WINDOW[0][2]
    held = m
    if NAILS:
        held = held & (d % WINDOW[0][0] == 0) & (h % WINDOW[0][1] == 0) & (w % WINDOW[0][2] == 0)
    i_pooled = place(p_d, p_h, p_w, column, pooled_height, pooled_width, channels, LAST, POOLED_HINT)
    x = tl.load(p_x + i_pooled, mask=held, other=0.0)
    tl.store(p_out + place(d, h, w, column, height, width, channels, LAST, IMAGE_HINT), x, mask=m)


@triton.jit(do_not_specialize=SIZES)
def sum_windows_kernel(
    p_g, p_dx, units: tl.int64, channels: tl.int64, depth: tl.int64, height: tl.int64, width: tl.int64,
    pooled_depth: tl.int64, pooled_height: tl.int64, pooled_width: tl.int64,
    WINDOW: tl.constexpr, PAIRED: tl.constexpr, CHUNK: tl.constexpr,
    IMAGE_HINT: tl.constexpr, POOLED_HINT: tl.constexpr, DIMS: tl.constexpr, LAST: tl.constexpr, EXACT: tl.constexpr,
    NAILS: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr, B_ROWS: tl.constexpr, B_COLS: tl.constexpr,
):  # fmt: skip
    """The sum of each window, in the order of its elements, or its first cell."""
    pooled_depth, pooled_height, pooled_width, channels = extents(
        pooled_depth, pooled_height, pooled_width, channels, INDEX
    )
    depth, height, width, _ = extents(depth, height, width, channels, INDEX)
    i_plane, d, h, w, first, column, m = unit_tile(
        tl.program_id(0), units, pooled_depth, pooled_height, pooled_width, channels,
        DIMS, LAST, EXACT, INDEX, B_ROWS, B_COLS,
    )  # fmt: skip
    p_g = plane_of(p_g, i_plane, depth, height, width, channels, IMAGE_HINT)
    p_dx = plane_of(p_dx, i_plane, pooled_depth, pooled_height, pooled_width, channels, POOLED_HINT)
    PER_STEP: tl.constexpr = 2 if PAIRED else 1
    STEPS: tl.constexpr = 1 if NAILS else WINDOW[0][0] * WINDOW[0][1] * WINDOW[0][2] // PER_STEP
    d_x = tl.zeros((B_ROWS, B_COLS), ACC)
    for i_chunk in range(0, STEPS, CHUNK):
        for i_step in tl.static_range(1 if NAILS else CHUNK):
            k_d, k_h, k_w = position((i_chunk + i_step) * PER_STEP, WINDOW)
            i_d, i_h = cell(d, k_d, 0, WINDOW), cell(h, k_h, 1, WINDOW)
            if PAIRED:
                columns = pair_columns(first, B_COLS)
                i_image = place(i_d, i_h, columns, columns, height, width, channels, LAST, IMAGE_HINT)
                even, odd = unzip(tl.load(p_g + i_image, mask=m, other=0.0).to(ACC), B_ROWS, B_COLS)
                d_x += even
                if not NAILS:
                    d_x += odd
            else:
                i_image = place(i_d, i_h, cell(w, k_w, 2, WINDOW), column, height, width, channels, LAST, IMAGE_HINT)
                d_x += tl.load(p_g + i_image, mask=m, other=0.0).to(ACC)
    o = place(d, h, w, column, pooled_height, pooled_width, channels, LAST, POOLED_HINT)
    tl.store(p_dx + o, d_x.to(p_dx.dtype.element_ty), mask=m)
