"""The modules that draw noise."""

import copy
import io

import pytest
import torch
from oracle import latents

import pyaegpu
from pyaegpu import nn

CORRUPTIONS = [("gaussian", 0.5, {}), ("masking", 0.25, {}), ("salt_and_pepper", 0.5, {"low": -1.0, "high": 2.0})]
each_corruption = pytest.mark.parametrize("kind, amount, options", CORRUPTIONS, ids=[c[0] for c in CORRUPTIONS])


def alike(first, second):
    """Both calls with the same state of the default generator."""
    results = []
    for call in (first, second):
        torch.manual_seed(3)
        value = call()
        results.append(value if isinstance(value, tuple) else (value,))
    return len(results[0]) == len(results[1]) and all(map(torch.equal, *results))


@pytest.mark.parametrize("options", [{}, {"clamp": (-0.5, 0.5)}, {"return_eps": True}], ids=str)
def test_reparameterize(device, options):
    module = nn.Reparameterize(**options)
    mu, logvar = latents((4, 3), device=device)
    assert alike(lambda: module(mu, logvar), lambda: pyaegpu.reparameterize(mu, logvar, **options))
    assert alike(lambda: module(mu, logvar, eps=mu), lambda: pyaegpu.reparameterize(mu, logvar, eps=mu, **options))
    if "clamp" not in options:
        assert alike(lambda: module(mu, std=logvar), lambda: pyaegpu.reparameterize(mu, std=logvar, **options))
    module.eval()
    assert alike(lambda: module(mu, logvar), lambda: (mu, torch.zeros_like(mu)) if options.get("return_eps") else mu)
    module.train()
    assert not torch.equal(torch.as_tensor(_first(module(mu, logvar))), mu)


def _first(value):
    return value[0] if isinstance(value, tuple) else value


@each_corruption
def test_corrupt(device, kind, amount, options):
    module = nn.Corrupt(kind, amount, **options)
    x = latents((40, 30), device=device)[0]
    assert alike(lambda: module(x), lambda: pyaegpu.corrupt(x, kind, amount, **options))
    assert not torch.equal(module(x), x)
    module.eval()
    assert torch.equal(module(x), x)


def modules():
    return [nn.Reparameterize(), *(nn.Corrupt(kind, amount, **options) for kind, amount, options in CORRUPTIONS)]


def call(module, **options):
    mu, logvar = latents((40, 30))
    return module(mu, logvar, **options) if isinstance(module, nn.Reparameterize) else module(mu, **options)


@pytest.mark.parametrize("module", modules(), ids=repr)
def test_generators(module):
    """One at construction, another for a call."""
    drawn = call(module, generator=torch.Generator().manual_seed(5))
    module = copy.deepcopy(module)
    module.generator = torch.Generator().manual_seed(5)
    assert torch.equal(call(module), drawn)
    assert not torch.equal(call(module), drawn)
    before = module.generator.get_state()
    assert torch.equal(call(module, generator=torch.Generator().manual_seed(5)), drawn)
    assert torch.equal(module.generator.get_state(), before)
    each = [torch.Generator().manual_seed(i) for i in range(40)]
    assert call(module, generator=each).shape == (40, 30)


def test_a_generator_given_at_construction():
    mu, logvar = latents((4, 3))
    for make in (
        lambda g: lambda: nn.Reparameterize(generator=g)(mu, logvar),
        lambda g: lambda: nn.Corrupt("gaussian", 1.0, generator=g)(mu),
    ):
        assert torch.equal(*(make(torch.Generator().manual_seed(8))() for _ in range(2)))


@pytest.mark.parametrize("module", modules(), ids=repr)
def test_nothing_to_store(module):
    assert module.state_dict() == {} and list(module.parameters()) == [] and list(module.buffers()) == []
    module.load_state_dict({}, strict=True)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    for other in (copy.deepcopy(module), torch.load(file, weights_only=False)):
        assert repr(other) == repr(module)
        assert alike(lambda other=other: call(other), lambda: call(module))


def test_a_copy_has_a_generator_of_its_own():
    module = nn.Reparameterize(generator=torch.Generator().manual_seed(5))
    other = copy.deepcopy(module)
    assert torch.equal(call(other), call(module))
    call(module)
    assert not torch.equal(call(other), call(module))


def test_repr_tells_the_options():
    text = repr(nn.Reparameterize(clamp=(-1.0, 1.0), return_eps=True))
    assert "clamp=(-1.0, 1.0)" in text and "return_eps=True" in text
    for part in ("'salt_and_pepper'", "amount=0.5", "low=-1.0", "high=2.0"):
        assert part in repr(nn.Corrupt("salt_and_pepper", 0.5, low=-1.0, high=2.0))
    assert "low" not in repr(nn.Corrupt("masking", 0.5))


def test_a_bad_option_is_reported_by_the_call():
    with pytest.raises(ValueError, match="kind"):
        nn.Corrupt("poisson", 0.5)(torch.zeros(3))
    with pytest.raises(TypeError, match="clamp"):
        nn.Reparameterize(clamp=3)(torch.zeros(3), torch.zeros(3))


def test_a_denoising_model_learns_with_them():
    torch.manual_seed(0)
    x = torch.rand(64, 10)
    model = torch.nn.Sequential(nn.Corrupt("masking", 0.2), torch.nn.Linear(10, 6))
    sample, decoder, losses = nn.Reparameterize(), torch.nn.Linear(3, 10), []
    optimizer = torch.optim.Adam([*model.parameters(), *decoder.parameters()], lr=0.05)
    for _ in range(40):
        mu, logvar = model(x).chunk(2, 1)
        loss = (decoder(sample(mu, logvar)) - x).square().mean() + 1e-3 * pyaegpu.gaussian_kl(mu, logvar)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
