"""Variational autoencoder of strided and transposed convolutions."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from pyaegpu.models.base import BaseVAE, check_sizes
from pyaegpu.nn import ConvTranspose2d

_CONV: dict[str, Any] = {"kernel_size": 3, "stride": 2, "padding": 1}


class ConvVAE(BaseVAE):
    """Convolutional VAE of images [B, *image_shape], image_shape = (C, H, W); the reconstruction has their shape.

    Encoder: for each of `channels` a 3x3 convolution of stride 2 and padding 1 with ReLU, which halves height and width
    (rounding up), then one linear layer to (mu, logvar) of width latent. Decoder: a linear layer with ReLU, then the
    same sizes in reverse through 3x3 transposed convolutions of stride 2, ReLU between them. `output` and
    `fused` are those of `BaseVAE`. Bad sizes or output: ValueError.
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        channels: Sequence[int] = (32, 64),
        latent: int = 20,
        output: str = "logits",
        fused: bool = True,
    ) -> None:
        super().__init__(latent, output, fused)
        if len(image_shape) != 3:
            raise ValueError(f"image_shape is {tuple(image_shape)}; it must be (channels, height, width)")
        if not channels:
            raise ValueError("channels is empty; it must hold one number for each convolution")
        check_sizes(**{f"image_shape[{i}]": size for i, size in enumerate(image_shape)})
        check_sizes(**{f"channels[{i}]": width for i, width in enumerate(channels)})
        self.image_shape, self.channels = tuple(image_shape), tuple(channels)
        widths = (self.image_shape[0], *self.channels)
        sizes = _halvings((self.image_shape[1], self.image_shape[2]), len(self.channels))
        code = (widths[-1], *sizes[-1])
        features = code[0] * code[1] * code[2]
        self.encoder = nn.Sequential(*_down(widths), nn.Flatten(), nn.Linear(features, 2 * latent))
        self.decoder = nn.Sequential(
            nn.Linear(latent, features), nn.ReLU(), nn.Unflatten(1, code), *_up(widths[::-1], sizes[::-1], fused)
        )


def _halvings(size: tuple[int, int], levels: int) -> list[tuple[int, int]]:
    """(height, width) before the first convolution and after each."""
    sizes = [size]
    for _ in range(levels):
        height, width = sizes[-1]
        sizes.append((-(-height // 2), -(-width // 2)))
    return sizes


def _down(widths: Sequence[int]) -> list[nn.Module]:
    return [layer for a, b in pairwise(widths) for layer in (nn.Conv2d(a, b, **_CONV), nn.ReLU())]


def _up(widths: Sequence[int], sizes: Sequence[tuple[int, int]], fused: bool) -> list[nn.Module]:
    """n rows become 2n - 1, and one more by output padding where the image had an even number of them."""
    layers: list[nn.Module] = []
    for (a, b), (height, width) in zip(pairwise(widths), sizes[1:], strict=True):
        missing = ((height + 1) % 2, (width + 1) % 2)
        layers += _layer(a, b, missing, len(layers) < 2 * (len(widths) - 2), fused)
    return layers


def _layer(a: int, b: int, missing: tuple[int, int], activated: bool, fused: bool) -> list[nn.Module]:
    """A transposed convolution and its ReLU; fused, an identity keeps the names of the parameters."""
    if fused:
        layer = ConvTranspose2d(a, b, output_padding=missing, activation="relu" if activated else None, **_CONV)
        return [layer, nn.Identity()] if activated else [layer]
    stock = nn.ConvTranspose2d(a, b, output_padding=missing, **_CONV)
    return [stock, nn.ReLU()] if activated else [stock]
