"""Activations of a layer's output, and their derivatives as functions of that output."""

import triton
import triton.language as tl

from .formulas import exp, exp_parts

# In the order of pyaegpu/reference/activations.py.
NONE = tl.constexpr(0)
RELU = tl.constexpr(1)
LEAKY_RELU = tl.constexpr(2)
TANH = tl.constexpr(3)
SIGMOID = tl.constexpr(4)


@triton.jit
def tanh(x):
    """To about 2 ulp; every form is of |x|, so that nothing overflows or cancels."""
    size = tl.abs(x)
    if x.dtype == tl.float64:
        _, e, _ = exp_parts(size * -2.0)
        t = -e / (e + 2.0)
    else:
        s = size * size
        p = s * -0.00589515029 + 0.0207959646
        p = p * s - 0.053783828
        p = p * s + 0.133319241
        p = p * s - 0.33333298
        # Further out the rounding of exp is too far down to be seen.
        far = 1.0 - 2.0 / (tl.exp(size * 2.0) + 1.0)
        t = tl.where(size < 0.6, p * (s * size) + size, far)
    return tl.where(x < 0, -t, t)


@triton.jit
def activate(x, slope, ACTIVATION: tl.constexpr):
    """`slope`, at least 0 and in x's dtype, is read by LEAKY_RELU only."""
    if ACTIVATION == RELU:
        x = tl.where(x <= 0, 0.0, x)  # NaN stays
    elif ACTIVATION == LEAKY_RELU:
        x = tl.where(x > 0, x, x * slope)
    elif ACTIVATION == TANH:
        x = tanh(x)
    elif ACTIVATION == SIGMOID:
        x = 1.0 / (exp(-x) + 1.0)
    return x


@triton.jit
def activation_gradient(g, out, slope, ACTIVATION: tl.constexpr):
    """The gradient at the activation's input, from that at its output and the output itself."""
    if ACTIVATION == RELU:
        g = tl.where(out <= 0, 0.0, g)
    elif ACTIVATION == LEAKY_RELU:
        g = tl.where(out > 0, g, g * slope)
    elif ACTIVATION == TANH:
        g = g * (1.0 - out * out)
    elif ACTIVATION == SIGMOID:
        g = g * (1.0 - out) * out
    return g


@triton.jit
def gradient_before(g, x, slope, ACTIVATION: tl.constexpr):
    """The same from the activation's input: its sign decides, so that `slope` may be negative, and nothing cancels
    where tanh or sigmoid are near their limits."""
    if ACTIVATION == TANH:
        e = exp(tl.abs(x) * -2.0)
        g = g * (4.0 * e / ((e + 1.0) * (e + 1.0)))
    elif ACTIVATION == SIGMOID:
        e = exp(-tl.abs(x))
        g = g * (e / ((e + 1.0) * (e + 1.0)))
    else:
        g = activation_gradient(g, x, slope, ACTIVATION)
    return g
