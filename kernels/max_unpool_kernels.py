"""The kernels of max-unpooling and of max-pooling's backward; max_unpool.py launches them, window_tiles.py says what
tiles, WINDOW and LAST are.

Indices are uint8 codes, or plane indices. The first two kernels ask each element of the image who chose it, which tells
what every index within its own window does; a flag is raised where another index is, and only then does the third
kernel overwrite what they wrote.
"""

import triton
import triton.language as tl

from .window_tiles import (
    SIZES,
    cell,
    extents,
    first_window,
    origin,
    pair_columns,
    place,
    plane_of,
    position,
    position_in,
    step,
    unit_tile,
    unzip,
    within,
    zip_columns,
)

GRID = ["grid_depth", "grid_height", "grid_width"]
SCATTERED = ["planes", "channels", "image", "pooled"]


@triton.jit
def mark_of(k_d, k_h, k_w, height, width, CODES: tl.constexpr, WINDOW: tl.constexpr):
    """What an index that chooses a position is, less `origin` of its window."""
    if CODES:
        return (k_d * WINDOW[0][1] + k_h) * WINDOW[0][2] + k_w
    else:
        return step(k_d, k_h, k_w, height, width, WINDOW)


@triton.jit
def marks(indices, d, h, w, height, width, CODES: tl.constexpr, WINDOW: tl.constexpr):
    if CODES:
        return indices.to(tl.int32)
    else:
        return indices.to(tl.int64) - origin(d, h, w, height, width, WINDOW)


@triton.jit
def raise_flag(p_flag, foreign):
    tl.store(p_flag, 1, mask=tl.max(foreign.to(tl.int32)) != 0)


@triton.jit(do_not_specialize=[*SIZES, *GRID])
def spread_windows_kernel(
    p_x, p_indices, p_out, p_flag, units: tl.int64, channels: tl.int64,
    depth: tl.int64, height: tl.int64, width: tl.int64,
    pooled_depth: tl.int64, pooled_height: tl.int64, pooled_width: tl.int64,
    grid_depth: tl.int64, grid_height: tl.int64, grid_width: tl.int64,
    WINDOW: tl.constexpr, PAIRED: tl.constexpr, CHUNK: tl.constexpr,
    IMAGE_HINT: tl.constexpr, POOLED_HINT: tl.constexpr, DIMS: tl.constexpr, LAST: tl.constexpr, EXACT: tl.constexpr,
    CODES: tl.constexpr, INDEX: tl.constexpr, B_ROWS: tl.constexpr, B_COLS: tl.constexpr,
):  # fmt: skip
    """Windows side by side, of which a tile writes all elements: those of the grid, which covers the image."""
    depth, height, width, channels = extents(depth, height, width, channels, INDEX)
    pooled_depth, pooled_height, pooled_width, _ = extents(pooled_depth, pooled_height, pooled_width, channels, INDEX)
    grid_depth, grid_height, grid_width, _ = extents(grid_depth, grid_height, grid_width, channels, INDEX)
    i_plane, d, h, w, first, column, m = unit_tile(
        tl.program_id(0), units, grid_depth, grid_height, grid_width, channels,
        DIMS, LAST, EXACT, INDEX, B_ROWS, B_COLS,
    )  # fmt: skip
    pooled = m & (d < pooled_depth) & (h < pooled_height)
    if not PAIRED:
        pooled = pooled & (w < pooled_width)
    p_x = plane_of(p_x, i_plane, pooled_depth, pooled_height, pooled_width, channels, POOLED_HINT)
    p_indices = plane_of(p_indices, i_plane, pooled_depth, pooled_height, pooled_width, channels, POOLED_HINT)
    p_out = plane_of(p_out, i_plane, depth, height, width, channels, IMAGE_HINT)
    o = place(d, h, w, column, pooled_height, pooled_width, channels, LAST, POOLED_HINT)
    x = tl.load(p_x + o, mask=pooled, other=0.0)
    nothing = tl.zeros_like(x)
    mark = marks(tl.load(p_indices + o, mask=pooled, other=0), d, h, w, height, width, CODES, WINDOW)
    own = tl.zeros(x.shape, tl.int1)
    PER_STEP: tl.constexpr = 2 if PAIRED else 1
    for i_step in tl.static_range(CHUNK):
        k_d, k_h, k_w = position(i_step * PER_STEP, WINDOW)
        i_d, i_h, i_w = cell(d, k_d, 0, WINDOW), cell(h, k_h, 1, WINDOW), cell(w, k_w, 2, WINDOW)
        inside = m & (i_d < depth) & (i_h < height)
        chosen = mark == mark_of(k_d, k_h, k_w, height, width, CODES, WINDOW)
        if PAIRED:
            also = mark == mark_of(k_d, k_h, k_w + 1, height, width, CODES, WINDOW)
            values = zip_columns(tl.where(chosen, x, nothing), tl.where(also, x, nothing), B_ROWS, B_COLS)
            columns = pair_columns(first, B_COLS)
            i_image = place(i_d, i_h, columns, columns, height, width, channels, LAST, IMAGE_HINT)
            chosen = chosen | also
        else:
            inside = inside & (i_w < width)
            values = tl.where(chosen, x, nothing)
            i_image = place(i_d, i_h, i_w, column, height, width, channels, LAST, IMAGE_HINT)
        tl.store(p_out + i_image, values, mask=inside)
        own = own | (inside & chosen)
    if p_flag is not None:
        raise_flag(p_flag, pooled & (own == 0))


