"""The implicit matrix product of a transposed convolution by phases; conv_transpose_phases.py launches it.

With stride s and padding p, the output rows s*q + r - p of a phase r take the kernel rows r, r + s, ... and the
input rows q, q - 1, ... So each phase (r_h, r_w) is a dense convolution. It runs transposed, output channels [rows]
by pixels [columns], so that both operands come from shared memory.
"""

import triton
import triton.language as tl

from .activations import activate
from .conv_transpose_moments import store_moments


@triton.jit
def box_pixels(i_tile, tiles_h, tiles_w, b_n: tl.constexpr, b_h: tl.constexpr, b_w: tl.constexpr):
    """First image, row and column of a tile that is a box of them, and those of its pixels."""
    i_n = i_tile // (tiles_h * tiles_w) * b_n
    i_h = i_tile // tiles_w % tiles_h * b_h
    i_w = i_tile % tiles_w * b_w
    i = tl.arange(0, b_n * b_h * b_w)
    return i_n, i_h, i_w, i_n + i // (b_h * b_w), i_h + i // b_w % b_h, i_w + i % b_w


@triton.jit
def line_pixels(i_tile, rows_h, rows_w, b_pixels: tl.constexpr):
    """First image of a tile that is a piece of all pixels in a line, then image, row and column of its pixels."""
    i = i_tile * b_pixels + tl.arange(0, b_pixels)
    i_row = i // rows_w
    return i_tile * b_pixels // (rows_h * rows_w), i_row // rows_h, i_row % rows_h, i % rows_w


@triton.jit
def first_position(padding, r, STRIDE: tl.constexpr):
    """The least q with STRIDE*q + r - padding >= 0."""
    return (padding - r + STRIDE - 1) // STRIDE


@triton.jit
def aligned(value, ALIGN: tl.constexpr):
    """The value, a multiple of ALIGN, as the compiler cannot know otherwise: it asks numbers for 16 only."""
    return value if ALIGN == 1 else value // ALIGN * ALIGN


@triton.jit
def bias_and_activation(acc, p_bias, i_o, m_o, slope, ACTIVATION: tl.constexpr):
    if p_bias is not None:
        acc += tl.load(p_bias + i_o, mask=m_o, other=0.0).to(acc.dtype)[:, None]
    return activate(acc, slope, ACTIVATION)


SIZES = ["images", "height", "width", "out_h", "out_w", "pad_h", "pad_w"]
TILES = ["rows_h", "rows_w", "tiles_h", "tiles_w", "tiles_pixels", "tiles_o"]


