"""The kernels of a transposed convolution's reconstruction loss; conv_transpose_loss.py launches them."""

import triton
import triton.language as tl

from .activations import activate, activation_gradient
from .conv_transpose_small_kernels import output_offsets, small_outputs
from .formulas import reconstruction
from .tiles import load, scalar, store


@triton.jit
def loss_of_logits(
    y, p_t, o_t, p_grad, o, m, slope, factor, ACTIVATION: tl.constexpr, KIND: tl.constexpr, ACC: tl.constexpr
):  # fmt: skip
    """The loss of each logit, 0 where there is none; with p_grad, factor times its derivative is stored."""
    slope = scalar(slope, ACC)
    out = activate(y, slope, ACTIVATION)
    loss, d_out = reconstruction(out, load(p_t, o_t, m, ACC), scalar(1.0, ACC), KIND)
    if p_grad is not None:
        store(p_grad, o, activation_gradient(d_out * scalar(factor, ACC), out, slope, ACTIVATION), m)
    return tl.where(m, loss, 0.0)


@triton.jit
def small_loss_kernel(
    p_x, p_w, p_bias, p_t, p_grad, p_partial,
    channels: tl.int32, outs: tl.int32, height: tl.int32, width: tl.int32, out_height: tl.int32, out_width: tl.int32,
    slots_w: tl.int32, tiles: tl.int32,
    stride_xn, stride_xc, stride_xh, stride_xw,
    stride_wi, stride_wo, stride_wh, stride_ww,
    stride_tn, stride_tc, stride_th, stride_tw,
    stride_n, stride_c, stride_h, stride_w, slope: tl.float64, factor: tl.float64,
    K_H: tl.constexpr, K_W: tl.constexpr, S_H: tl.constexpr, S_W: tl.constexpr, P_H: tl.constexpr, P_W: tl.constexpr,
    B_OUT: tl.constexpr, B_H: tl.constexpr, B_W: tl.constexpr, B_P: tl.constexpr, B_K: tl.constexpr,
    ACTIVATION: tl.constexpr, KIND: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The outputs of small_fwd_kernel stay in registers: stored are the gradient at them and this program's sum."""
    i_image, y, i_out, out_h, out_w, m = small_outputs(
        p_x, p_w, p_bias, channels, outs, height, width, out_height, out_width, slots_w, tiles,
        stride_xn, stride_xc, stride_xh, stride_xw, stride_wi, stride_wo, stride_wh, stride_ww,
        K_H, K_W, S_H, S_W, P_H, P_W, B_OUT, B_H, B_W, B_P, B_K, PRECISION, ACC,
    )  # fmt: skip
    o_t = i_image * stride_tn + output_offsets(i_out, out_h, out_w, stride_tc, stride_th, stride_tw)
    o = i_image * stride_n + output_offsets(i_out, out_h, out_w, stride_c, stride_h, stride_w)
    loss = loss_of_logits(y, p_t, o_t, p_grad, o, m, slope, factor, ACTIVATION, KIND, ACC)
    i_phase = (tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)).to(tl.int64)
    o_program = i_phase * tl.num_programs(0) + tl.program_id(0)
    tl.store(p_partial + o_program, tl.sum(tl.sum(loss, axis=1), axis=0) * scalar(factor, ACC))


@triton.jit
def activation_loss_kernel(
    p_y, p_t, p_grad, p_partial, count: tl.int64, span: tl.int64, slope: tl.float64, factor: tl.float64,
    ACTIVATION: tl.constexpr, KIND: tl.constexpr, ACC: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """`span` of the logits in the order of their memory, and this program's sum."""
    pid = tl.program_id(0).to(tl.int64)
    sums = tl.zeros((B,), ACC)
    for i in range(pid * span, tl.minimum(pid * span + span, count), B):
        o = i + tl.arange(0, B)
        m = o < count
        y = load(p_y, o, m, ACC)
        sums += loss_of_logits(y, p_t, o, p_grad, o, m, slope, factor, ACTIVATION, KIND, ACC)
    tl.store(p_partial + pid, tl.sum(sums, axis=0) * scalar(factor, ACC))
