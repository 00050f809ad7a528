"""The MLP VAE and the model registry."""

import pytest
import torch

from pyaegpu import models
from pyaegpu.functional import reparameterize

SMALL = {"input_dim": 12, "hidden": 7, "latent": 3}


either = pytest.mark.parametrize("fused", [True, False], ids=["fused", "stock"])


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_registry():
    assert models.available() == ["conv_vae", "dcgan", "vae"]
    assert isinstance(models.create("vae"), models.VAE)
    assert isinstance(models.create("conv_vae"), models.ConvVAE)


def test_unknown_model_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'vea'.*vae"):
        models.create("vea")


def test_default_sizes():
    shapes = {key: tuple(value.shape) for key, value in models.create("vae").state_dict().items()}
    assert shapes == {
        "encoder.0.weight": (400, 784),
        "encoder.0.bias": (400,),
        "encoder.2.weight": (40, 400),
        "encoder.2.bias": (40,),
        "decoder.0.weight": (400, 20),
        "decoder.0.bias": (400,),
        "decoder.2.weight": (784, 400),
        "decoder.2.bias": (784,),
    }


@pytest.mark.parametrize("name", ["input_dim", "hidden", "latent"])
def test_sizes_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        models.create("vae", **(SMALL | {name: 0}))


def test_unknown_output_is_refused():
    with pytest.raises(ValueError, match=r"'tanh'.*logits, sigmoid"):
        models.create("vae", output="tanh")


def noise(fused, like, generator):
    """What either kind of model draws."""
    if not fused:
        return torch.randn(like.shape, generator=generator)
    return reparameterize(torch.zeros_like(like), torch.zeros_like(like), generator=generator)


@either
def test_forward_is_encode_sample_decode(fused):
    model = models.create("vae", fused=fused, **SMALL)
    x = torch.rand(5, 1, 3, 4)
    recon, mu, logvar = model(x, seeded(1))
    eps = noise(fused, mu, seeded(1))
    hidden = torch.relu(x.flatten(1) @ model.encoder[0].weight.T + model.encoder[0].bias)
    code = hidden @ model.encoder[2].weight.T + model.encoder[2].bias
    z = code[:, :3] + torch.exp(code[:, 3:] / 2) * eps
    torch.testing.assert_close(mu, code[:, :3])
    torch.testing.assert_close(logvar, code[:, 3:])
    torch.testing.assert_close(recon, model.decode(z))
    assert recon.shape == (5, 12)


@either
def test_samples_follow_the_generator_in_either_mode(fused):
    model = models.create("vae", fused=fused, **SMALL)
    x = torch.rand(4, 12)
    for mode in (True, False):
        model.train(mode)
        assert torch.equal(model(x, seeded(3))[0], model(x, seeded(3))[0])
        assert not torch.equal(model(x, seeded(3))[0], model(x, seeded(4))[0])


@either
def test_reparameterize_has_the_moments_of_q(fused):
    model = models.create("vae", fused=fused, **SMALL)
    mu = torch.full((100_000, 2), 1.5)
    z = model.reparameterize(mu, torch.full_like(mu, 2 * torch.log(torch.tensor(0.5)).item()), seeded(0))
    torch.testing.assert_close(z.mean(0), torch.tensor([1.5, 1.5]), atol=0.01, rtol=0)
    torch.testing.assert_close(z.std(0), torch.tensor([0.5, 0.5]), atol=0.01, rtol=0)


def test_output_and_fused_share_the_weights():
    logits = models.create("vae", **SMALL)
    sigmoid = models.create("vae", fused=False, output="sigmoid", **SMALL)
    sigmoid.load_state_dict(logits.state_dict())
    z = torch.randn(6, 3)
    assert (logits.fused, sigmoid.fused) == (True, False)
    torch.testing.assert_close(torch.sigmoid(logits.decode(z)), sigmoid.decode(z))
    torch.testing.assert_close(logits.generate(z), sigmoid.generate(z))
    torch.testing.assert_close(sigmoid.generate(z), sigmoid.decode(z))


@either
def test_half_precision_probabilities_do_not_round_to_one(fused):
    model = models.create("vae", fused=fused, output="sigmoid", **SMALL).to(torch.bfloat16)
    with torch.no_grad():
        model.decoder[2].bias.fill_(10)
        model.decoder[2].weight.zero_()
    recon, mu, _ = model(torch.rand(4, 12, dtype=torch.bfloat16))
    assert mu.dtype == torch.bfloat16
    assert recon.dtype == torch.float32
    assert bool((recon < 1).all())


@either
def test_every_parameter_gets_a_gradient(fused):
    model = models.create("vae", fused=fused, **SMALL)
    recon, mu, logvar = model(torch.rand(4, 12))
    (recon.square().sum() + mu.square().sum() + logvar.square().sum()).backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())
