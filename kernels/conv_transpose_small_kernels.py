"""The kernels of transposed convolution to few output channels; conv_transpose_small.py launches them.

An output at o = stride * j + r - padding, where r < stride, is summed over the taps k = stride * t + r from the inputs
j - t. The r of an axis are called its phases, the j its slots: for one tap, all phases of a slot read the same input.
Positions within an image have 32 bits, addresses 64. Strides have no declared type: Triton then sees those that are 1.
"""

import triton
import triton.language as tl

from .activations import activate, activation_gradient
from .tiles import load, scalar, store

# Arguments whose divisibility or value 1 gains nothing: without this a last, smaller batch would recompile.
COUNTS = ["images", "tiles", "per_program", "bias_tiles", "bias_per_program"]


@triton.jit
def offset(i, stride):
    return i.to(tl.int64) * stride


@triton.jit
def small_outputs(
    p_x, p_w, p_bias,
    channels, outs, height, width, out_height, out_width, slots_w, tiles,
    stride_xn, stride_xc, stride_xh, stride_xw,
    stride_wi, stride_wo, stride_wh, stride_ww,
    K_H: tl.constexpr, K_W: tl.constexpr, S_H: tl.constexpr, S_W: tl.constexpr, P_H: tl.constexpr, P_W: tl.constexpr,
    B_OUT: tl.constexpr, B_H: tl.constexpr, B_W: tl.constexpr, B_P: tl.constexpr, B_K: tl.constexpr,
    PRECISION: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """B_OUT output channels of B_H x B_W phases in B_P slots of an image: the sum over taps of the products
    [output channels x phases, input channels] x [input channels, slots], and the bias. Returned are the image, the
    values before the activation as [output channels x rows of phases, slots x columns of phases], their channels, rows
    and columns, and which there are."""
    i_image = (tl.program_id(0) // tiles).to(tl.int64)
    i_slot = tl.program_id(0) % tiles * B_P + tl.arange(0, B_P)
    j_h = i_slot // slots_w + P_H // S_H
    j_w = i_slot % slots_w + P_W // S_W
    first_h = tl.program_id(1) * B_H
    first_w = tl.program_id(2) * B_W

    i_r = tl.arange(0, B_OUT * B_H * B_W)
    i_out = i_r // (B_H * B_W)
    r_h = first_h + i_r // B_W % B_H
    r_w = first_w + i_r % B_W
    m_r = (i_out < outs) & (r_h < S_H) & (r_w < S_W)
    o_r = offset(i_out, stride_wo) + offset(r_h, stride_wh) + offset(r_w, stride_ww)
    o_slot = offset(j_h, stride_xh) + offset(j_w, stride_xw)
    p_x += i_image * stride_xn

    y = tl.zeros((B_OUT * B_H * B_W, B_P), ACC)
    taps_w: tl.constexpr = (K_W + S_W - 1) // S_W
    taps: tl.constexpr = (K_H + S_H - 1) // S_H * taps_w
    for i in range(0, taps * tl.cdiv(channels, B_K)):
        t_h = i % taps // taps_w
        t_w = i % taps_w
        o_k = i // taps * B_K + tl.arange(0, B_K)
        m_k = o_k < channels
        m_tap = m_r & (t_h * S_H + r_h < K_H) & (t_w * S_W + r_w < K_W)
        m_slot = (j_h >= t_h) & (j_h - t_h < height) & (j_w >= t_w) & (j_w - t_w < width)
        o_x = o_slot - (offset(t_h, stride_xh) + offset(t_w, stride_xw))
        o_w = o_r + (offset(t_h * S_H, stride_wh) + offset(t_w * S_W, stride_ww))
        o_xk = offset(o_k, stride_xc)[:, None]
        o_wk = offset(o_k, stride_wi)[:, None]
        x = tl.load(p_x + (o_xk + o_x[None, :]), mask=m_k[:, None] & m_slot[None, :], other=0.0)
        w = tl.load(p_w + (o_wk + o_w[None, :]), mask=m_k[:, None] & m_tap[None, :], other=0.0)
        # Where there is no tap, the product is not always 0: the other factor may be infinite or NaN.
        product = tl.dot(tl.trans(w), x, input_precision=PRECISION, out_dtype=ACC)
        y += tl.where(m_tap[:, None] & m_slot[None, :], product, 0.0)

    # Phases beside each other, as the outputs are.
    y = tl.reshape(tl.permute(tl.reshape(y, (B_OUT * B_H, B_W, B_P)), (0, 2, 1)), (B_OUT * B_H, B_P * B_W))
    i_out = tl.arange(0, B_OUT * B_H) // B_H
    r_h = first_h + tl.arange(0, B_OUT * B_H) % B_H
    if p_bias is not None:
        y += load(p_bias, i_out, i_out < outs, ACC)[:, None]
    i_slot = tl.program_id(0) % tiles * B_P + tl.arange(0, B_P * B_W) // B_W
    r_w = first_w + tl.arange(0, B_P * B_W) % B_W
    out_h = ((i_slot // slots_w + P_H // S_H) * S_H)[None, :] + (r_h - P_H)[:, None]
    out_w = (i_slot % slots_w + P_W // S_W) * S_W + (r_w - P_W)
    m = ((i_out < outs) & (r_h < S_H))[:, None] & ((r_w < S_W) & (out_w >= 0) & (out_w < out_width))[None, :]
    return i_image, y, i_out[:, None], out_h, out_w[None, :], m & (out_h >= 0) & (out_h < out_height)


@triton.jit
def output_offsets(i_out, out_h, out_w, stride_c, stride_h, stride_w):
    return offset(i_out, stride_c) + offset(out_h, stride_h) + offset(out_w, stride_w)


@triton.jit
def small_fwd_kernel(
    p_x, p_w, p_bias, p_out,
    channels: tl.int32, outs: tl.int32, height: tl.int32, width: tl.int32, out_height: tl.int32, out_width: tl.int32,
    slots_w: tl.int32, tiles: tl.int32,
    stride_xn, stride_xc, stride_xh, stride_xw,
    stride_wi, stride_wo, stride_wh, stride_ww,
    stride_n, stride_c, stride_h, stride_w, slope: tl.float64,
    K_H: tl.constexpr, K_W: tl.constexpr, S_H: tl.constexpr, S_W: tl.constexpr, P_H: tl.constexpr, P_W: tl.constexpr,
    B_OUT: tl.constexpr, B_H: tl.constexpr, B_W: tl.constexpr, B_P: tl.constexpr, B_K: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    i_image, y, i_out, out_h, out_w, m = small_outputs(
        p_x, p_w, p_bias, channels, outs, height, width, out_height, out_width, slots_w, tiles,
        stride_xn, stride_xc, stride_xh, stride_xw, stride_wi, stride_wo, stride_wh, stride_ww,
        K_H, K_W, S_H, S_W, P_H, P_W, B_OUT, B_H, B_W, B_P, B_K, PRECISION, ACC,
    )  # fmt: skip
    y = activate(y, scalar(slope, ACC), ACTIVATION)
    store(p_out + i_image * stride_n, output_offsets(i_out, out_h, out_w, stride_c, stride_h, stride_w), y, m)


@triton.jit
def gradient_rows(
    p_g, p_out, i_image, x_h, x_w, m_p, i_r, outs, out_height, out_width, slope,
    stride_gn, stride_gc, stride_gh, stride_gw, stride_n, stride_c, stride_h, stride_w,
    K_H: tl.constexpr, K_W: tl.constexpr, S_H: tl.constexpr, S_W: tl.constexpr, P_H: tl.constexpr, P_W: tl.constexpr,
    ACTIVATION: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """[output channel x taps, pixels]: for each input pixel the gradients, before the activation, of its outputs."""
    i_out = i_r // (K_H * K_W)
    k_h = i_r // K_W % K_H - P_H
    k_w = i_r % K_W - P_W
    x_h *= S_H
    x_w *= S_W
    out_h = x_h[None, :] + k_h[:, None]
    out_w = x_w[None, :] + k_w[:, None]
    m = m_p[None, :] & (i_out < outs)[:, None]
    m &= (out_h >= 0) & (out_h < out_height) & (out_w >= 0) & (out_w < out_width)
    o_r = offset(i_out, stride_gc) + offset(k_h, stride_gh) + offset(k_w, stride_gw)
    o_p = offset(x_h, stride_gh) + offset(x_w, stride_gw)
    g = load(p_g + i_image * stride_gn, o_r[:, None] + o_p[None, :], m, ACC)
    if p_out is not None:
        o_r = offset(i_out, stride_c) + offset(k_h, stride_h) + offset(k_w, stride_w)
        o_p = offset(x_h, stride_h) + offset(x_w, stride_w)
        out = load(p_out + i_image * stride_n, o_r[:, None] + o_p[None, :], m, ACC)
        g = activation_gradient(g, out, slope, ACTIVATION)
    return g.to(p_g.dtype.element_ty)


@triton.jit
def weight_offsets(
    o_k, m_k, i_r, outs, stride_wi, stride_wo, stride_wh, stride_ww, K_H: tl.constexpr, K_W: tl.constexpr
):  # fmt: skip
    """Of [input channels, output channel x taps], and which there are."""
    i_out = i_r // (K_H * K_W)
    o_r = offset(i_out, stride_wo) + offset(i_r // K_W % K_H, stride_wh) + offset(i_r % K_W, stride_ww)
    return offset(o_k, stride_wi)[:, None] + o_r[None, :], m_k[:, None] & (i_out < outs)[None, :]


@triton.jit
def weight_rows(
    p_w, o_k, m_k, i_r, outs, stride_wi, stride_wo, stride_wh, stride_ww, K_H: tl.constexpr, K_W: tl.constexpr
):  # fmt: skip
    o, m = weight_offsets(o_k, m_k, i_r, outs, stride_wi, stride_wo, stride_wh, stride_ww, K_H, K_W)
    return tl.load(p_w + o, mask=m, other=0.0)


@triton.jit
def bias_sums(
    p_g, p_out, p_partial, i_start, i_stop, tiles, outs, out_height, out_width, slope,
    stride_gn, stride_gc, stride_gh, stride_gw, stride_n, stride_c, stride_h, stride_w,
    ACTIVATION: tl.constexpr, ACC: tl.constexpr, b_out: tl.constexpr, b_pixels: tl.constexpr,
):  # fmt: skip
    """The sums of the gradient before the activation over tiles i_start to i_stop of outputs, by output channel."""
    i_out = tl.arange(0, b_out)
    sums = tl.zeros((b_out, b_pixels), ACC)
    for i_tile in range(i_start, i_stop):
        i_image = (i_tile // tiles).to(tl.int64)
        i_p = i_tile % tiles * b_pixels + tl.arange(0, b_pixels)
        out_h = i_p // out_width
        out_w = i_p % out_width
        m = (i_out < outs)[:, None] & (out_h < out_height)[None, :]
        o = i_image * stride_gn + offset(out_h, stride_gh) + offset(out_w, stride_gw)
        g = load(p_g, offset(i_out, stride_gc)[:, None] + o[None, :], m, ACC)
        if p_out is not None:
            o = i_image * stride_n + offset(out_h, stride_h) + offset(out_w, stride_w)
            out = load(p_out, offset(i_out, stride_c)[:, None] + o[None, :], m, ACC)
            g = activation_gradient(g, out, slope, ACTIVATION)
        sums += tl.where(m, g, 0.0)
    tl.store(p_partial + i_out, tl.sum(sums, axis=1), mask=i_out < outs)


@triton.jit
def pixel_tile(i_tile, tiles, width, pixels, B_P: tl.constexpr):
    """Image and input pixels of a tile, their rows and columns, and which are in the image."""
    i_p = i_tile % tiles * B_P + tl.arange(0, B_P)
    return (i_tile // tiles).to(tl.int64), i_p, i_p // width, i_p % width, i_p < pixels


@triton.jit(do_not_specialize=COUNTS)
def small_bwd_kernel(
    p_g, p_out, p_x, p_w, p_dx, p_partial,
    images: tl.int32, tiles: tl.int32, per_program: tl.int32, bias_tiles: tl.int32, bias_per_program: tl.int32,
    columns: tl.int64, bias_column: tl.int64,
    channels: tl.int32, outs: tl.int32, width: tl.int32, pixels: tl.int32, out_height: tl.int32, out_width: tl.int32,
    stride_gn, stride_gc, stride_gh, stride_gw,
    stride_n, stride_c, stride_h, stride_w,
    stride_xn, stride_xc, stride_xh, stride_xw,
    stride_wi, stride_wo, stride_wh, stride_ww,
    stride_dn, stride_dc, stride_dw,
    stride_pi, stride_po, stride_ph, stride_pw, slope: tl.float64,
    K_H: tl.constexpr, K_W: tl.constexpr, S_H: tl.constexpr, S_W: tl.constexpr, P_H: tl.constexpr, P_W: tl.constexpr,
    FLAT: tl.constexpr, NEED_WEIGHT: tl.constexpr, NEED_BIAS: tl.constexpr,
    B_C: tl.constexpr, B_R: tl.constexpr, B_P: tl.constexpr, B_OUT: tl.constexpr, B_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """B_C input channels, B_R of the rows (output channel x taps), and `per_program` tiles of B_P input pixels: the
    gradient at the input (p_dx, for which B_R has to hold all rows), and this program's row of p_partial: its sums for
    the weight, in the order of the weight gradient's memory, and from bias_column on those for the bias.
    FLAT: the pixels of an image are evenly spaced."""
    pid = tl.program_id(0)
    slope = scalar(slope, ACC)
    o_k = tl.program_id(1) * B_C + tl.arange(0, B_C)
    m_k = o_k < channels
    i_r = tl.program_id(2) * B_R + tl.arange(0, B_R)
    if p_dx is not None:
        w = weight_rows(p_w, o_k, m_k, i_r, outs, stride_wi, stride_wo, stride_wh, stride_ww, K_H, K_W)
    sums = tl.zeros((B_C, B_R), ACC)
    for i_tile in range(pid * per_program, tl.minimum(pid * per_program + per_program, images * tiles)):
        i_image, i_p, x_h, x_w, m_p = pixel_tile(i_tile, tiles, width, pixels, B_P)
        g = gradient_rows(
            p_g, p_out, i_image, x_h, x_w, m_p, i_r, outs, out_height, out_width, slope,
            stride_gn, stride_gc, stride_gh, stride_gw, stride_n, stride_c, stride_h, stride_w,
            K_H, K_W, S_H, S_W, P_H, P_W, ACTIVATION, ACC,
        )  # fmt: skip
        m = m_k[:, None] & m_p[None, :]
        if NEED_WEIGHT:
            o_x = offset(i_p, stride_xw) if FLAT else offset(x_h, stride_xh) + offset(x_w, stride_xw)
            x = tl.load(p_x + i_image * stride_xn + (offset(o_k, stride_xc)[:, None] + o_x[None, :]), mask=m, other=0.0)
            sums = tl.dot(x, tl.trans(g), sums, input_precision=PRECISION, out_dtype=ACC)
        if p_dx is not None:
            d = tl.dot(w, g, input_precision=PRECISION, out_dtype=ACC)
            o = offset(o_k, stride_dc)[:, None] + offset(i_p, stride_dw)[None, :]
            store(p_dx, i_image * stride_dn + o, d, m)
    if NEED_WEIGHT:
        o, m = weight_offsets(o_k, m_k, i_r, outs, stride_pi, stride_po, stride_ph, stride_pw, K_H, K_W)
        tl.store(p_partial + offset(pid, columns) + o, sums, mask=m)
    if NEED_BIAS and tl.program_id(1) + tl.program_id(2) == 0:
        i_start = pid * bias_per_program
        bias_sums(
            p_g, p_out, p_partial + offset(pid, columns) + bias_column,
            i_start, tl.minimum(i_start + bias_per_program, images * bias_tiles), bias_tiles,
            outs, out_height, out_width, slope,
            stride_gn, stride_gc, stride_gh, stride_gw, stride_n, stride_c, stride_h, stride_w,
            ACTIVATION, ACC, B_OUT, B_BIAS,
        )  # fmt: skip


@triton.jit(do_not_specialize=COUNTS)
def small_input_kernel(
    p_g, p_out, p_w, p_dx, tiles: tl.int32,
    channels: tl.int32, outs: tl.int32, width: tl.int32, pixels: tl.int32, out_height: tl.int32, out_width: tl.int32,
    stride_gn, stride_gc, stride_gh, stride_gw,
    stride_n, stride_c, stride_h, stride_w,
    stride_wi, stride_wo, stride_wh, stride_ww,
    stride_dn, stride_dc, stride_dw, slope: tl.float64,
    K_H: tl.constexpr, K_W: tl.constexpr, S_H: tl.constexpr, S_W: tl.constexpr, P_H: tl.constexpr, P_W: tl.constexpr,
    B_C: tl.constexpr, B_R: tl.constexpr, B_P: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The gradient at the input where one block does not hold all rows: B_R after B_R of them."""
    slope = scalar(slope, ACC)
    i_image, i_p, x_h, x_w, m_p = pixel_tile(tl.program_id(0), tiles, width, pixels, B_P)
    o_k = tl.program_id(1) * B_C + tl.arange(0, B_C)
    m_k = o_k < channels
    d = tl.zeros((B_C, B_P), ACC)
    for i_row in range(0, outs * (K_H * K_W), B_R):
        i_r = i_row + tl.arange(0, B_R)
        g = gradient_rows(
            p_g, p_out, i_image, x_h, x_w, m_p, i_r, outs, out_height, out_width, slope,
            stride_gn, stride_gc, stride_gh, stride_gw, stride_n, stride_c, stride_h, stride_w,
            K_H, K_W, S_H, S_W, P_H, P_W, ACTIVATION, ACC,
        )  # fmt: skip
        w = weight_rows(p_w, o_k, m_k, i_r, outs, stride_wi, stride_wo, stride_wh, stride_ww, K_H, K_W)
        d = tl.dot(w, g, d, input_precision=PRECISION, out_dtype=ACC)
    o = offset(o_k, stride_dc)[:, None] + offset(i_p, stride_dw)[None, :]
    store(p_dx, i_image * stride_dn + o, d, m_k[:, None] & m_p[None, :])
