"""dtypes of results, with and without autocast."""

import oracle
import pytest
import torch
from oracle import DTYPES, KINDS, images, latents

import pyaegpu

HALVES = (torch.float16, torch.bfloat16)


def stock(kind, recon, target, reduction):
    return (
        oracle.elementwise(recon, target, kind)
        if reduction == "none"
        else oracle.reconstruction(recon, target, kind, reduction=reduction)
    )


@pytest.mark.parametrize("enabled", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_reconstruction_loss_has_stocks_dtype(device, kind, dtype, enabled):
    recon, target = images(kind, (4, 6), dtype, device)
    for reduction in ("none", "sum", "mean"):
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            ours = pyaegpu.reconstruction_loss(recon, target, kind, reduction=reduction)
            if not (kind == "bce" and enabled and device.type == "cuda"):
                assert ours.dtype == stock(kind, recon, target, reduction).dtype
        expected = torch.float32 if enabled and dtype in HALVES else dtype
        assert ours.dtype == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("half", HALVES, ids=str)
def test_half_reconstruction_and_float_target_under_autocast(device, kind, half):
    recon, target = images(kind, (4, 6), torch.float32, device)
    mu, logvar = latents((4, 3), torch.float32, device)
    recon = recon.to(half).requires_grad_()
    mu, logvar = mu.to(half).requires_grad_(), logvar.requires_grad_()
    with torch.autocast(device.type, torch.bfloat16):
        loss, part, kl = pyaegpu.vae_loss(recon, target, mu, logvar, kind=kind, return_parts=True)
        single = pyaegpu.reconstruction_loss(recon, target, kind)
    assert {t.dtype for t in (loss, part, kl, single)} == {torch.float32}
    loss.backward()
    wide = [t.detach().double().requires_grad_() for t in (recon, target, mu, logvar)]
    expected = oracle.vae(*wide, kind=kind)
    expected[0].backward()
    for ours, truth in zip((loss, part, kl), expected, strict=True):
        torch.testing.assert_close(ours.double(), truth, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(single.double(), expected[1], rtol=1e-6, atol=1e-6)
    for leaf, truth in zip((recon, mu, logvar), (wide[0], wide[2], wide[3]), strict=True):
        assert leaf.grad.dtype == leaf.dtype
        torch.testing.assert_close(leaf.grad.double(), truth.grad, rtol=2 * torch.finfo(leaf.dtype).eps, atol=1e-6)


@pytest.mark.parametrize("enabled", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kl_and_vae_loss_are_float32_for_half_precision(device, dtype, enabled):
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    recon, target = images("bce", (4, 6), dtype, device)
    mu, logvar = latents((4, 3), dtype, device)
    with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
        for reduction in ("none", "sum", "sample", "dim"):
            assert pyaegpu.gaussian_kl(mu, logvar, reduction=reduction).dtype == expected
        assert pyaegpu.gaussian_kl(mu, std=logvar.exp(), free_bits=0.1).dtype == expected
        for options in ({}, {"free_bits": 0.1}, {"recon_reduction": "sample", "kl_reduction": "sample"}):
            results = pyaegpu.vae_loss(recon, target, mu, logvar, return_parts=True, **options)
            assert all(r.dtype == expected for r in results)
        weight = torch.rand(6, device=device)
        results = pyaegpu.vae_loss(
            recon, target, mu, logvar, kind="mse", weight=weight, recon_reduction="mean", return_parts=True
        )
        assert all(r.dtype == expected for r in results)


def test_autocast_does_not_lower_the_precision(device):
    recon, target = images("bce", (64, 64), device=device)
    mu, logvar = latents((64, 8), device=device)
    outside = pyaegpu.vae_loss(recon, target, mu, logvar)
    with torch.autocast(device.type, torch.bfloat16):
        assert torch.equal(pyaegpu.vae_loss(recon, target, mu, logvar), outside)


def test_a_training_step_under_autocast(device):
    torch.manual_seed(0)
    encoder, decoder = (torch.nn.Linear(*sizes).to(device) for sizes in ((12, 8), (4, 12)))
    x = torch.rand(5, 12, device=device)
    losses = []
    for fn in (pyaegpu.vae_loss, lambda r, t, m, v, kind: oracle.vae(r.float(), t, m.float(), v.float(), kind=kind)[0]):
        with torch.autocast(device.type, torch.bfloat16):
            mu, logvar = encoder(x).chunk(2, 1)
            recon = decoder(mu)
            assert recon.dtype == mu.dtype == torch.bfloat16
            loss = fn(recon, x, mu, logvar, kind="bce_logits")
        encoder.zero_grad()
        loss.backward()
        losses.append((loss, encoder.weight.grad.clone()))
    torch.testing.assert_close(*(loss for loss, _ in losses))
    torch.testing.assert_close(*(grad for _, grad in losses), rtol=2e-2, atol=2e-2)
