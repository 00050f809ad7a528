"""Deep convolutional GAN."""

from itertools import pairwise
from typing import Any, cast

from torch import Tensor, nn

from pyaegpu.models.base import check_sizes
from pyaegpu.models.layers import activation_layer, conv_norm, conv_transpose_act, conv_transpose_norm

_HALVE: dict[str, Any] = {"kernel_size": 4, "stride": 2, "padding": 1, "bias": False}
_WHOLE: dict[str, Any] = {"kernel_size": 4, "bias": False}
_DEVIATION = 0.02


class DCGAN(nn.Module):
    """DCGAN (Radford et al. 2016, arXiv 1511.06434): a `generator` and a `discriminator` of square images with values
    in [-1, 1], image_shape = (C, S, S), S = 8, 16, 32, ....

    Generator: z [B, latent] or [B, latent, 1, 1] through transposed convolutions of 4x4 taps, of which the first makes
    4x4 pixels and each other doubles them, with batch normalisation and ReLU between them and tanh at the end; `width`
    channels before the last, twice as many for each layer before that. Discriminator: the mirror image of strided
    convolutions, with LeakyReLU of slope 0.2 and no normalisation in the first layer; it returns one logit for each
    image, [B]. Weights are drawn from N(0, 0.02), those of the normalisation from N(1, 0.02). `fused` says which ops
    compute; the parameters are the same. Bad sizes: ValueError.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (3, 64, 64),
        width: int = 64,
        latent: int = 100,
        fused: bool = True,
    ) -> None:
        super().__init__()
        if len(image_shape) != 3:
            raise ValueError(f"image_shape is {tuple(image_shape)}; it must be (channels, size, size)")
        channels, *size = image_shape
        if size[0] != size[1] or size[0] < 8 or size[0] & (size[0] - 1):
            raise ValueError(f"image_shape is {tuple(image_shape)}; images must be square, 8, 16, 32, ... pixels wide")
        check_sizes(**{"image_shape[0]": channels, "width": width, "latent": latent})
        self.image_shape, self.latent, self.fused = tuple(image_shape), latent, fused
        widths = [width << i for i in reversed(range(size[0].bit_length() - 3))]
        self.generator = _generator(latent, widths, channels, fused)
        self.discriminator = _discriminator(channels, widths[::-1], fused)
        self.apply(_initialise)

    def generate(self, z: Tensor) -> Tensor:
        """[B, latent] or [B, latent, 1, 1] -> images [B, *image_shape]."""
        return cast(Tensor, self.generator(z.reshape(len(z), self.latent, 1, 1)))

    def discriminate(self, x: Tensor) -> Tensor:
        """Images [B, *image_shape] -> the logit of being real of each, [B]."""
        return cast(Tensor, self.discriminator(x)).flatten()

    def forward(self, z: Tensor) -> Tensor:
        """As `generate`."""
        return self.generate(z)


def _generator(latent: int, widths: list[int], channels: int, fused: bool) -> nn.Sequential:
    layers = [conv_transpose_norm(latent, widths[0], "relu", fused, **_WHOLE)]
    layers += [conv_transpose_norm(a, b, "relu", fused, **_HALVE) for a, b in pairwise(widths)]
    return nn.Sequential(*layers, *conv_transpose_act(widths[-1], channels, "tanh", fused, **_HALVE))


def _discriminator(channels: int, widths: list[int], fused: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], **_HALVE), activation_layer("leaky_relu")]
    layers += [conv_norm(a, b, "leaky_relu", fused, **_HALVE) for a, b in pairwise(widths)]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, **_WHOLE))


def _initialise(layer: nn.Module) -> None:
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(layer.weight, 0.0, _DEVIATION)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, _DEVIATION)
        nn.init.zeros_(layer.bias)
