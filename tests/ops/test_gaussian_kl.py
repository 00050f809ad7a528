"""Values and gradients of gaussian_kl."""

from decimal import Decimal, localcontext

import oracle
import pytest
import torch
from oracle import DTYPES, check, latents

import pyaegpu

REDUCTIONS = ("none", "sum", "mean", "batchmean", "sample", "dim")
FORMS = {
    "logvar": (lambda t: t, {}),
    "std": (lambda t: (0.5 * t).exp() * torch.where(t > 0.5, -1.0, 1.0).to(t.dtype), {"log_eps": 0.0}),
    "std_eps": (lambda t: t, {"log_eps": 1e-3}),
    "var": (torch.exp, {"log_eps": 0.0}),
    "var_eps": (torch.exp, {"log_eps": 0.1}),
}


def compare(form, inputs, wanted=None, **options):
    """Values and gradients at mu, the spread and, where given, the other Gaussian's mean and log variance."""
    name = form.removesuffix("_eps")

    def call(fn):
        def run(mu, spread, *other):
            return fn(mu, **{name: spread}, other=other or None, **options)

        return run

    return check(call(pyaegpu.gaussian_kl), call(oracle.kl), inputs, wanted)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("other", [None, "full", "prior"])
def test_values_and_gradients(device, form, dtype, other):
    mu, t = latents((6, 3, 11), dtype, device)
    spread_of, options = FORMS[form]
    inputs = (mu, spread_of(t))
    if other:
        inputs += latents((6, 3, 11) if other == "full" else (11,), dtype, device, seed=5)
    for reduction in REDUCTIONS:
        (value,), _ = compare(form, inputs, reduction=reduction, **options)
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (1, 1), (70001, 1), (3, 40000), (2, 513), (129, 67)], ids=str)
def test_shapes(device, shape, reduction):
    compare("logvar", latents(shape, device=device), reduction=reduction)


@pytest.mark.parametrize("dims", [1, -1, (1,), (0,), (0, 2), (2, 1), (0, 1, 2), (-1, 0)], ids=str)
def test_sums_over_dims(device, dims):
    compare("logvar", latents((4, 3, 5), device=device), reduction="sample", dims=dims)
    inputs = (*latents((4, 3, 5), device=device), *latents((5,), device=device, seed=7))
    compare("logvar", inputs, reduction="sample", dims=dims)


@pytest.mark.parametrize("reduction", ["none", "sum", "dim"])
@pytest.mark.parametrize("bounds", [(-0.5, 0.75), (-30.0, 20.0), (-float("inf"), 0.0), (0.25, 0.25)], ids=str)
def test_clamp(device, bounds, reduction):
    compare("logvar", latents((9, 33), device=device), clamp=bounds, reduction=reduction)
    inputs = (*latents((9, 33), device=device), *latents((33,), device=device, seed=7))
    compare("logvar", inputs, clamp=bounds, reduction=reduction)


def test_clamp_passes_the_gradient_on_the_bounds_only(device):
    logvar = torch.tensor([[-2.5, -2.0, 1.0, 2.0, 2.5]], device=device, requires_grad=True)
    pyaegpu.gaussian_kl(torch.zeros_like(logvar), logvar, clamp=(-2.0, 2.0)).backward()
    expected = [0.0, 0.5 * (torch.tensor(-2.0).exp() - 1), 0.5 * (torch.tensor(1.0).exp() - 1)]
    expected += [0.5 * (torch.tensor(2.0).exp() - 1), 0.0]
    torch.testing.assert_close(logvar.grad[0].cpu(), torch.tensor(expected))


@pytest.mark.parametrize("reduction", ["sum", "mean", "batchmean", "dim"])
@pytest.mark.parametrize("shape", [(8, 13), (4, 3, 5), (13,)], ids=str)
def test_free_bits(device, shape, reduction):
    mu, logvar = latents(shape, device=device)
    terms = oracle.kl_terms(mu, logvar)
    least = (terms.mean(0) if mu.dim() > 1 else terms).median().item() * 1.001
    compare("logvar", (mu, logvar), free_bits=least, reduction=reduction)
    compare("std_eps", (mu, logvar), free_bits=least, reduction=reduction, log_eps=0.01)
    prior = latents(shape[-1:], device=device, seed=9)
    compare("logvar", (mu, logvar, *prior), free_bits=least, reduction=reduction)


def test_free_bits_above_every_latent_leaves_no_gradient(device):
    mu, logvar = (t.requires_grad_() for t in latents((8, 5), device=device))
    value = pyaegpu.gaussian_kl(mu, logvar, free_bits=100.0, reduction="sum")
    value.backward()
    assert value == 8 * 5 * 100.0
    assert not mu.grad.any() and not logvar.grad.any()


def exact_kl(logvar):
    """(e^x - 1 - x) / 2 with fifty digits."""
    with localcontext() as context:
        context.prec = 50
        x = Decimal(logvar)
        return float((x.exp() - 1 - x) / 2)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 2e-15)], ids=str)
def test_no_cancellation_at_small_log_variance(device, dtype, tolerance):
    sizes = torch.cat([torch.logspace(-8, 1, 181, dtype=torch.float64), torch.tensor([1e-4, 0.25, 0.2499, 0.3466])])
    logvar = torch.cat([sizes, -sizes]).to(device, dtype)
    value = pyaegpu.gaussian_kl(torch.zeros_like(logvar), logvar, reduction="none")
    exact = torch.tensor([exact_kl(x) for x in logvar.tolist()], dtype=torch.float64)
    assert ((value.cpu().double() - exact) / exact).abs().max() < tolerance


