"""What the kernels over windows have in common: the tile of a program, the addresses in it, and the windows' geometry.

A tile is b_rows units of b_cols elements side by side: of columns (contiguous memory; a plane is one channel of an
image), or with LAST of channels (channels_last; a plane is an image with all its channels). Only the place of a unit
takes divisions. d, h and w of a tile are tensors that broadcast to it: w is [b_rows, b_cols], or [b_rows, 1] with LAST.

WINDOW is (kernel, stride, padding, dilation), each of depth, height and width.
"""

import triton
import triton.language as tl

# What their divisibility or value 1 would tell, the hints do: without this each size would recompile.
SIZES = ["units", "channels", "depth", "height", "width", "pooled_depth", "pooled_height", "pooled_width"]


@triton.jit
def extents(depth, height, width, channels, INDEX: tl.constexpr):
    return depth.to(INDEX), height.to(INDEX), width.to(INDEX), channels.to(INDEX)


@triton.jit
def unit_tile(
    i_tile, units, depth, height, width, channels,
    DIMS: tl.constexpr, LAST: tl.constexpr, EXACT: tl.constexpr, INDEX: tl.constexpr,
    b_rows: tl.constexpr, b_cols: tl.constexpr,
):  # fmt: skip
    """(plane, d, h, w, first column, all columns, mask) of the tile. EXACT: units end where rows do."""
    cols = channels if LAST else width
    across = tl.cdiv(cols, b_cols)
    i_unit = (i_tile.to(INDEX) * b_rows + tl.arange(0, b_rows))[:, None]
    m = i_unit < units.to(INDEX)
    first = (i_unit % across) * b_cols
    rest = i_unit // across
    column = first + tl.arange(0, b_cols)[None, :]
    if not EXACT:
        m = m & (column < cols)
    w = column
    if LAST:
        w = rest % width
        rest = rest // width
    h = tl.zeros_like(rest)
    d = h
    if DIMS > 1:
        h = rest % height
        rest = rest // height
    if DIMS > 2:
        d = rest % depth
        rest = rest // depth
    return rest, d, h, w, first, column, m


@triton.jit
def plane_of(p, i_plane, depth, height, width, channels, HINT: tl.constexpr):
    """HINT divides the length of a row."""
    size = depth.to(tl.int64) * height * width * channels
    return p + tl.multiple_of(i_plane.to(tl.int64) * size, [HINT, HINT])


@triton.jit
def place(d, h, w, column, height, width, channels, LAST: tl.constexpr, HINT: tl.constexpr):
    """The offset of an element in its plane."""
    row = (d * height + h) * width
    if LAST:
        return tl.multiple_of((row + w) * channels, [HINT, HINT]) + column
    else:
        return tl.multiple_of(row, [HINT, HINT]) + w


@triton.jit
def pair_columns(first, b_cols: tl.constexpr):
    """The columns of the image under a unit of windows of two columns, side by side."""
    return first * 2 + tl.arange(0, 2 * b_cols)[None, :]


@triton.jit
def unzip(t, b_rows: tl.constexpr, b_cols: tl.constexpr):
    return tl.split(tl.reshape(t, (b_rows, b_cols, 2)))


@triton.jit
def zip_columns(even, odd, b_rows: tl.constexpr, b_cols: tl.constexpr):
    return tl.reshape(tl.join(even, odd), (b_rows, 2 * b_cols))


@triton.jit
def position(code, WINDOW: tl.constexpr):
    """(d, h, w) within the window."""
    return code // (WINDOW[0][1] * WINDOW[0][2]), code // WINDOW[0][2] % WINDOW[0][1], code % WINDOW[0][2]


@triton.jit
def cell(p, k, axis: tl.constexpr, WINDOW: tl.constexpr):
    """Where position k of window p lies in the image, or in its padding."""
    return p * WINDOW[1][axis] - WINDOW[2][axis] + k * WINDOW[3][axis]


@triton.jit
def within(i, size):
    return (i >= 0) & (i < size)


@triton.jit
def step(k_d, k_h, k_w, height, width, WINDOW: tl.constexpr):
    """The distance in a plane from the first position of a window."""
    return (k_d * WINDOW[3][0] * height + k_h * WINDOW[3][1]) * width + k_w * WINDOW[3][2]


@triton.jit
def origin(d, h, w, height, width, WINDOW: tl.constexpr):
    """The plane index of the first position of a window; in the padding, what `step` leads from to a right one."""
    return (cell(d, 0, 0, WINDOW) * height + cell(h, 0, 1, WINDOW)) * width + cell(w, 0, 2, WINDOW)


@triton.jit
def first_position(p, axis: tl.constexpr, WINDOW: tl.constexpr):
    """The first position of window p that is not before the image."""
    before = tl.maximum(WINDOW[2][axis] - p * WINDOW[1][axis], 0)
    return (before + WINDOW[3][axis] - 1) // WINDOW[3][axis]


@triton.jit
def first_window(i, axis: tl.constexpr, WINDOW: tl.constexpr):
    """The first window that may hold element i of the image."""
    beyond = tl.maximum(i + WINDOW[2][axis] - (WINDOW[0][axis] - 1) * WINDOW[3][axis], 0)
    return (beyond + WINDOW[1][axis] - 1) // WINDOW[1][axis]


@triton.jit
def position_in(i, p, pooled, axis: tl.constexpr, WINDOW: tl.constexpr):
    """The position of element i in window p, and whether it has one; p is not before first_window."""
    distance = i - cell(p, 0, axis, WINDOW)
    held = (p < pooled) & (distance >= 0)
    if WINDOW[3][axis] > 1:
        held = held & (distance % WINDOW[3][axis] == 0)
        distance = distance // WINDOW[3][axis]
    return distance, held