@triton.jit
def check_tile(
    i_tile, p_indices, p_flag, units, depth, height, width, pooled_depth, pooled_height, pooled_width, channels,
    WINDOW: tl.constexpr, DIMS: tl.constexpr, LAST: tl.constexpr, EXACT: tl.constexpr, CHUNK: tl.constexpr,
    POOLED_HINT: tl.constexpr, INDEX: tl.constexpr, b_rows: tl.constexpr, b_cols: tl.constexpr,
):  # fmt: skip
    """Raises the flag where a plane index is outside its own window."""
    i_plane, d, h, w, _first, column, m = unit_tile(
        i_tile, units, pooled_depth, pooled_height, pooled_width, channels,
        DIMS, LAST, EXACT, INDEX, b_rows, b_cols,
    )  # fmt: skip
    p_indices = plane_of(p_indices, i_plane, pooled_depth, pooled_height, pooled_width, channels, POOLED_HINT)
    o = place(d, h, w, column, pooled_height, pooled_width, channels, LAST, POOLED_HINT)
    mark = marks(tl.load(p_indices + o, mask=m, other=0), d, h, w, height, width, False, WINDOW)
    own = tl.zeros((b_rows, b_cols), tl.int1)
    STEPS: tl.constexpr = WINDOW[0][0] * WINDOW[0][1] * WINDOW[0][2]
    for i_chunk in range(0, STEPS, CHUNK):
        for i_step in tl.static_range(CHUNK):
            k_d, k_h, k_w = position(i_chunk + i_step, WINDOW)
            inside = within(cell(d, k_d, 0, WINDOW), depth) & within(cell(h, k_h, 1, WINDOW), height)
            inside = inside & within(cell(w, k_w, 2, WINDOW), width)
            own = own | (inside & (mark == step(k_d, k_h, k_w, height, width, WINDOW)))
    raise_flag(p_flag, m & (own == 0))


@triton.jit
def gather_tile(
    i_tile, p_x, p_indices, p_out, units, depth, height, width, pooled_depth, pooled_height, pooled_width, channels,
    WINDOW: tl.constexpr, IMAGE_HINT: tl.constexpr, POOLED_HINT: tl.constexpr,
    DIMS: tl.constexpr, LAST: tl.constexpr, EXACT: tl.constexpr, CANDIDATES: tl.constexpr, CHUNK: tl.constexpr,
    CODES: tl.constexpr, SUM: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr,
    b_rows: tl.constexpr, b_cols: tl.constexpr,
):  # fmt: skip
    """Each element of the image from the windows that hold it and chose it: their sum, or the last."""
    i_plane, d, h, w, _first, column, m = unit_tile(
        i_tile, units, depth, height, width, channels, DIMS, LAST, EXACT, INDEX, b_rows, b_cols
    )  # fmt: skip
    p_x = plane_of(p_x, i_plane, pooled_depth, pooled_height, pooled_width, channels, POOLED_HINT)
    p_indices = plane_of(p_indices, i_plane, pooled_depth, pooled_height, pooled_width, channels, POOLED_HINT)
    p_out = plane_of(p_out, i_plane, depth, height, width, channels, IMAGE_HINT)
    first_d, first_h, first_w = first_window(d, 0, WINDOW), first_window(h, 1, WINDOW), first_window(w, 2, WINDOW)
    out = tl.zeros((b_rows, b_cols), ACC)
    STEPS: tl.constexpr = CANDIDATES[0] * CANDIDATES[1] * CANDIDATES[2]
    for i_chunk in range(0, STEPS, CHUNK):
        for i_step in tl.static_range(CHUNK):
            i_candidate = i_chunk + i_step
            p_d = first_d + i_candidate // (CANDIDATES[1] * CANDIDATES[2])
            p_h = first_h + i_candidate // CANDIDATES[2] % CANDIDATES[1]
            p_w = first_w + i_candidate % CANDIDATES[2]
            k_d, held_d = position_in(d, p_d, pooled_depth, 0, WINDOW)
            k_h, held_h = position_in(h, p_h, pooled_height, 1, WINDOW)
            k_w, held_w = position_in(w, p_w, pooled_width, 2, WINDOW)
            held = m & held_d & held_h & held_w
            o = place(p_d, p_h, p_w, column, pooled_height, pooled_width, channels, LAST, POOLED_HINT)
            index = tl.load(p_indices + o, mask=held, other=0)
            x = tl.load(p_x + o, mask=held, other=0.0).to(ACC)
            if CODES:
                chosen = held & (index == mark_of(k_d, k_h, k_w, height, width, CODES, WINDOW))
            else:
                chosen = held & (index == (d * height + h) * width + w)
            out = tl.where(chosen, out + x if SUM else x, out)
    o = place(d, h, w, column, height, width, channels, LAST, IMAGE_HINT)
    tl.store(p_out + o, out.to(p_out.dtype.element_ty), mask=m)


