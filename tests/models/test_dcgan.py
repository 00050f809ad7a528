"""The deep convolutional GAN."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pyaegpu
from pyaegpu import models

SMALL = {"image_shape": (3, 16, 16), "width": 4, "latent": 5}
either = pytest.mark.parametrize("fused", [True, False], ids=["fused", "stock"])


@either
@pytest.mark.parametrize("size", [8, 16, 32])
def test_shapes(size, fused):
    model = models.create("dcgan", fused=fused, image_shape=(1, size, size), width=3, latent=5)
    images = model(torch.randn(2, 5))
    assert images.shape == model.generate(torch.randn(2, 5, 1, 1)).shape == (2, 1, size, size)
    assert images.abs().max() <= 1
    assert model.discriminate(images).shape == (2,)


def test_layers_are_those_of_the_paper():
    """100 -> 512x4x4 -> 256x8x8 -> 128x16x16 -> 64x32x32 -> 3x64x64, and back."""
    model = models.create("dcgan", fused=False)
    shapes, h = [], torch.randn(1, 100, 1, 1)
    model.eval()
    for layer in model.generator:
        h = layer(h)
        shapes.append(tuple(h.shape[1:]))
    made = [(512, 4, 4), (256, 8, 8), (128, 16, 16), (64, 32, 32), (3, 64, 64)]
    assert shapes == [*made, made[-1]]
    shapes = []
    for layer in model.discriminator:
        h = layer(h)
        shapes.append(tuple(h.shape[1:]))
    assert shapes == [made[3], *made[3::-1], (1, 1, 1)]
    assert all(layer.bias is None for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)))


def test_weights_are_drawn_as_in_the_paper():
    torch.manual_seed(0)
    model = models.create("dcgan")
    convolutions = [p for p in model.parameters() if p.dim() == 4]
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(convolutions) == 10 and len(norms) == 7
    assert all(abs(p.std().item() - 0.02) < 2e-3 and abs(p.mean().item()) < 2e-3 for p in convolutions)
    gains = torch.cat([norm.weight for norm in norms])
    assert abs(gains.mean().item() - 1) < 3e-3 and abs(gains.std().item() - 0.02) < 3e-3


def test_fused_layers_do_as_stocks():
    """Names, images, logits, gradients of both players and running statistics."""
    torch.manual_seed(0)
    stock, fused = (models.create("dcgan", fused=kind, **SMALL).double() for kind in (False, True))
    fused.load_state_dict(stock.state_dict(), strict=True)
    stock.load_state_dict(fused.state_dict(), strict=True)
    z = torch.randn(4, 5, dtype=torch.float64)
    results = []
    with pyaegpu.backend("cpu"):
        for model in (stock, fused):
            images = model(z)
            logits = model.discriminate(images)
            F.softplus(-logits).sum().backward()
            results.append((images, logits))
            model.eval()
            with torch.no_grad():
                results[-1] += (model(z), model.discriminate(images))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
    for (name, mine), (same, theirs) in zip(fused.named_parameters(), stock.named_parameters(), strict=True):
        assert name == same
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-8, atol=1e-12)
    for mine, theirs in zip(fused.buffers(), stock.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_the_generator_runs_the_fused_op():
    model = models.create("dcgan", image_shape=(3, 32, 32), width=16)
    h, ops = torch.randn(16, 100, 1, 1), []
    for layer in model.generator:
        if not isinstance(layer, nn.Identity):
            ops.append(pyaegpu.explain(layer, h).op)
        h = layer(h)
    assert ops == ["conv_transpose2d_norm_act"] * 3 + ["conv_transpose2d"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_shape": (3, 64)}, r"image_shape is \(3, 64\)"),
        ({"image_shape": (3, 64, 32)}, "square"),
        ({"image_shape": (3, 48, 48)}, "8, 16, 32"),
        ({"image_shape": (3, 4, 4)}, "8, 16, 32"),
        ({"image_shape": (0, 8, 8)}, r"image_shape\[0\] is 0"),
        ({"width": 0}, "width is 0"),
        ({"latent": 0}, "latent is 0"),
    ],
)
def test_bad_sizes(wrong, message):
    with pytest.raises(ValueError, match=message):
        models.create("dcgan", **(SMALL | wrong))
