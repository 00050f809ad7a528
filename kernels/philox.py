"""Random words and normal numbers of elements, the same in every backend.

Philox 4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011). Its key
is the seed, its counter the offset in Philox calls (low words) and the number of a quad, four elements in row-major
order (high words): as in torch's kernels, whose draws with this seed and other offsets share no counter with these.
"""

import triton
import triton.language as tl

from .formulas import constant_like
from .tiles import integer, tile_offsets


@triton.jit
def seed_of(p_seed, seed_value):
    if p_seed is not None:
        return tl.load(p_seed)
    return integer(seed_value)


@triton.jit
def words(seed, offset, quad):
    """The four 32-bit words of each quad; all arguments are int64."""
    low, high = quad.to(tl.uint32), (quad >> 32).to(tl.uint32)
    return tl.philox(seed, offset.to(tl.uint32), (offset >> 32).to(tl.uint32), low, high)


@triton.jit
def sin_cos(t):
    """sin(t) and cos(t) for |t| <= pi/4: in float32 polynomials that are right to 4e-9, else series."""
    s = t * t
    if t.dtype == tl.float64:
        sin = constant_like(t, 1.0)
        cos = constant_like(t, 1.0)
        for k in tl.static_range(9, 0, -1):
            sin = 1.0 - sin * s * (1.0 / (2 * k * (2 * k + 1)))
            cos = 1.0 - cos * s * (1.0 / ((2 * k - 1) * 2 * k))
        return sin * t, cos
    sin = (s * -0.0001951729843 + 0.008332178142) * s - 0.1666665494
    cos = (s * 2.439045016e-5 - 0.001388676379) * s + 0.04166662332
    return sin * s * t + t, (cos * s - 0.4999999973) * s + 1.0


@triton.jit
def normal_pair(a, b, acc: tl.constexpr):
    """Two normals of two words (Box and Muller 1958): the radius from a; from b the angle, as a quadrant and the
    rest, an exact integer in quarters of a word, from -pi/4 to pi/4."""
    u = a.to(acc) * 2.3283064365386963e-10 + 1.1641532182693481e-10
    radius = tl.sqrt(tl.log(u) * -2.0)
    rest = (b << 2).to(tl.int32, bitcast=True)
    sin, cos = sin_cos(rest.to(acc) * 3.657295198167899e-10)
    quadrant = ((b >> 29) + 1) >> 1
    odd = (quadrant & 1) != 0
    x = tl.where(odd, sin, cos)
    y = tl.where(odd, cos, sin)
    return radius * tl.where(((quadrant + 1) & 2) != 0, -x, x), radius * tl.where((quadrant & 2) != 0, -y, y)


@triton.jit
def interleaved(x0, x1, x2, x3):
    """[rows, n] each -> [rows, 4n]: the values of a quad side by side."""
    return tl.interleave(tl.interleave(x0, x2), tl.interleave(x1, x3))


@triton.jit
def element_words(seed, offset, i_row, i_col, cols, b_rows: tl.constexpr, b_cols: tl.constexpr):
    """For tiles that do not start with a quad: each element's number in its quad, and all words of that."""
    index = tile_offsets(i_row, i_col, cols, b_rows, b_cols)
    x0, x1, x2, x3 = words(seed, offset, index >> 2)
    return index & 3, x0, x1, x2, x3


@triton.jit
def quad_words(
    seed, offset, i_row, i_col, cols, PART: tl.constexpr, PARTS: tl.constexpr,
    b_rows: tl.constexpr, b_cols: tl.constexpr,
):  # fmt: skip
    """Words of every PARTS-th quad, from number PART on, of a tile whose rows are whole quads."""
    i_quad = i_row * (cols >> 2) + (i_col >> 2) + PART
    rows = tl.arange(0, b_rows)[:, None] * (cols >> 2)
    return words(seed, offset, i_quad + rows + tl.arange(0, b_cols // (4 * PARTS))[None, :] * PARTS)


@triton.jit
def quad_normals(
    seed, offset, i_row, i_col, cols, PART: tl.constexpr, PARTS: tl.constexpr,
    acc: tl.constexpr, b_rows: tl.constexpr, b_cols: tl.constexpr,
):  # fmt: skip
    x0, x1, x2, x3 = quad_words(seed, offset, i_row, i_col, cols, PART, PARTS, b_rows, b_cols)
    n0, n1 = normal_pair(x0, x1, acc)
    n2, n3 = normal_pair(x2, x3, acc)
    return n0, n1, n2, n3


@triton.jit
def word_tile(
    seed, offset, i_row, i_col, cols, QUADS: tl.constexpr, b_rows: tl.constexpr, b_cols: tl.constexpr
):  # fmt: skip
    """The word of each element of a tile of a [rows, cols] tensor. QUADS: the tile's rows are whole quads."""
    if QUADS:
        x0, x1, x2, x3 = quad_words(seed, offset, i_row, i_col, cols, 0, 1, b_rows, b_cols)
        return interleaved(x0, x1, x2, x3)
    j, x0, x1, x2, x3 = element_words(seed, offset, i_row, i_col, cols, b_rows, b_cols)
    return tl.where(j < 2, tl.where(j == 0, x0, x1), tl.where(j == 2, x2, x3))


@triton.jit
def normal_tile(
    seed, offset, i_row, i_col, cols, dtype: tl.constexpr, QUADS: tl.constexpr,
    acc: tl.constexpr, b_rows: tl.constexpr, b_cols: tl.constexpr,
):  # fmt: skip
    """The standard normal of each element, as word_tile, rounded to what a tensor of dtype can hold."""
    if QUADS:
        if dtype.primitive_bitwidth == 16:
            # A thread that accesses 16 bytes has two quads: made side by side, they need not pass shared memory.
            a0, a1, a2, a3 = quad_normals(seed, offset, i_row, i_col, cols, 0, 2, acc, b_rows, b_cols)
            b0, b1, b2, b3 = quad_normals(seed, offset, i_row, i_col, cols, 1, 2, acc, b_rows, b_cols)
            even = interleaved(a0, a2, b0, b2)
            normal = tl.interleave(even, interleaved(a1, a3, b1, b3))
        else:
            n0, n1, n2, n3 = quad_normals(seed, offset, i_row, i_col, cols, 0, 1, acc, b_rows, b_cols)
            normal = interleaved(n0, n1, n2, n3)
    else:
        j, x0, x1, x2, x3 = element_words(seed, offset, i_row, i_col, cols, b_rows, b_cols)
        first, second = normal_pair(tl.where(j < 2, x0, x2), tl.where(j < 2, x1, x3), acc)
        normal = tl.where((j & 1) == 0, first, second)
    return normal.to(dtype).to(acc)
