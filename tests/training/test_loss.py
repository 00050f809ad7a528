"""The training loss, fused against stock and against hand-made numbers."""

import math

import pytest
import torch

from pyaegpu.training import OUTPUT_OF_KIND, make_loss

either = pytest.mark.parametrize("fused", [True, False], ids=["fused", "stock"])


def inputs(kind, requires_grad=False):
    generator = torch.Generator().manual_seed(0)
    recon = torch.randn(6, 11, generator=generator)
    recon = torch.sigmoid(recon) if OUTPUT_OF_KIND[kind] == "sigmoid" else recon
    target = torch.rand(6, 11, generator=generator)
    mu, logvar = torch.randn(6, 8, generator=generator).chunk(2, 1)
    leaves = [t.clone().requires_grad_(requires_grad) for t in (recon, mu, logvar)]
    return leaves[0], target, *leaves[1:]


@either
def test_known_values(fused):
    half = torch.full((2, 3), 0.5)
    mu, logvar = torch.full((2, 4), 2.0), torch.full((2, 4), math.log(4.0))
    kl = 8 * 0.5 * (4 + 4 - 1 - math.log(4))
    for kind, recon, reconstruction in (
        ("bce", half, 6 * math.log(2)),
        ("bce_logits", torch.zeros(2, 3), 6 * math.log(2)),
        ("mse", half + 0.1, 6 * 0.01),
    ):
        loss, *parts = make_loss(kind, beta=3.0, fused=fused)(recon, half, mu, logvar)
        assert [p.item() for p in parts] == pytest.approx([reconstruction, kl], rel=1e-5)
        assert loss.item() == pytest.approx(reconstruction + 3 * kl, rel=1e-5)


@pytest.mark.parametrize("kind", OUTPUT_OF_KIND)
@pytest.mark.parametrize("beta", [1.0, 0.25])
def test_fused_equals_stock(kind, beta):
    results = []
    for fused in (True, False):
        recon, target, mu, logvar = inputs(kind, requires_grad=True)
        parts = make_loss(kind, beta, fused=fused)(recon, target, mu, logvar)
        parts[0].backward()
        results.append([*(p.detach() for p in parts), recon.grad, mu.grad, logvar.grad])
    for ours, stock in zip(*results, strict=True):
        torch.testing.assert_close(ours, stock, rtol=1e-5, atol=1e-6)


def test_bce_of_probabilities_equals_bce_of_logits():
    recon, target, mu, logvar = inputs("bce_logits")
    logits = make_loss("bce_logits")(recon, target, mu, logvar)[0]
    probabilities = make_loss("bce")(torch.sigmoid(recon), target, mu, logvar)[0]
    torch.testing.assert_close(logits, probabilities)


def test_unknown_kind():
    with pytest.raises(ValueError, match=r"'l3'.*bce_logits"):
        make_loss("l3")