@triton.jit(do_not_specialize=[*SIZES, *TILES])
def phases_kernel(
    x, weight, p_bias, p_out, p_counts, p_means, p_m2s, images, height, width, channels, outputs, out_h, out_w,
    pad_h, pad_w, rows_h, rows_w, tiles_h, tiles_w, tiles_pixels, tiles_o,
    stride_x_n, stride_x_c, stride_x_h, stride_x_w, pitch, stride_n, stride_c, stride_h, stride_w, slope,
    K_H: tl.constexpr, K_W: tl.constexpr, S_H: tl.constexpr, S_W: tl.constexpr,
    ACTIVATION: tl.constexpr, DESCRIPTORS: tl.constexpr, K_MAJOR: tl.constexpr, PRECISION: tl.constexpr,
    INDEX: tl.constexpr, ALIGN: tl.constexpr,
    B_O: tl.constexpr, B_K: tl.constexpr, B_N: tl.constexpr, B_H: tl.constexpr, B_W: tl.constexpr,
):  # fmt: skip
    """rows_h, rows_w: the most positions q of any phase. The phase with most taps comes first: where k is no multiple
    of s, the first k % s have one more. DESCRIPTORS: x and weight are such, and a tile's pixels the box B_N, B_H, B_W
    of x, whose part outside of the image reads as 0; else they are pointers, and the tile B_N pixels in a line. A part
    of the moments, where wanted, is a tile's pixels of a phase."""
    b_pixels: tl.constexpr = B_N * B_H * B_W
    channels, pitch = aligned(channels, ALIGN), aligned(pitch, ALIGN)
    stride_x_n, stride_x_h = aligned(stride_x_n, ALIGN), aligned(stride_x_h, ALIGN)
    stride_x_w = aligned(stride_x_w, ALIGN)
    blocks = tl.cdiv(channels, B_K)
    for i_tile in range(tl.program_id(0), tiles_o * tiles_pixels * S_H * S_W, tl.num_programs(0)):
        i_phase = i_tile // (tiles_o * tiles_pixels)
        r_h, r_w = i_phase // S_W, i_phase % S_W
        taps_h, taps_w = (K_H - r_h + S_H - 1) // S_H, (K_W - r_w + S_W - 1) // S_W
        first_h, first_w = first_position(pad_h, r_h, S_H), first_position(pad_w, r_w, S_W)
        i_row = i_tile % tiles_o * B_O
        i_o = i_row + tl.arange(0, B_O)
        m_o = i_o < outputs
        i_pixels = i_tile // tiles_o % tiles_pixels
        if DESCRIPTORS:
            i_n0, i_h0, i_w0, i_n, i_h, i_w = box_pixels(i_pixels, tiles_h, tiles_w, B_N, B_H, B_W)
            i_h0, i_w0 = i_h0 + first_h, i_w0 + first_w
        else:
            i_n0, i_n, i_h, i_w = line_pixels(i_pixels, rows_h, rows_w, b_pixels)
        i_h, i_w = i_h + first_h, i_w + first_w
        o_n = (i_n - i_n0).to(INDEX)
        p_x, o_x = x, 0
        if not DESCRIPTORS:
            p_x += i_n0.to(tl.int64) * stride_x_n
            o_x = o_n * stride_x_n + i_h.to(INDEX) * stride_x_h + i_w.to(INDEX) * stride_x_w
        acc = tl.zeros((B_O, b_pixels), tl.float32)
        for i_step in range(taps_h * taps_w * blocks):
            i_c = i_step % blocks * B_K
            j_h, j_w = i_step // blocks // taps_w, i_step // blocks % taps_w
            i_tap = (r_h + j_h * S_H) * K_W + r_w + j_w * S_W
            if DESCRIPTORS:
                b = x.load([i_n0, i_h0 - j_h, i_w0 - j_w, i_c]).reshape(b_pixels, B_K).T
                if K_MAJOR:
                    a = weight.load([i_tap * outputs + i_row, i_c])
                else:
                    a = weight.load([i_c, i_tap * outputs + i_row]).T
            else:
                i_k = (i_c + tl.arange(0, B_K)).to(INDEX)
                m_k = i_k < channels
                m_x = (i_n < images) & (i_h >= j_h) & (i_h < height + j_h) & (i_w >= j_w) & (i_w < width + j_w)
                o_tap = o_x - (j_h.to(INDEX) * stride_x_h + j_w.to(INDEX) * stride_x_w)
                b = tl.load(
                    p_x + i_k[:, None] * stride_x_c + o_tap[None, :], mask=m_k[:, None] & m_x[None, :], other=0.0
                )
                if K_MAJOR:
                    o_a = (i_tap * outputs + i_o).to(INDEX)[:, None] * pitch + i_k[None, :]
                else:
                    o_a = (i_tap * outputs + i_o)[:, None] + i_k[None, :] * pitch
                a = tl.load(weight + o_a, mask=m_o[:, None] & m_k[None, :], other=0.0)
            acc = tl.dot(a, b, acc, input_precision=PRECISION)
        acc = bias_and_activation(acc, p_bias, i_o, m_o, slope, ACTIVATION)
        i_y, i_x = i_h * S_H + r_h - pad_h, i_w * S_W + r_w - pad_w
        m_pixel = (i_n < images) & (i_y < out_h) & (i_x < out_w)
        m = m_o[:, None] & m_pixel[None, :]
        o_out = o_n * stride_n + i_y.to(INDEX) * stride_h + i_x.to(INDEX) * stride_w
        p_tile = p_out + i_n0.to(tl.int64) * stride_n
        out = acc.to(p_out.dtype.element_ty)
        tl.store(p_tile + i_o.to(INDEX)[:, None] * stride_c + o_out[None, :], out, mask=m)
        if p_counts is not None:
            i_part = i_phase * tiles_pixels + i_pixels
            i_pivot = 0 if DESCRIPTORS else tl.min(tl.where(m_pixel, tl.arange(0, b_pixels), b_pixels))
            count = tl.sum(m_pixel.to(tl.float32))
            store_moments(
                out.to(tl.float32), m_pixel, count, m_o, i_pivot, i_part, i_o, m_o, outputs,
                p_counts, p_means, p_m2s,
            )  # fmt: skip
