"""The normalisations that are measured, alone and after the convolutions of models that people train."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from benchmarks.case import DTYPES, LAYOUTS, Case
from benchmarks.suites import conv_transpose_shapes as convolutions
from benchmarks.suites.conv_transpose_shapes import BF16, CONV_VAE, FORWARD, LAST, OUT_OF_CACHE, TRAINING, Layer, dcgan

NORM, BLOCK, DOWN_BLOCK = OPS = ("batch_norm_act", "conv_transpose2d_norm_act", "conv2d_norm_act")
LEAKY = "leaky_relu"
EVALUATION = ("statistics", "running")  # the option of a case that normalises by them


class Block(Layer):
    """A transposed convolution without bias, normalisation and activation."""

    @property
    def op(self) -> str:
        """The public function that is measured."""
        return BLOCK


class DownBlock(Layer):
    """The same after an ordinary convolution, which stays stock PyTorch's."""

    @property
    def op(self) -> str:
        """Not a public function: a convolution, then `batch_norm_act`."""
        return DOWN_BLOCK

    @property
    def weight(self) -> tuple[int, ...]:
        """Shape of the weight of `nn.Conv2d`."""
        return (self.out, self.channels, self.kernel, self.kernel)

    @property
    def out_size(self) -> tuple[int, ...]:
        """Height and width of the output."""
        return tuple((size + 2 * self.padding - self.kernel) // self.stride + 1 for size in self.size)

    @property
    def products(self) -> int:
        """Products per sample."""
        return math.prod(self.out_size) * math.prod(self.weight)


def block(layer: Layer, activation: str = "relu") -> Block:
    """That layer with a normalisation before its activation."""
    return Block(**{**asdict(layer), "activation": activation})


def dcgan_blocks() -> tuple[Block, ...]:
    """DCGAN's generator for 64x64 images without its last layer, which has no normalisation."""
    return tuple(block(layer) for layer in dcgan(64)[:-1])


def dcgan_down_blocks() -> tuple[DownBlock, ...]:
    """DCGAN's discriminator without its first and last layer, which have no normalisation."""
    sizes = ((2, 64, 32), (3, 128, 16), (4, 256, 8))
    return tuple(
        DownBlock(f"dcgan64_d{number}", channels, (size, size), 2 * channels, 4, 2, 1, activation=LEAKY)
        for number, channels, size in sizes
    )


CONV_VAE_BLOCKS = tuple(block(layer) for layer in CONV_VAE[:-1])
G1, G2, G3, G4 = dcgan_blocks()
# Channels and pixels of what is normalised in DCGAN, generator and discriminator.
MAPS = {"g2": (256, 8, 8), "g3": (128, 16, 16), "g4": (64, 32, 32)}
DOWN_MAPS = {"d2": (128, 16, 16), "d3": (256, 8, 8), "d4": (512, 4, 4)}
LARGE = ((512, 64, 32, 32), (256, 128, 64, 64), (128, 64, 256, 256))  # 67 MB, 268 MB and 1.07 GB of bfloat16


def norm_case(shape: tuple[int, ...], activation: str, dtype: str = "float32", **changes: Any) -> Case:
    """A normalisation of a tensor of that shape; `changes` are other fields of the case."""
    large = 2 * DTYPES[dtype].itemsize * math.prod(shape) > OUT_OF_CACHE
    given: dict[str, Any] = {"out_of_cache": large, **changes}
    return Case(NORM, shape, dtype, options=(("activation", activation),), **given)


def block_case(layer: Layer, batch: int, dtype: str = "float32", *, running: bool = False, **changes: Any) -> Case:
    """A block in training, or by running statistics, in evaluation."""
    made = convolutions.make_case(layer, batch, dtype, **changes)
    return Case(**{**vars(made), "options": (*made.options, EVALUATION)}) if running else made


def trains(case: Case) -> bool:
    """Whether the case normalises by the statistics of its batch."""
    return EVALUATION not in case.options


def layer_of(case: Case) -> Layer:
    """The layer that the case of a block was made of."""
    options: dict[str, Any] = dict(option for option in case.options if option != EVALUATION)
    return {BLOCK: Block, DOWN_BLOCK: DownBlock}[case.op](channels=case.shape[1], size=case.shape[2:], **options)


def result_shape(case: Case) -> tuple[int, ...]:
    """Shape of what is normalised."""
    if case.op == NORM:
        return case.shape
    layer = layer_of(case)
    return (case.shape[0], layer.out, *layer.out_size)


def cpu_cases() -> list[Case]:
    """float32, with the backward and without it, contiguous and channels_last."""
    maps = [((128, 64, 32, 32), "relu"), ((128, 128, 16, 16), "relu"), ((128, 512, 4, 4), "relu")]
    maps += [((128, 64, 16, 16), LEAKY), ((64, 3, 64, 64), "tanh")]
    blocks = [(G4, 16), (G3, 16), (CONV_VAE_BLOCKS[-1], 32), (dcgan_down_blocks()[0], 16)]
    cases = [
        make(*each, layout=layout, mode=mode)
        for make, every in ((norm_case, maps), (block_case, blocks))
        for each in every
        for layout in LAYOUTS
        for mode in (TRAINING, FORWARD)
    ]
    cases += [norm_case((4096, 1024), "relu", mode=mode) for mode in (TRAINING, FORWARD)]
    every = [(each, layout) for each in blocks[:2] for layout in LAYOUTS]
    return cases + [block_case(*each, running=True, layout=layout, mode=FORWARD) for each, layout in every]


def cuda_cases() -> list[Case]:
    """bfloat16 channels_last of every shape, then one axis at a time."""
    shapes = [(shape, "relu") for shape in LARGE]
    shapes += [((batch, *each), "relu") for each in MAPS.values() for batch in (1024, 128)]
    shapes += [((batch, *each), LEAKY) for each in DOWN_MAPS.values() for batch in (1024, 128)]
    dense = [(layer, batch) for layer in (G4, G3, G2, G1) for batch in (1024, 128)]
    every = dense + [(layer, 256) for layer in CONV_VAE_BLOCKS]
    every += [(layer, batch) for layer in dcgan_down_blocks() for batch in (1024, 128)]
    bf16: dict[str, Any] = {"dtype": BF16, "layout": LAST}
    cases = [norm_case(*each, mode=mode, **bf16) for mode in (TRAINING, FORWARD) for each in shapes]
    cases += [block_case(*each, mode=mode, **bf16) for mode in (TRAINING, FORWARD) for each in every]
    cases += [block_case(*each, running=True, mode=FORWARD, **bf16) for each in dense[:4]]
    for each in shapes[:2]:
        cases += [norm_case(*each, BF16), norm_case(*each, layout=LAST)]
    for each in dense[:6:2]:
        cases += [block_case(*each, BF16), block_case(*each, layout=LAST)]
    cases += [norm_case(*shapes[0], BF16, mode=FORWARD), block_case(*dense[0], BF16, mode=FORWARD)]
    cases += [norm_case((128, *MAPS[name]), "relu", graph=True, **bf16) for name in ("g2", "g4")]
    return cases + [block_case(layer, 128, graph=True, **bf16) for layer in (G1, G4)]


def large_case() -> Case:
    """A normalisation whose tensors no cache holds."""
    return norm_case(LARGE[1], "relu", BF16, layout=LAST)


def small_cases(dtype: str = "float32") -> list[Case]:
    """Every op and activation on a few odd sizes."""
    shapes = [((3, 5, 7, 3), "relu"), ((5, 3), "none"), ((2, 9, 11), LEAKY), ((3, 1, 5, 5), "sigmoid")]
    shapes += [((2, 4, 3, 2, 5), "tanh")]
    up = block(Layer("small_up", 5, (3, 4), 6, 3, 2, 1, 1))
    down = DownBlock("small_down", 3, (6, 9), 5, 4, 2, 1, activation=LEAKY)
    cases = [norm_case(*each, dtype) for each in (*shapes, ((4099, 3), "relu"))]
    cases += [block_case(layer, 3, dtype, layout=layout) for layer in (up, down) for layout in LAYOUTS]
    forward = [norm_case(*shapes[0], dtype, layout=LAST, mode=FORWARD), block_case(up, 3, dtype, mode=FORWARD)]
    return [*cases, *forward, block_case(up, 3, dtype, running=True, mode=FORWARD)]