@triton.jit(do_not_specialize=[*SIZES, "pooled_units", "image_programs"])
def gather_kernel(
    p_x, p_indices, p_out, p_flag, units: tl.int64, channels: tl.int64,
    depth: tl.int64, height: tl.int64, width: tl.int64,
    pooled_depth: tl.int64, pooled_height: tl.int64, pooled_width: tl.int64,
    pooled_units: tl.int64, image_programs: tl.int64,
    WINDOW: tl.constexpr, PAIRED: tl.constexpr, CHUNK: tl.constexpr,
    IMAGE_HINT: tl.constexpr, POOLED_HINT: tl.constexpr, DIMS: tl.constexpr, LAST: tl.constexpr, EXACT: tl.constexpr,
    CANDIDATES: tl.constexpr, CANDIDATE_CHUNK: tl.constexpr, CODES: tl.constexpr, SUM: tl.constexpr,
    ACC: tl.constexpr, INDEX: tl.constexpr, B_ROWS: tl.constexpr, B_COLS: tl.constexpr,
    POOLED_EXACT: tl.constexpr, POOLED_ROWS: tl.constexpr, POOLED_COLS: tl.constexpr,
):  # fmt: skip
    """The first programs gather, the others, which are there with a flag, check. CANDIDATES: how many windows may hold
    an element, along each axis."""
    depth, height, width, channels = extents(depth, height, width, channels, INDEX)
    pooled_depth, pooled_height, pooled_width, _ = extents(pooled_depth, pooled_height, pooled_width, channels, INDEX)
    i_tile = tl.program_id(0)
    if i_tile < image_programs:
        gather_tile(
            i_tile, p_x, p_indices, p_out, units,
            depth, height, width, pooled_depth, pooled_height, pooled_width, channels,
            WINDOW, IMAGE_HINT, POOLED_HINT, DIMS, LAST, EXACT, CANDIDATES, CANDIDATE_CHUNK,
            CODES, SUM, ACC, INDEX, B_ROWS, B_COLS,
        )  # fmt: skip
    elif p_flag is not None:
        check_tile(
            i_tile - image_programs, p_indices, p_flag, pooled_units,
            depth, height, width, pooled_depth, pooled_height, pooled_width, channels,
            WINDOW, DIMS, LAST, POOLED_EXACT, CHUNK, POOLED_HINT, INDEX, POOLED_ROWS, POOLED_COLS,
        )  # fmt: skip


@triton.jit
def scatter_plane(
    p_x, p_indices, p_out, stride, image, pooled, INDEX: tl.constexpr, FILL: tl.constexpr, CHUNK: tl.constexpr
):  # fmt: skip
    """Zeros, then the pooled elements in their order, as many at a time as can be told apart: of those with one place
    the last is written."""
    nothing = tl.zeros((FILL,), p_out.dtype.element_ty)
    for i_start in range(0, image, FILL):
        i = i_start + tl.arange(0, FILL).to(tl.int64)
        tl.store(p_out + i * stride, nothing, mask=i < image)
    tl.debug_barrier()
    later = tl.arange(0, CHUNK)[None, :] > tl.arange(0, CHUNK)[:, None]
    for i_start in range(0, pooled, CHUNK):
        i = i_start + tl.arange(0, CHUNK).to(tl.int64)
        index = tl.load(p_indices + i * stride, mask=i < pooled, other=-1)
        x = tl.load(p_x + i * stride, mask=i < pooled, other=0.0)
        index = tl.where(within(index, image), index, -1).to(INDEX)
        lost = tl.max((later & (index[:, None] == index[None, :])).to(tl.int32), axis=1)
        tl.store(p_out + index * stride, x, mask=(index >= 0) & (lost == 0))
        tl.debug_barrier()