def test_small_log_variance_sums_to_the_exact_value(device):
    logvar = torch.full((128, 20), 1e-4, device=device)
    value = pyaegpu.gaussian_kl(torch.zeros_like(logvar), logvar, reduction="sum")
    assert value.item() == pytest.approx(2560 * exact_kl(logvar[0, 0].item()), rel=1e-6)


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_gradient_at_small_log_variance(device, reduction):
    logvar = torch.logspace(-8, 1, 100, device=device).requires_grad_()
    pyaegpu.gaussian_kl(torch.zeros_like(logvar), logvar, reduction=reduction).sum().backward()
    expected = 0.5 * torch.expm1(logvar.detach().double())
    torch.testing.assert_close(logvar.grad.double(), expected, rtol=5e-7, atol=0)


@pytest.mark.parametrize("form", ["std", "var"])
def test_no_cancellation_near_unit_variance(device, form):
    offset = torch.logspace(-6, -0.5, 60, dtype=torch.float64)
    spread = torch.cat([1 + offset, 1 - offset]).float()
    variance = spread.double() if form == "var" else spread.double() ** 2
    logs = torch.log1p(spread.double() - 1) * (1 if form == "var" else 2)
    exact = 0.5 * (variance - 1 - logs)
    # log1p itself has 16 digits: below 1e-5 the difference in float64 keeps fewer than the comparison needs.
    settled = exact > 1e-9
    value = pyaegpu.gaussian_kl(torch.zeros(120, device=device), **{form: spread.to(device)}, reduction="none")
    error = ((value.cpu().double() - exact) / exact).abs()[settled]
    assert error.max() < 2e-6


def test_special_values(device):
    inf, nan = float("inf"), float("nan")
    logvar = torch.tensor([-inf, nan, 0.0, 0.0, 0.0], device=device)
    mu = torch.tensor([0.0, 0.0, inf, nan, 0.0], device=device)
    value = pyaegpu.gaussian_kl(mu, logvar, reduction="none")
    torch.testing.assert_close(value.cpu(), torch.tensor([inf, nan, inf, nan, 0.0]), equal_nan=True)
    assert not pyaegpu.gaussian_kl(mu[:1], torch.full((1,), inf, device=device)).isfinite()
    assert pyaegpu.gaussian_kl(mu[:1], torch.full((1,), 100.0, device=device)).isinf()


def test_nan_passes_the_clamp_as_in_stock(device):
    logvar = torch.tensor([[float("nan"), float("inf"), -float("inf")]], device=device, requires_grad=True)
    value = pyaegpu.gaussian_kl(torch.zeros_like(logvar), logvar, clamp=(-1.0, 1.0), reduction="none")
    expected = oracle.kl_terms(torch.zeros(1, 3), logvar.detach().cpu(), clamp=(-1.0, 1.0))
    torch.testing.assert_close(value.detach().cpu(), expected, equal_nan=True)


def test_zero_and_negative_std(device):
    std = torch.tensor([[0.0, -0.0, -1.0, 1.0, -2.0]], device=device, requires_grad=True)
    mu = torch.zeros_like(std)
    value = pyaegpu.gaussian_kl(mu, std=std, log_eps=1e-4, reduction="none")
    torch.testing.assert_close(value.detach(), oracle.kl_terms(mu, std=std.detach(), log_eps=1e-4))
    (grad,) = torch.autograd.grad(value.sum(), std)
    torch.testing.assert_close(grad, std.detach() - std.detach() / (std.detach() ** 2 + 1e-4))
    assert pyaegpu.gaussian_kl(mu[:, :1], std=std[:, :1].detach()).isinf()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0,)], ids=str)
def test_empty(device, shape, reduction):
    mu, logvar = (torch.empty(shape, device=device, requires_grad=True) for _ in range(2))
    value = pyaegpu.gaussian_kl(mu, logvar, reduction=reduction)
    expected = oracle.kl(mu, logvar, reduction=reduction)
    if reduction == "batchmean" and shape == (0, 4):
        expected = torch.tensor(float("nan"), device=device)
    torch.testing.assert_close(value, expected, equal_nan=True)
    value.sum().backward()
    assert mu.grad.shape == shape


def test_matches_torch_distributions(device):
    mu, logvar = latents((16, 8), torch.float64, device)
    mu2, logvar2 = latents((16, 8), torch.float64, device, seed=3)
    p, q = (torch.distributions.Normal(m, (0.5 * v).exp()) for m, v in ((mu, logvar), (mu2, logvar2)))
    expected = torch.distributions.kl_divergence(p, q)
    value = pyaegpu.gaussian_kl(mu, std=p.scale, other=(mu2, logvar2), reduction="none")
    torch.testing.assert_close(value, expected)


def test_more_elements_than_32_bits_count(kernel_device):
    mu, logvar = latents((1, 1024), device=kernel_device)
    count = 2**21 + 1
    value = pyaegpu.gaussian_kl(mu.expand(count, 1024), logvar.expand(count, 1024), reduction="sum")
    expected = oracle.kl_terms(mu.double(), logvar.double()).sum() * count
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
