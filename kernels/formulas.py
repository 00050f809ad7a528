"""Elementwise formulas of the loss kernels, in the accumulation dtype: float32, or float64 for float64 data.

Literals stay inside expressions with a tensor: there they take the tensor's dtype, whereas a literal bound to
a name of its own would become float32.
"""

import triton
import triton.language as tl

BCE = tl.constexpr(0)
BCE_LOGITS = tl.constexpr(1)
MSE = tl.constexpr(2)
L1 = tl.constexpr(3)
SMOOTH_L1 = tl.constexpr(4)

LOGVAR = tl.constexpr(0)
STD = tl.constexpr(1)


@triton.jit
def constant_like(x, value):
    """value in x's shape and dtype."""
    return tl.full(x.shape, value, x.dtype)


@triton.jit
def exp(x):
    """exp(x) to about 2 ulp. tl.exp in float32 is 2**(x * log2(e)): the rounding of that product, which grows
    with |x|, is put back here."""
    if x.dtype == tl.float64:
        return tl.exp(x)
    # Outside this range the result is 0 or inf anyway, and an infinite x would make the residual NaN.
    x = tl.minimum(tl.maximum(x, -104.0, tl.PropagateNan.ALL), 90.0, tl.PropagateNan.ALL)
    p = x * 1.4426950408889634
    residual = tl.fma(x, constant_like(x, 1.4426950408889634), -p) + x * 1.9259629911266175e-8
    return tl.exp2(p) * (residual * 0.6931471805599453 + 1.0)


@triton.jit
def log1p(y):
    """log(1 + y) for -1 <= y <= about 3, with the rounding of 1 + y put back. 1 - y/2 stands for 1/(1 + y) in
    that tiny term, which also keeps y = -1 at -inf."""
    u = y + 1.0
    return tl.log(u) - ((u - 1.0) - y) * (y * -0.5 + 1.0)


@triton.jit
def log1p_unit(y):
    """log(1 + y) for 0 <= y <= 1: in float32 a polynomial of degree 10 (1.4e-7 relative), no logarithm."""
    if y.dtype == tl.float64:
        return log1p(y)
    p = y * -0.003176057016 + 0.01954252725
    p = p * y - 0.05637361281
    p = p * y + 0.1054362379
    p = p * y - 0.1526966707
    p = p * y + 0.1966327426
    p = p * y - 0.2495161626
    p = p * y + 0.333297105
    p = p * y - 0.4999989265
    p = p * y + 0.9999999947
    return p * y


@triton.jit
def sign(x):
    """-1, 0 or 1; 0 for NaN, as torch.sign gives."""
    return tl.where(x > 0, constant_like(x, 1.0), tl.where(x < 0, constant_like(x, -1.0), constant_like(x, 0.0)))


@triton.jit
def floor_at(x, bound):
    """max(x, bound); NaN stays NaN."""
    return tl.where(x < bound, tl.full((), bound, x.dtype), x)


@triton.jit
def clamp(x, lo, hi):
    """x, lo below lo, hi above hi; NaN stays NaN."""
    low = floor_at(x, lo)
    return tl.where(low > hi, hi, low)


@triton.jit
def reconstruction(x, t, threshold, KIND: tl.constexpr):
    """The loss of one element and its derivative at x."""
    diff = x - t
    if KIND == BCE:
        inside = (x >= 0) & (x <= 1) & (t >= 0) & (t <= 1)
        loss = -(t * floor_at(tl.log(x), -100.0) + (1.0 - t) * floor_at(log1p(-x), -100.0))
        slope = diff / floor_at(x * (1.0 - x), 1e-12)
        nan = float("nan")
        return tl.where(inside, loss, nan), tl.where(inside, slope, nan)
    elif KIND == BCE_LOGITS:
        e = exp(-tl.abs(x))
        loss = (1.0 - t) * x + floor_at(-x, 0.0) + log1p_unit(e)
        r = 1.0 / (e + 1.0)
        return loss, tl.where(x >= 0, r, e * r) - t
    elif KIND == MSE:
        return diff * diff, diff * 2.0
    elif KIND == L1:
        return tl.abs(diff), sign(diff)
    else:
        d = tl.abs(diff)
        inverse = 1.0 / threshold
        near = (d < threshold) | (d != d)  # NaN stays NaN in the slope too
        loss = tl.where(near, diff * diff * 0.5 * inverse, d - threshold * 0.5)
        return loss, tl.where(near, diff * inverse, sign(diff))


