"""The elementary functions of csrc/common, measured through the ops that show them nearly bare."""

import mpmath
import pytest
import torch

import pyaegpu

mpmath.mp.prec = 120
precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
# Units in the last place.
LIMIT = 3


def ulps(ours, arguments, exact):
    """The largest error in units of the last place of the exact value; below the normal range, of the least normal."""
    info = torch.finfo(ours.dtype)
    worst = 0.0
    for result, x in zip(ours.tolist(), arguments.tolist(), strict=True):
        truth = exact(mpmath.mpf(x))
        if truth == 0:
            assert result == 0
            continue
        exponent = max(mpmath.floor(mpmath.log(abs(truth), 2)), mpmath.log(info.tiny, 2))
        worst = max(worst, float(abs(mpmath.mpf(result) - truth) / (info.eps * mpmath.power(2, exponent))))
    return worst


def grid(low, high, dtype, count=1500):
    generator = torch.Generator().manual_seed(0)
    return (low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)).to(dtype)


def powers(low, high, dtype, count=1500):
    return torch.exp2(grid(low, high, torch.float64, count)).to(dtype)


@precisions
def test_exp(kernel_device, dtype):
    """The gradient at mu = 1 against N(0, e^v) is e^-v."""
    low, high = (-88.5, 87.0) if dtype == torch.float32 else (-709.0, 708.0)
    x = torch.cat([grid(low, high, dtype), grid(-1, 1, dtype), torch.tensor([0.0, low, high], dtype=dtype)])
    mu = torch.ones_like(x, device=kernel_device).requires_grad_()
    zero = torch.zeros_like(mu)
    value = pyaegpu.gaussian_kl(mu, zero, other=(zero, -x.to(kernel_device)), reduction="sum")
    (grad,) = torch.autograd.grad(value, mu)
    assert ulps(grad.cpu(), x, mpmath.exp) <= LIMIT


@precisions
def test_expm1(kernel_device, dtype):
    """The gradient at the log variance is expm1(x) / 2."""
    high = 88.0 if dtype == torch.float32 else 709.0
    spread = torch.cat([powers(-40, 0, dtype), -powers(-40, 4, dtype), grid(-3, 3, dtype), grid(0, high, dtype)])
    logvar = spread.to(kernel_device).requires_grad_()
    value = pyaegpu.gaussian_kl(torch.zeros_like(logvar), logvar, reduction="sum")
    (grad,) = torch.autograd.grad(value, logvar)
    assert ulps(2 * grad.cpu(), spread, mpmath.expm1) <= LIMIT


@precisions
def test_log(kernel_device, dtype):
    """The cross-entropy with target 1 is -log(x)."""
    low = -126.0 if dtype == torch.float32 else -140.0
    x = torch.cat([powers(low, 0, dtype), grid(0.5, 1, dtype), 1 - powers(-20, -1, dtype)])
    x = x[(x > 1e-43) & (x <= 1)]
    device_x = x.to(kernel_device)
    value = pyaegpu.reconstruction_loss(device_x, torch.ones_like(device_x), reduction="none")
    assert ulps(value.cpu(), x, lambda v: -max(mpmath.log(v), -100)) <= LIMIT


def test_log_of_subnormal_numbers(kernel_device):
    x = torch.tensor([1e-39, 1e-42, 1.4e-45], device=kernel_device)
    value = pyaegpu.reconstruction_loss(x, torch.ones_like(x), reduction="none")
    expected = torch.tensor([89.8008, 96.7086, 100.0], device=kernel_device)
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=0)


@precisions
def test_log1p(kernel_device, dtype):
    """The cross-entropy with target 0 is -log1p(-x)."""
    x = torch.cat([powers(-60, -1, dtype), grid(0, 1, dtype), 1 - powers(-20, -1, dtype)])
    x = x[x < 1]
    device_x = x.to(kernel_device)
    value = pyaegpu.reconstruction_loss(device_x, torch.zeros_like(device_x), reduction="none")
    assert ulps(value.cpu(), x, lambda v: -max(mpmath.log1p(-v), -100)) <= LIMIT


@precisions
def test_softplus_and_sigmoid(kernel_device, dtype):
    """The cross-entropy of logits with target 1, where nothing cancels, and its gradient plus 1."""
    high = 80.0 if dtype == torch.float32 else 700.0
    x = torch.cat([grid(-high, high, dtype), grid(-2, 2, dtype), powers(-40, 3, dtype), -powers(-40, 3, dtype)])
    logits = x.to(kernel_device).requires_grad_()
    value = pyaegpu.reconstruction_loss(logits, torch.ones_like(logits), "bce_logits", reduction="none")
    assert ulps(value.detach().cpu(), x, lambda v: mpmath.log1p(mpmath.exp(-v))) <= LIMIT
    value = pyaegpu.reconstruction_loss(logits, torch.zeros_like(logits), "bce_logits", reduction="none")
    (grad,) = torch.autograd.grad(value.sum(), logits)
    assert ulps(grad.cpu(), x, lambda v: 1 / (1 + mpmath.exp(-v))) <= LIMIT


@precisions
def test_kl_of_a_log_variance(kernel_device, dtype):
    high = 87.0 if dtype == torch.float32 else 700.0
    x = torch.cat([powers(-40, 1, dtype), -powers(-40, 6, dtype), grid(-1, 1, dtype), grid(0, high, dtype)])
    value = pyaegpu.gaussian_kl(torch.zeros_like(x, device=kernel_device), x.to(kernel_device), reduction="none")
    assert ulps(value.cpu(), x, lambda v: (mpmath.expm1(v) - v) / 2) <= 10


@precisions
@pytest.mark.parametrize("form", ["std", "var"])
def test_kl_of_a_variance(kernel_device, dtype, form):
    """Away from 1; near it the argument itself has fewer digits than the divergence asks for."""
    x = torch.cat([powers(-10, -1.2, dtype), powers(1.2, 7, dtype)])
    value = pyaegpu.gaussian_kl(
        torch.zeros_like(x, device=kernel_device), **{form: x.to(kernel_device)}, reduction="none"
    )

    def exact(v):
        variance = v * v if form == "std" else v
        return (variance - 1 - mpmath.log(variance)) / 2

    assert ulps(value.cpu(), x, exact) <= 12


@pytest.mark.parametrize("length", [1, 7, 8, 15, 16, 17, 511, 512, 513, 1025])
def test_ends_of_vectors_and_tiles(kernel_device, length):
    """The same element gives the same bits wherever it stands."""
    x = torch.full((length,), 0.3, device=kernel_device)
    t = torch.full((length,), 0.6, device=kernel_device)
    for kind in ("bce", "bce_logits", "mse", "smooth_l1"):
        value = pyaegpu.reconstruction_loss(x, t, kind, reduction="none")
        assert (value == value[0]).all()
    value = pyaegpu.gaussian_kl(x, t, reduction="none")
    assert (value == value[0]).all()
