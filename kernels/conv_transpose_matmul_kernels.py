"""The matrix product of a transposed convolution whose taps never meet; conv_transpose_matmul.py launches it."""

import triton
import triton.language as tl

from .conv_transpose_moments import store_moments
from .conv_transpose_phases_kernels import aligned, bias_and_activation


@triton.jit(do_not_specialize=["out_h", "out_w", "pad_h", "pad_w", "tiles_r", "tiles"])
def matmul_kernel(
    x, weight, p_bias, p_out, p_counts, p_means, p_m2s, pixels, area, width, channels, outputs, out_h, out_w,
    pad_h, pad_w, tiles_r, tiles,
    stride_x_n, stride_x_c, stride_x_h, stride_x_w, pitch, stride_n, stride_c, stride_h, stride_w, slope,
    K_H: tl.constexpr, K_W: tl.constexpr, S_H: tl.constexpr, S_W: tl.constexpr, ACTIVATION: tl.constexpr,
    DESCRIPTORS: tl.constexpr, LINES: tl.constexpr, FLAT: tl.constexpr, TAP_MAJOR: tl.constexpr,
    K_MAJOR: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr,
    ALIGN: tl.constexpr, B_R: tl.constexpr, B_K: tl.constexpr, B_P: tl.constexpr,
):  # fmt: skip
    """Rows are (tap, co) or, without TAP_MAJOR, (co, tap); columns the input's pixels. LINES: the rows of an image
    follow each other at the distance of its pixels. FLAT: an image's results lie in memory in the order of the rows.
    DESCRIPTORS: x [pixels, channels] and weight are such, else pointers. A part of the moments, where wanted, is what a
    tile's pixels give at one tap."""
    channels, pitch = aligned(channels, ALIGN), aligned(pitch, ALIGN)
    stride_x_n, stride_x_h = aligned(stride_x_n, ALIGN), aligned(stride_x_h, ALIGN)
    stride_x_w = aligned(stride_x_w, ALIGN)
    for i_tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        i_r0, i_p0 = i_tile % tiles_r * B_R, i_tile // tiles_r * B_P
        i_r, i_p = i_r0 + tl.arange(0, B_R), i_p0 + tl.arange(0, B_P)
        m_r, m_p = i_r < outputs * K_H * K_W, i_p < pixels
        m_row = m_r
        i_n0 = i_p0 // area
        p_x, o_x = x, 0
        if not DESCRIPTORS:
            p_x += i_n0.to(tl.int64) * stride_x_n
            o_n, i_hw = (i_p // area - i_n0).to(INDEX), (i_p % area).to(INDEX)
            if LINES:
                o_x = o_n * stride_x_n + i_hw * stride_x_w
            else:
                o_x = o_n * stride_x_n + i_hw // width * stride_x_h + i_hw % width * stride_x_w
        acc = tl.zeros((B_R, B_P), tl.float32)
        for i_c in range(0, channels, B_K):
            if DESCRIPTORS:
                b = x.load([i_p0, i_c]).T
                a = weight.load([i_r0, i_c]) if K_MAJOR else weight.load([i_c, i_r0]).T
            else:
                i_k = (i_c + tl.arange(0, B_K)).to(INDEX)
                m_k = i_k < channels
                b = tl.load(p_x + i_k[:, None] * stride_x_c + o_x[None, :], mask=m_k[:, None] & m_p[None, :], other=0.0)
                o_w = i_r.to(INDEX)[:, None]
                o_w = o_w * pitch + i_k[None, :] if K_MAJOR else o_w + i_k[None, :] * pitch
                a = tl.load(weight + o_w, mask=m_r[:, None] & m_k[None, :], other=0.0)
            acc = tl.dot(a, b, acc, input_precision=PRECISION)
        if TAP_MAJOR:
            i_o, i_tap = i_r % outputs, i_r // outputs
        else:
            i_o, i_tap = i_r // (K_H * K_W), i_r % (K_H * K_W)
        acc = bias_and_activation(acc, p_bias, i_o, m_r, slope, ACTIVATION)
        o_n, i_hw = (i_p // area - i_n0).to(INDEX), (i_p % area).to(INDEX)
        if FLAT:
            o_r, o_p = i_r, o_n * stride_n
        else:
            i_y, i_x = (i_tap // K_W - pad_h).to(INDEX), (i_tap % K_W - pad_w).to(INDEX)
            m_r &= (i_y >= 0) & (i_y < out_h) & (i_x >= 0) & (i_x < out_w)
            o_r = i_o.to(INDEX) * stride_c + i_y * stride_h + i_x * stride_w
            o_p = o_n * stride_n + i_hw // width * S_H * stride_h + i_hw % width * S_W * stride_w
        m = m_r[:, None] & m_p[None, :]
        p_tile = p_out + i_n0.to(tl.int64) * stride_n
        out = acc.to(p_out.dtype.element_ty)
        if p_counts is not None:
            i_part = i_tile // tiles_r * (K_H * K_W) + i_tap
            held = tl.minimum(pixels - i_p0, B_P)
            m_p = tl.arange(0, B_P) < held  # anew: the first one would keep registers since before the product
            store_moments(
                out.to(tl.float32), m_p, held.to(tl.float32), m_r, 0, i_part, i_o, m_row, outputs,
                p_counts, p_means, p_m2s,
            )  # fmt: skip
        tl.store(p_tile + o_r[:, None] + o_p[None, :], out, mask=m)
