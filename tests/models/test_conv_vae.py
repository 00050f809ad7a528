"""The convolutional VAE."""

import json

import pytest
import torch
from torch.nn import functional as F

import pyaegpu
from pyaegpu import models

SMALL = {"image_shape": (3, 7, 10), "channels": (4, 5), "latent": 3}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "stock"])
@pytest.mark.parametrize(
    ("shape", "channels"),
    [
        ((1, 28, 28), (32, 64)),
        ((3, 7, 5), (4, 3, 2)),
        ((3, 13, 32), (5,)),
        ((1, 1, 64), (8, 4)),
        ((2, 33, 18), (4, 8, 16, 8)),
        ((1, 1, 1), (2, 3)),
    ],
)
def test_reconstructions_have_the_shape_of_the_images(shape, channels, fused):
    model = models.create("conv_vae", fused=fused, image_shape=shape, channels=channels, latent=3)
    x = torch.rand(2, *shape)
    recon, mu, logvar = model(x, seeded(0))
    assert recon.shape == model.generate(mu).shape == x.shape
    assert mu.shape == logvar.shape == (2, 3)


def test_layers_are_what_the_docstring_says():
    model = models.create("conv_vae", **SMALL)
    conv1, conv2, linear = (model.encoder[i] for i in (0, 2, 5))
    h = F.relu(F.conv2d(x := torch.rand(2, 3, 7, 10), conv1.weight, conv1.bias, stride=2, padding=1))
    h = F.relu(F.conv2d(h, conv2.weight, conv2.bias, stride=2, padding=1))
    assert h.shape == (2, 5, 2, 3)
    mu, logvar = model.encode(x)
    torch.testing.assert_close(torch.cat((mu, logvar), 1), h.flatten(1) @ linear.weight.T + linear.bias)
    linear, up1, up2 = (model.decoder[i] for i in (0, 3, 5))
    h = F.relu(mu @ linear.weight.T + linear.bias).view(2, 5, 2, 3)
    h = F.relu(F.conv_transpose2d(h, up1.weight, up1.bias, 2, 1, output_padding=(1, 0)))
    h = F.conv_transpose2d(h, up2.weight, up2.bias, 2, 1, output_padding=(0, 1))
    torch.testing.assert_close(model.decode(mu), h)
    torch.testing.assert_close(model.generate(mu), torch.sigmoid(h))


def test_28_pixels_become_7_and_come_back():
    decoder = models.create("conv_vae").decoder
    h, sizes = torch.rand(1, 20), []
    for layer in decoder:
        h = layer(h)
        sizes.append(h.shape[-1])
    assert sizes[2:] == [7, 14, 14, 28]
    assert decoder[0].out_features == 64 * 7 * 7


def test_channels_last_gives_the_same_and_stays():
    model = models.create("conv_vae", **SMALL)
    x = torch.rand(4, 3, 7, 10)
    expected = model(x, seeded(1))
    model.to(memory_format=torch.channels_last)
    results = model(x.contiguous(memory_format=torch.channels_last), seeded(1))
    assert results[0].is_contiguous(memory_format=torch.channels_last)
    for result, other in zip(results, expected, strict=True):
        torch.testing.assert_close(result, other)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_fused_layers_do_as_stocks(batch_norm):
    """Names, reconstructions, gradients and running statistics; the means are decoded, for the two kinds draw other
    noise."""
    torch.manual_seed(0)
    kinds = [models.create("conv_vae", fused=kind, batch_norm=batch_norm, **SMALL) for kind in (False, True)]
    stock, fused = (model.double() for model in kinds)
    fused.load_state_dict(stock.state_dict(), strict=True)
    stock.load_state_dict(fused.state_dict(), strict=True)
    x = torch.rand(4, 3, 7, 10, dtype=torch.float64)
    with pyaegpu.backend("cpu"):
        for model in (stock, fused):
            (F.binary_cross_entropy_with_logits(model.decode(model.encode(x)[0]), x)).backward()
        for _ in ("training", "evaluation"):
            decoded = [model.decode(model.encode(x)[0]) for model in (fused, stock)]
            torch.testing.assert_close(*decoded, rtol=1e-9, atol=1e-9)
            fused.eval(), stock.eval()
    pairs = zip(fused.named_parameters(), stock.named_parameters(), strict=True)
    for (name, mine), (same, theirs) in pairs:
        assert name == same
        if theirs.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-9)
    for mine, theirs in zip(fused.buffers(), stock.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_batch_norm_follows_every_convolution_but_the_last():
    model = models.create("conv_vae", batch_norm=True, **SMALL)
    norms = [layer.num_features for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    assert norms == [4, 5, 4]
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in models.create("conv_vae", **SMALL).modules())


def test_a_fused_decoder_runs_the_kernels_where_they_were_measured():
    model = models.create("conv_vae")
    x, algorithms = torch.rand(64, 20), []
    for layer in model.decoder:
        if isinstance(layer, pyaegpu.nn.ConvTranspose2d):
            algorithms.append(pyaegpu.explain(layer, x).algorithm)
        x = layer(x)
    assert algorithms[0].startswith("stock convolution") and algorithms[1].startswith("one product per tile")


def test_keywords_survive_json():
    kwargs = json.loads(json.dumps(SMALL | {"output": "sigmoid"}))
    model, again = models.create("conv_vae", **SMALL), models.create("conv_vae", fused=False, **kwargs)
    again.load_state_dict(model.state_dict())
    z = torch.randn(6, 3)
    torch.testing.assert_close(again.decode(z), torch.sigmoid(model.decode(z)))


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    model = models.create("conv_vae", **SMALL)
    recon, mu, logvar = model(torch.rand(8, 3, 7, 10))
    (recon.square().sum() + mu.square().sum() + logvar.square().sum()).backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_shape": (28, 28)}, r"image_shape is \(28, 28\)"),
        ({"image_shape": (1, 0, 28)}, r"image_shape\[1\] is 0"),
        ({"channels": ()}, "channels is empty"),
        ({"channels": (4, 0)}, r"channels\[1\] is 0"),
        ({"latent": 0}, "latent is 0"),
        ({"output": "tanh"}, "'tanh'.*logits, sigmoid"),
    ],
)
def test_bad_sizes(wrong, message):
    with pytest.raises(ValueError, match=message):
        models.create("conv_vae", **(SMALL | wrong))
