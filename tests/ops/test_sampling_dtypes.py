"""dtypes of the sampling functions' results, mixed inputs and autocast."""

import itertools

import oracle
import pytest
import torch
from oracle import DTYPES, latents

import pyaegpu

MIXED = list(itertools.product(DTYPES, DTYPES))
HALVES = (torch.float16, torch.bfloat16)


def stock(mu, spread, eps, form):
    """As programs write it; autocast takes the exponential to float32 on a GPU."""
    return mu + (torch.exp(0.5 * spread) if form == "logvar" else spread) * eps


@pytest.mark.parametrize("enabled", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("dtypes", MIXED, ids=lambda d: f"{d[0]}-{d[1]}")
@pytest.mark.parametrize("form", ["logvar", "std"])
def test_reparameterize_has_stocks_dtype(device, form, dtypes, enabled):
    mu, spread = latents((4, 6), device=device)
    mu, spread = mu.to(dtypes[0]), spread.to(dtypes[1])
    with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
        for eps in (None, *(torch.ones_like(mu, dtype=dtype) for dtype in DTYPES)):
            z, noise = pyaegpu.reparameterize(mu, **{form: spread}, eps=eps, return_eps=True)
            expected = stock(mu, spread, mu if eps is None else eps, form)
            assert z.dtype == noise.dtype == expected.dtype
        z, kl = pyaegpu.reparameterize_kl(mu, spread)
        assert z.dtype == stock(mu, spread, mu, "logvar").dtype
        assert kl.dtype == torch.promote_types(z.dtype, torch.float32)


@pytest.mark.parametrize("dtypes", [d for d in MIXED if d[0] != d[1]], ids=lambda d: f"{d[0]}-{d[1]}")
def test_mixed_dtypes_have_the_values_and_gradients_of_the_wider(device, dtypes):
    mu, logvar = latents((4, 6), device=device)
    leaves = [mu.to(dtypes[0]).requires_grad_(), logvar.to(dtypes[1]).requires_grad_()]
    wide = [t.detach().double().requires_grad_() for t in leaves]
    eps = latents((4, 6), dtypes[0], device, seed=6)[0]
    ours, truth = pyaegpu.reparameterize(*leaves, eps=eps), oracle.reparameterize(*wide, eps=eps.double())
    tolerance = 2 * torch.finfo(ours.dtype).eps
    torch.testing.assert_close(ours.double(), truth, rtol=tolerance, atol=tolerance)
    ours.sum().backward()
    truth.sum().backward()
    for leaf, true in zip(leaves, wide, strict=True):
        tolerance = 2 * torch.finfo(leaf.dtype).eps
        assert leaf.grad.dtype == leaf.dtype
        torch.testing.assert_close(leaf.grad.double(), true.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("enabled", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_corrupt_keeps_the_dtype(device, dtype, enabled):
    x = latents((4, 6), dtype, device)[0]
    with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
        for kind in ("gaussian", "masking", "salt_and_pepper"):
            assert pyaegpu.corrupt(x, kind, 0.5).dtype == dtype


@pytest.mark.parametrize("half", HALVES, ids=str)
def test_divergence_of_half_precision_is_summed_in_float32(device, half):
    mu, logvar = latents((64, 1031), half, device)
    for reduction in ("none", "sum", "sample", "dim"):
        kl = pyaegpu.reparameterize_kl(mu, logvar, reduction=reduction)[1]
        expected = oracle.kl(mu.double(), logvar.double(), reduction=reduction)
        torch.testing.assert_close(kl.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_training_step_under_autocast(device):
    torch.manual_seed(0)
    encoder = torch.nn.Linear(12, 8).to(device)
    x = torch.rand(5, 12, device=device)
    eps = torch.randn(5, 4, device=device)
    grads = []
    for fn in (pyaegpu.reparameterize, oracle.reparameterize):
        with torch.autocast(device.type, torch.bfloat16):
            mu, logvar = encoder(x).chunk(2, 1)
            assert mu.dtype == torch.bfloat16
            z = fn(mu, logvar, eps=eps.to(mu.dtype))
        encoder.zero_grad()
        z.float().square().sum().backward()
        grads.append(encoder.weight.grad.clone())
    torch.testing.assert_close(*grads, rtol=3e-2, atol=3e-2)
