"""Pictures of a trained model, as PNG bytes."""

import io
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pyaegpu.models import BaseVAE
from pyaegpu.training.images import Images
from pyaegpu.training.metrics import EpochMetrics

_CELL_PIXELS = 56
_GAP_PIXELS = 4
_GAP_GREY = 0.25
_DECODED_AT_ONCE = 256


def grid_png(images: Tensor, columns: int) -> bytes:
    """[N, C, H, W] in [0, 1] (C 1 or 3) as rows of `columns` cells; small images are enlarged."""
    from PIL import Image

    scale = max(1, _CELL_PIXELS // images.shape[-1])
    cells = images.detach().cpu().repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    cells = F.pad(cells, (0, _GAP_PIXELS, 0, _GAP_PIXELS), value=_GAP_GREY)
    blank = -len(cells) % columns
    cells = F.pad(cells, (0, 0, 0, 0, 0, 0, 0, blank), value=_GAP_GREY)
    rows = cells.unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    rows = F.pad(rows, (0, 0, _GAP_PIXELS, 0, _GAP_PIXELS, 0), value=_GAP_GREY)
    pixels = rows.clamp(0, 1).mul(255).round().to(torch.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(2).numpy()).save(file, format="png")
    return file.getvalue()


@torch.no_grad()
def reconstruction_png(model: BaseVAE, images: Images, columns: int = 10, rows: int = 3) -> bytes:
    """The first images of [N, C, H, W], each above its reconstruction from the mean of q(z|x)."""
    originals = next(images.batches(columns * rows))
    mu, _ = model.encode(originals)
    recon = model.generate(mu).view_as(originals)
    pairs = zip(originals.split(columns), recon.split(columns), strict=True)
    filled = [_fill(row, columns) for pair in pairs for row in pair]
    return grid_png(torch.cat(filled), columns)


def sample_png(model: BaseVAE, image_shape: Sequence[int], seed: int, columns: int = 10, rows: int = 8) -> bytes:
    """A grid of what `draw` gives."""
    return grid_png(draw(model, image_shape, columns * rows, seed), columns)


@torch.no_grad()
def draw(model: BaseVAE, image_shape: Sequence[int], count: int, seed: int, temperature: float = 1.0) -> Tensor:
    """Decoded z ~ temperature * N(0, I), drawn on the CPU so that every device gets the same z: [N, C, H, W] there."""
    z = torch.randn(count, model.latent, generator=torch.Generator().manual_seed(seed)).mul_(temperature)
    device = next(model.parameters()).device
    images = [model.generate(part.to(device)).cpu() for part in z.split(_DECODED_AT_ONCE)]
    return torch.cat(images).reshape(count, *image_shape)


def loss_curve_png(history: Sequence[EpochMetrics]) -> bytes:
    """Negative ELBO of training and test samples, and its parts on the test samples, over the epochs."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [row.epoch for row in history]
    marker = "o" if len(history) < 20 else ""
    figure = Figure(figsize=(7, 4.5), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.plot(epochs, [row.train.negative for row in history], marker=marker, label="train, negative ELBO")
    axes.plot(epochs, [row.test.negative for row in history], marker=marker, label="test, negative ELBO")
    axes.plot(epochs, [row.test.reconstruction for row in history], "--", label="test, reconstruction")
    axes.plot(epochs, [row.test.kl for row in history], ":", label="test, KL")
    axes.set(xlabel="epoch", ylabel="nats per sample", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _fill(row: Tensor, columns: int) -> Tensor:
    """A short row gets empty cells, so that a reconstruction stays below its original."""
    return F.pad(row, (0, 0, 0, 0, 0, 0, 0, columns - len(row)), value=_GAP_GREY)