@triton.jit(do_not_specialize=SCATTERED)
def scatter_kernel(
    p_x, p_indices, p_out, p_flag, planes: tl.int64, channels: tl.int64, image: tl.int64, pooled: tl.int64,
    INDEX: tl.constexpr, FILL: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Any plane indices, where the flag is raised. A program takes channels of images, whose elements are `channels`
    apart, 1 where memory is contiguous; no other program writes there."""
    if tl.load(p_flag) != 0:
        for i_plane in range(tl.program_id(0).to(tl.int64), planes, tl.num_programs(0)):
            i_image = i_plane // channels
            i_channel = i_plane % channels
            o_pooled = i_image * pooled * channels + i_channel
            o_image = i_image * image * channels + i_channel
            scatter_plane(
                p_x + o_pooled, p_indices + o_pooled, p_out + o_image, channels, image, pooled, INDEX, FILL, CHUNK
            )  # fmt: skip


@triton.jit(do_not_specialize=SIZES)
def collect_kernel(
    p_g, p_indices, p_dx, units: tl.int64, channels: tl.int64,
    depth: tl.int64, height: tl.int64, width: tl.int64,
    pooled_depth: tl.int64, pooled_height: tl.int64, pooled_width: tl.int64,
    WINDOW: tl.constexpr, PAIRED: tl.constexpr, CHUNK: tl.constexpr,
    IMAGE_HINT: tl.constexpr, POOLED_HINT: tl.constexpr, DIMS: tl.constexpr, LAST: tl.constexpr, EXACT: tl.constexpr,
    WHOLE: tl.constexpr, CODES: tl.constexpr, INDEX: tl.constexpr, B_ROWS: tl.constexpr, B_COLS: tl.constexpr,
):  # fmt: skip
    """Each pooled element's g at its place, 0 where that is outside the image. WHOLE: windows are read whole, with wide
    accesses, and the place chosen among what they hold."""
    depth, height, width, channels = extents(depth, height, width, channels, INDEX)
    pooled_depth, pooled_height, pooled_width, _ = extents(pooled_depth, pooled_height, pooled_width, channels, INDEX)
    i_plane, d, h, w, first, column, m = unit_tile(
        tl.program_id(0), units, pooled_depth, pooled_height, pooled_width, channels,
        DIMS, LAST, EXACT, INDEX, B_ROWS, B_COLS,
    )  # fmt: skip
    p_g = plane_of(p_g, i_plane, depth, height, width, channels, IMAGE_HINT)
    p_indices = plane_of(p_indices, i_plane, pooled_depth, pooled_height, pooled_width, channels, POOLED_HINT)
    p_dx = plane_of(p_dx, i_plane, pooled_depth, pooled_height, pooled_width, channels, POOLED_HINT)
    o = place(d, h, w, column, pooled_height, pooled_width, channels, LAST, POOLED_HINT)
    index = tl.load(p_indices + o, mask=m, other=0)
    if WHOLE:
        d_x = tl.zeros((B_ROWS, B_COLS), p_dx.dtype.element_ty)
        PER_STEP: tl.constexpr = 2 if PAIRED else 1
        for i_step in tl.static_range(CHUNK):
            k_d, k_h, k_w = position(i_step * PER_STEP, WINDOW)
            i_d, i_h, i_w = cell(d, k_d, 0, WINDOW), cell(h, k_h, 1, WINDOW), cell(w, k_w, 2, WINDOW)
            inside = m & (i_d < depth) & (i_h < height)
            if PAIRED:
                columns = pair_columns(first, B_COLS)
                i_image = place(i_d, i_h, columns, columns, height, width, channels, LAST, IMAGE_HINT)
                even, odd = unzip(tl.load(p_g + i_image, mask=inside, other=0.0), B_ROWS, B_COLS)
                d_x = tl.where(index == i_step * 2, even, tl.where(index == i_step * 2 + 1, odd, d_x))
            else:
                i_image = place(i_d, i_h, i_w, column, height, width, channels, LAST, IMAGE_HINT)
                g = tl.load(p_g + i_image, mask=inside & (i_w < width), other=0.0)
                d_x = tl.where(index == i_step, g, d_x)
    else:
        if CODES:
            code = index.to(tl.int32)
            k_d, k_h, k_w = position(code, WINDOW)
            i_d, i_h, i_w = cell(d, k_d, 0, WINDOW), cell(h, k_h, 1, WINDOW), cell(w, k_w, 2, WINDOW)
            inside = within(i_d, depth) & within(i_h, height) & within(i_w, width)
            inside = inside & (code < WINDOW[0][0] * WINDOW[0][1] * WINDOW[0][2])
            i_image = (i_d * height + i_h) * width + i_w
        else:
            inside = within(index, depth.to(tl.int64) * height * width)
            i_image = index.to(INDEX)
        if LAST:
            i_image = i_image * channels + column
        d_x = tl.load(p_g + i_image, mask=m & inside, other=0.0)
    tl.store(p_dx + o, d_x, mask=m)
