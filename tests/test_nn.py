"""The loss modules."""

import copy
import io

import oracle
import pytest
import torch
from oracle import images, latents

import pyaegpu
from pyaegpu import nn

WEIGHT = torch.tensor([0.5, 2.0, 1.0])
RECONSTRUCTION = [
    {},
    {"kind": "mse", "reduction": "mean", "weight": WEIGHT},
    {"kind": "smooth_l1", "beta": 0.3, "scale": 2.0, "reduction": "sample"},
]
VAE = [
    {},
    {"kind": "mse", "beta": 4.0, "recon_reduction": "mean", "kl_reduction": "batchmean", "weight": WEIGHT},
    {"kind": "l1", "recon_reduction": "sample", "kl_reduction": "sample", "return_parts": True},
    {"recon_scale": 0.1, "free_bits": 0.2, "clamp": (-1.0, 1.0), "beta": torch.tensor(0.5)},
]


@pytest.mark.parametrize("options", RECONSTRUCTION, ids=str)
def test_reconstruction_loss(device, options):
    module = nn.ReconstructionLoss(**options).to(device)
    recon, target = images("bce", (4, 3), device=device)
    options = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    assert torch.equal(module(recon, target), pyaegpu.reconstruction_loss(recon, target, **options))


@pytest.mark.parametrize("options", VAE, ids=str)
def test_vae_loss(device, options):
    module = nn.VAELoss(**options).to(device)
    inputs = (*images("bce", (4, 3), device=device), *latents((4, 2), device=device))
    options = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    ours, expected = module(*inputs), pyaegpu.vae_loss(*inputs, **options)
    assert isinstance(ours, tuple) == options.get("return_parts", False)
    assert all(map(torch.equal, oracle.as_tuple(ours), oracle.as_tuple(expected)))


def test_reconstruction_loss_stands_in_for_stock():
    recon, target = images("bce", (4, 3))
    for module, ours in (
        (torch.nn.BCELoss(weight=WEIGHT), nn.ReconstructionLoss("bce", reduction="mean", weight=torch.zeros(3))),
        (torch.nn.MSELoss(), nn.ReconstructionLoss("mse", reduction="mean")),
        (torch.nn.L1Loss(reduction="sum"), nn.ReconstructionLoss("l1")),
        (torch.nn.SmoothL1Loss(beta=0.2), nn.ReconstructionLoss("smooth_l1", reduction="mean", beta=0.2)),
    ):
        ours.load_state_dict(module.state_dict(), strict=True)
        module.load_state_dict(ours.state_dict(), strict=True)
        torch.testing.assert_close(ours(recon, target), module(recon, target))


@pytest.mark.parametrize(
    "make", [lambda: nn.ReconstructionLoss("mse", weight=WEIGHT), lambda: nn.VAELoss(beta=0.5, weight=WEIGHT)]
)
def test_copies_and_pickles(make):
    module = make()
    inputs = (*images("bce", (4, 3)), *latents((4, 2)))[: 2 if isinstance(module, nn.ReconstructionLoss) else 4]
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    for other in (copy.deepcopy(module), torch.load(file, weights_only=False)):
        assert torch.equal(other(*inputs), module(*inputs))
        assert repr(other) == repr(module)


def test_beta_is_annealed_by_assignment():
    inputs = (*images("bce", (4, 3)), *latents((4, 2)))
    module = nn.VAELoss()
    for beta in (0.0, 0.5, torch.tensor(2.0)):
        module.beta = beta
        assert torch.equal(module(*inputs), pyaegpu.vae_loss(*inputs, beta=beta))


def test_a_learned_beta_is_a_parameter():
    inputs = (*images("bce", (4, 3)), *latents((4, 2)))
    module = nn.VAELoss(beta=torch.nn.Parameter(torch.tensor(0.5)))
    assert dict(module.named_parameters()).keys() == {"beta"}
    module(*inputs).backward()
    torch.testing.assert_close(module.beta.grad, oracle.vae(*inputs)[2])


def test_weight_is_a_buffer_that_moves():
    module = nn.ReconstructionLoss("mse", weight=WEIGHT).double()
    assert module.weight.dtype == torch.float64
    assert list(module.parameters()) == []
    assert nn.VAELoss().state_dict() == {}


def test_repr_tells_the_options():
    assert "kind='mse'" in repr(nn.ReconstructionLoss("mse")) and "reduction='sum'" in repr(
        nn.ReconstructionLoss("mse")
    )
    text = repr(nn.VAELoss(kind="mse", beta=0.5, free_bits=0.1, clamp=(-1.0, 1.0)))
    for part in ("kind='mse'", "beta=0.5", "free_bits=0.1", "clamp=(-1.0, 1.0)"):
        assert part in text


def test_arguments_are_keywords():
    with pytest.raises(TypeError):
        nn.VAELoss("mse")
    with pytest.raises(TypeError):
        nn.ReconstructionLoss("mse", "sum")


def test_a_bad_option_is_reported_by_the_call():
    recon, target = images("bce", (4, 3))
    with pytest.raises(ValueError, match="kind"):
        nn.ReconstructionLoss("l2")(recon, target)


def test_a_model_learns_with_it():
    torch.manual_seed(0)
    x = torch.rand(32, 10)
    encoder, decoder = torch.nn.Linear(10, 6), torch.nn.Linear(3, 10)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=0.05)
    loss_of, losses = nn.VAELoss(kind="bce_logits", kl_reduction="batchmean"), []
    for _ in range(30):
        mu, logvar = encoder(x).chunk(2, 1)
        loss = loss_of(decoder(mu + torch.randn_like(mu) * (0.5 * logvar).exp()), x, mu, logvar)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
