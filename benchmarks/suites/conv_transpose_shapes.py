"""The transposed convolutions that are measured: layers of decoders that people train."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from benchmarks.case import DTYPES, LAYOUTS, MODES, Case

UPSAMPLE = "upsample_conv2d"
OPS = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d", UPSAMPLE)
OUT_OF_CACHE = 64 << 20  # bytes of input and output: more than the reference card's L2
FORWARD, TRAINING = MODES
BF16, LAST = "bfloat16", "channels_last"


@dataclass(frozen=True)
class Layer:
    """A layer on [N, channels, *size]; with `upsampling`, which doubles the size, the other numbers are those of the
    convolution after it."""

    layer: str
    channels: int
    size: tuple[int, ...]
    out: int
    kernel: int
    stride: int
    padding: int = 0
    output_padding: int = 0
    groups: int = 1
    activation: str = "none"
    upsampling: bool = False

    @property
    def op(self) -> str:
        """The public function that is measured."""
        return UPSAMPLE if self.upsampling else f"conv_transpose{len(self.size)}d"

    @property
    def weight(self) -> tuple[int, ...]:
        """Shape of the weight: of `nn.ConvTranspose2d`, or, after upsampling, of `nn.Conv2d`."""
        ends = (self.out, self.channels) if self.upsampling else (self.channels, self.out // self.groups)
        return (*ends, *[self.kernel] * len(self.size))

    @property
    def out_size(self) -> tuple[int, ...]:
        """Height and width of the output, or as many sizes as the input has."""
        if self.upsampling:
            return tuple(2 * size for size in self.size)
        more = self.kernel - 2 * self.padding + self.output_padding
        return tuple((size - 1) * self.stride + more for size in self.size)

    @property
    def products(self) -> int:
        """The fewest products per sample: upsampling and 3x3 taps are 4x4 taps of a transposed convolution."""
        taps = 16 if self.upsampling else self.kernel ** len(self.size)
        return math.prod(self.size) * self.channels * self.out // self.groups * taps

    @property
    def elements(self) -> tuple[int, int]:
        """Elements per sample of input and output."""
        return self.channels * math.prod(self.size), self.out * math.prod(self.out_size)


_IN_SHAPE_AND_OP = ("channels", "size", "upsampling")


def make_case(layer: Layer, batch: int, dtype: str = "float32", **changes: Any) -> Case:
    """One row of the suite; `changes` are other fields of the case. Options tell the layer, but for defaults."""
    options = [
        (field.name, getattr(layer, field.name))
        for field in fields(layer)
        if field.name not in _IN_SHAPE_AND_OP and getattr(layer, field.name) != field.default
    ]
    large = DTYPES[dtype].itemsize * batch * sum(layer.elements) > OUT_OF_CACHE
    given: dict[str, Any] = {"out_of_cache": large, **changes}
    return Case(layer.op, (batch, layer.channels, *layer.size), dtype, options=tuple(options), **given)


def layer_of(case: Case) -> Layer:
    """The layer that a case was made of."""
    options: dict[str, Any] = dict(case.options)
    return Layer(channels=case.shape[1], size=case.shape[2:], upsampling=case.op == UPSAMPLE, **options)


def dcgan(width: int) -> tuple[Layer, ...]:
    """The generator of DCGAN for 64x64 images (Radford et al. 2016), the last layer of `width` channels."""

    def layer(number: int, channels: int, size: int, out: int, activation: str = "relu") -> Layer:
        stride, padding = (1, 0) if size == 1 else (2, 1)
        name = f"dcgan{width}_g{number}"
        return Layer(name, channels, (size, size), out, 4, stride, padding, activation=activation)

    return (
        layer(1, 100, 1, 8 * width),
        layer(2, 8 * width, 4, 4 * width),
        layer(3, 4 * width, 8, 2 * width),
        layer(4, 2 * width, 16, width),
        layer(5, width, 32, 3, "tanh"),
    )


def doubling(name: str, size: int, channels: tuple[int, ...], last: str = "relu") -> tuple[Layer, ...]:
    """Layers of 3x3 taps that double the size, from channel to channel; `last` is the last one's activation."""

    def layer(i: int) -> Layer:
        plane, activation = (size << i, size << i), "relu" if i + 2 < len(channels) else last
        return Layer(f"{name}_{i + 1}", channels[i], plane, channels[i + 1], 3, 2, 1, 1, activation=activation)

    return tuple(layer(i) for i in range(len(channels) - 1))


def k4(name: str, channels: int, size: tuple[int, ...], out: int, activation: str, groups: int = 1) -> Layer:
    """4 taps a dimension, stride 2, padding 1."""
    return Layer(name, channels, size, out, 4, 2, 1, groups=groups, activation=activation)


