"""Pictures: what is where."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pyaegpu import models
from pyaegpu.training import Elbo, EpochMetrics, Images
from pyaegpu.training.pictures import draw, grid_png, loss_curve_png, reconstruction_png, sample_png

CELL, GAP, GREY = 56, 4, 64


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def centres(picture, columns, rows):
    at = [GAP + CELL // 2 + i * (CELL + GAP) for i in range(max(columns, rows))]
    return [[picture[y, x].tolist() for x in at[:columns]] for y in at[:rows]]


def test_grid_is_row_by_row_with_gaps_and_empty_cells():
    values = torch.tensor([0.0, 0.2, 0.4, 0.6, 1.0])
    picture = pixels(grid_png(values.view(5, 1, 1, 1).expand(5, 1, 8, 8), columns=3))
    assert picture.shape == (2 * (CELL + GAP) + GAP, 3 * (CELL + GAP) + GAP)
    assert centres(picture, 3, 2) == [[0, 51, 102], [153, 255, GREY]]
    assert (picture[:GAP] == GREY).all()
    assert (picture[:, -GAP:] == GREY).all()


def test_grid_keeps_the_pixels_of_an_image():
    image = torch.arange(64).view(1, 1, 8, 8) / 255
    picture = pixels(grid_png(image, columns=1))[GAP:-GAP, GAP:-GAP]
    assert (picture[3::7, 3::7] == np.arange(64).reshape(8, 8)).all()


def test_grid_of_colours():
    colour = torch.tensor([1.0, 0.4, 0.2]).view(1, 3, 1, 1).expand(2, 3, 8, 8)
    assert centres(pixels(grid_png(colour, columns=2)), 2, 1) == [[[255, 102, 51]] * 2]


class Inverted(torch.nn.Module):
    """Reconstructs 1 - x."""

    def encode(self, x):
        return x.flatten(1), None

    def generate(self, z):
        return 1 - z


@pytest.mark.parametrize(("count", "last"), [(4, 2), (3, 1), (9, 2)])
def test_reconstructions_are_below_their_originals(count, last):
    values = torch.arange(1, count + 1) / 15
    images = values.view(-1, 1, 1, 1).expand(count, 1, 8, 8)
    rows = centres(pixels(reconstruction_png(Inverted(), Images(images), columns=2, rows=2)), 2, 4)
    grey = [round(float(v) * 255) for v in values]
    inverse = [round((1 - float(v)) * 255) for v in values]
    assert rows[:2] == [grey[:2], inverse[:2]]
    assert rows[2][:last] == grey[2:4]
    assert rows[3][:last] == inverse[2:4]
    assert rows[2][last:] == [GREY] * (2 - last)


def test_samples_follow_the_seed():
    model = models.create("vae", input_dim=64, hidden=8, latent=3)
    first, again, other = (sample_png(model, (1, 8, 8), seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert pixels(first).shape == (8 * (CELL + GAP) + GAP, 10 * (CELL + GAP) + GAP)


def test_drawn_in_parts_and_scaled_by_the_temperature():
    model = models.create("conv_vae", image_shape=(3, 5, 4), channels=(2,), latent=3)
    images = draw(model, (3, 5, 4), count=600, seed=2)
    assert images.shape == (600, 3, 5, 4)
    z = torch.randn(600, 3, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(images, model.generate(z).detach())
    torch.testing.assert_close(draw(model, (3, 5, 4), 600, 2, temperature=0.5), model.generate(z / 2).detach())
    assert draw(model, (3, 5, 4), 7, 2, temperature=0.0).std(0).max() < 1e-6


@pytest.mark.parametrize("epochs", [1, 30])
def test_loss_curve(epochs):
    history = [EpochMetrics(i + 1, Elbo(5 / (i + 1), 1), Elbo(6 / (i + 1), 1), 1, 1) for i in range(epochs)]
    picture = pixels(loss_curve_png(history))
    assert picture.shape[0] > 300
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 4