@triton.jit
def reconstruction_slope(x, t, threshold, KIND: tl.constexpr):
    """The derivative alone; what only the loss needs is dropped by the compiler."""
    _, slope = reconstruction(x, t, threshold, KIND)
    return slope


@triton.jit
def expm1_minus(d):
    """expm1(d) - d by its series, for |d| < 1/2."""
    q = constant_like(d, 1.0)
    terms: tl.constexpr = 15 if d.dtype == tl.float64 else 8
    for k in tl.static_range(terms, 0, -1):
        q = q * d * (1.0 / (k + 2)) + 1.0
    return q * d * d * 0.5


@triton.jit
def exp_parts(x):
    """exp(x), expm1(x), and expm1(x) - x without cancellation."""
    e = exp(x)
    small = tl.abs(x) < 0.5
    series = expm1_minus(x)
    return e, tl.where(small, series + x, e - 1.0), tl.where(small, series, e - (x + 1.0))


@triton.jit
def log_variance(spread, lo, hi, log_eps, FORM: tl.constexpr):
    """log variance of q, and the variance inside the logarithm (for LOGVAR, which has none, spread)."""
    if FORM == LOGVAR:
        return clamp(spread, lo, hi), spread
    if FORM == STD:
        square = spread * spread
        size = tl.abs(spread)
        excess = (size - 1.0) * (size + 1.0) + log_eps
    else:
        square = spread
        excess = (spread - 1.0) + log_eps
    variance = square + log_eps
    # Near a standard deviation of 1 the logarithm cancels: take it of the excess over 1.
    near_one = (square > 0.5) & (square < 2.0)
    return tl.where(near_one, log1p(excess), tl.log(variance)), variance


@triton.jit
def log_variance_slope(spread, variance, lo, hi, FORM: tl.constexpr):
    """d(log variance)/d(spread) for the standard deviation and variance forms."""
    if FORM == STD:
        return spread * 2.0 / variance
    return 1.0 / variance


@triton.jit
def kl_parts(mu, spread, mu2, logvar2, lo, hi, log_eps, FORM: tl.constexpr, HAS_OTHER: tl.constexpr):
    """What value and gradient share: expm1(d) and expm1(d) - d of the log variance ratio d, the difference of
    the means, 1/variance2, the variance inside the logarithm."""
    log_var, variance = log_variance(spread, lo, hi, log_eps, FORM)
    if HAS_OTHER:
        d = log_var - logvar2
        shift = mu - mu2
        inverse2 = exp(-logvar2)
    else:
        d = log_var
        shift = mu
        inverse2 = constant_like(mu, 1.0)
    ratio = exp(d) if FORM == LOGVAR else variance * inverse2
    small = tl.abs(d) < 0.5
    series = expm1_minus(d)
    expm1 = tl.where(small, series + d, ratio - 1.0)
    rest = tl.where(small, series, ratio - (d + 1.0))
    return expm1, rest, shift, inverse2, variance


@triton.jit
def kl_value(mu, spread, mu2, logvar2, lo, hi, log_eps, FORM: tl.constexpr, HAS_OTHER: tl.constexpr):
    """KL of one latent."""
    _, rest, shift, inverse2, _ = kl_parts(mu, spread, mu2, logvar2, lo, hi, log_eps, FORM, HAS_OTHER)
    square = shift * shift
    if FORM != LOGVAR:
        square = square - log_eps
    return (square * inverse2 + rest) * 0.5


@triton.jit
def kl_slopes(mu, spread, mu2, logvar2, lo, hi, log_eps, FORM: tl.constexpr, HAS_OTHER: tl.constexpr):
    """Derivatives of one latent's KL at mu, spread and logvar2; the one at mu2 is minus the first."""
    expm1, _, shift, inverse2, variance = kl_parts(mu, spread, mu2, logvar2, lo, hi, log_eps, FORM, HAS_OTHER)
    square = shift * shift
    at_log_var = expm1 * 0.5
    if FORM == LOGVAR:
        at_spread = tl.where((spread < lo) | (spread > hi), 0.0, at_log_var)
    else:
        square = square - log_eps
        at_spread = at_log_var * log_variance_slope(spread, variance, lo, hi, FORM)
    return shift * inverse2, at_spread, (expm1 + square * inverse2) * -0.5