def unet(channels: int, size: int) -> Layer:
    """An up-convolution of U-Net (Ronneberger et al. 2015)."""
    return Layer(f"unet_{channels}", channels, (size, size), channels // 2, 2, 2)


def upsampling(channels: int, size: int) -> Layer:
    """Nearest upsampling and a 3x3 convolution, as in the decoder of an image VAE."""
    return Layer(f"upsample_{channels}", channels, (size, size), channels, 3, 1, 1, activation="relu", upsampling=True)


MNIST = doubling("mnist", 7, (64, 32, 1), "sigmoid")
CONV_VAE = doubling("conv_vae", 4, (256, 128, 64, 32, 3), "sigmoid")
DECODER = doubling("decoder", 4, (512, 256, 128, 64, 32))


def cpu_cases() -> list[Case]:
    """float32, forward and with the backward, contiguous and channels_last; one and three dimensions contiguous."""
    _, g2, _, g4, g5 = dcgan(64)
    planes = [*((layer, 128) for layer in MNIST), (g5, 32), (g4, 16), (g2, 16)]
    planes += [(layer, 32) for layer in CONV_VAE[2:]]
    planes += [(k4(f"few_{out}", 64, (32, 32), out, "sigmoid"), 32) for out in (2, 4)]
    planes += [(unet(128, 64), 2), (DECODER[0], 16), (upsampling(128, 32), 2)]
    planes += [(k4("grouped", 64, (16, 16), 64, "relu", groups=4), 16)]
    others = [(k4("audio", 64, (1024,), 32, "relu"), 16), (k4("volume", 32, (8, 8, 8), 16, "relu"), 4)]
    rows = [(*each, layout) for each in planes for layout in LAYOUTS] + [(*each, "contiguous") for each in others]
    return [
        make_case(layer, batch, layout=layout, mode=mode)
        for layer, batch, layout in rows
        for mode in (TRAINING, FORWARD)
    ]


def cuda_cases() -> list[Case]:
    """bfloat16 channels_last of every layer, then one axis at a time: a full product would not fit a session.

    float32 is TF32 there, as PyTorch convolves by default.
    """
    narrow, batches = dcgan(64), (128, 1024)
    dense = [(narrow[i], batch) for i in (4, 3, 0, 1, 2) for batch in batches]
    small = [(narrow[0], 128), (narrow[4], 128), *((layer, 128) for layer in MNIST)]
    others = [*((layer, 256) for layer in CONV_VAE), *((layer, 144) for layer in DECODER)]
    others += [(unet(1024, 32), 8), (unet(128, 256), 8), (upsampling(256, 32), 16), (upsampling(128, 64), 16)]
    every = dense + small[2:] + others + [(layer, batch) for layer in dcgan(128) for batch in batches]
    some = [(layer, 1024) for layer in narrow] + small[1:]
    some += [(CONV_VAE[3], 256), (DECODER[0], 144), (DECODER[3], 144), *others[-4:-2], (upsampling(128, 64), 16)]
    cases = [make_case(*each, BF16, layout=LAST, mode=mode) for mode in (TRAINING, FORWARD) for each in every]
    for mode, each_of in ((TRAINING, some), (FORWARD, some[1::3])):
        cases += [make_case(*each, BF16, mode=mode) for each in each_of]
        cases += [make_case(*each, layout=LAST, mode=mode) for each in each_of]
    return cases + [make_case(*each, BF16, layout=LAST, graph=True) for each in small]


def large_case(number: int) -> Case:
    """A layer of DCGAN's generator, of the size that its training step has on a large card."""
    return make_case(dcgan(64)[number - 1], 1024, BF16, layout=LAST)


def small_cases(dtype: str = "float32") -> list[Case]:
    """Every op and activation on a few odd sizes."""
    planes = (
        k4("small_few", 3, (5, 4), 2, "tanh"),
        Layer("small_uneven", 5, (3, 7), 6, 3, 2, 1, 1, activation="relu"),
        Layer("small_unet", 6, (3, 5), 4, 2, 2),
        Layer("small_pixel", 7, (1, 1), 9, 4, 1, activation="relu"),
        k4("small_grouped", 4, (3, 4), 6, "relu", groups=2),
        Layer("small_upsample", 3, (4, 5), 5, 3, 1, 1, activation="relu", upsampling=True),
    )
    others = (k4("small_audio", 3, (11,), 4, "sigmoid"), k4("small_volume", 3, (3, 2, 4), 4, "relu"))
    cases = [make_case(layer, 3, dtype, mode=mode) for layer in (*planes, *others) for mode in MODES]
    return cases + [make_case(layer, 3, dtype, layout=LAST) for layer in planes]
