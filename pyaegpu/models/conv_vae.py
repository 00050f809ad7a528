"""Variational autoencoder of strided and transposed convolutions."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from pyaegpu.models.base import BaseVAE, check_sizes
from pyaegpu.models.layers import conv_norm, conv_transpose_act, conv_transpose_norm

_CONV: dict[str, Any] = {"kernel_size": 3, "stride": 2, "padding": 1}


class ConvVAE(BaseVAE):
    """Convolutional VAE of images [B, *image_shape], image_shape = (C, H, W); the reconstruction has their shape.

    Encoder: for each of `channels` a 3x3 convolution of stride 2 and padding 1 with ReLU, which halves height and width
    (rounding up), then one linear layer to (mu, logvar) of width latent. Decoder: a linear layer with ReLU, then the
    same sizes in reverse through 3x3 transposed convolutions of stride 2, ReLU between them. `batch_norm` puts batch
    normalisation between each convolution and its ReLU, in place of the bias. `output` and `fused` are those of
    `BaseVAE`. Bad sizes or output: ValueError.
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        channels: Sequence[int] = (32, 64),
        latent: int = 20,
        output: str = "logits",
        fused: bool = True,
        batch_norm: bool = False,
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
        self.encoder = nn.Sequential(*_down(widths, batch_norm, fused), nn.Flatten(), nn.Linear(features, 2 * latent))
        self.decoder = nn.Sequential(
            nn.Linear(latent, features),
            nn.ReLU(),
            nn.Unflatten(1, code),
            *_up(widths[::-1], sizes[::-1], batch_norm, fused),
        )


def _halvings(size: tuple[int, int], levels: int) -> list[tuple[int, int]]:
    """(height, width) before the first convolution and after each."""
    sizes = [size]
    for _ in range(levels):
        height, width = sizes[-1]
        sizes.append((-(-height // 2), -(-width // 2)))
    return sizes


def _down(widths: Sequence[int], batch_norm: bool, fused: bool) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        if batch_norm:
            layers.append(conv_norm(a, b, "relu", fused, bias=False, **_CONV))
        else:
            layers += [nn.Conv2d(a, b, **_CONV), nn.ReLU()]
    return layers


def _up(widths: Sequence[int], sizes: Sequence[tuple[int, int]], batch_norm: bool, fused: bool) -> list[nn.Module]:
    """n rows become 2n - 1, and one more by output padding where the image had an even number of them."""
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(pairwise(widths)):
        numbers = {**_CONV, "output_padding": tuple((size + 1) % 2 for size in sizes[i + 1])}
        last = i + 2 == len(widths)
        if batch_norm and not last:
            layers.append(conv_transpose_norm(a, b, "relu", fused, bias=False, **numbers))
        else:
            layers += conv_transpose_act(a, b, None if last else "relu", fused, **numbers)
    return layers
