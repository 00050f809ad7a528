"""The launches of the matrix products of transposed convolutions that are compiled ahead of time."""

from typing import Any

import torch
from aot_calls import DTYPES, Calls, meta
from pyaegpu.kernels import conv_transpose_matmul, conv_transpose_moments, conv_transpose_phases

NONE, RELU, LEAKY_RELU, TANH, SIGMOID = range(5)
BATCH = 128

# Their operands go to shared memory; the copy of a weight transposes it; moments are few.
PRODUCTS = {"phases_kernel", "matmul_kernel"}
NARROW = PRODUCTS | {"pack_kernel", "merge_kernel"}

# Input channels, outputs, input size; kernel, stride, padding, output padding. DCGAN's first layer goes by a product.
DCGAN = (4, 2, 1, 0)
PHASES = {
    "dcgan 2": (512, 256, 4, *DCGAN),
    "dcgan 3": (256, 128, 8, *DCGAN),
    "dcgan 4": (128, 64, 16, *DCGAN),
    "upsample": (256, 256, 32, *DCGAN),
    "mnist": (64, 32, 7, 3, 2, 1, 1),
    "unet 3x3": (64, 32, 64, 3, 2, 1, 1),
    "unaligned": (100, 64, 16, *DCGAN),
}
MATMULS = {
    "dcgan 1": (100, 512, 1, 4, 1, 0, 0),
    "unet 1024": (1024, 512, 28, 2, 2, 0, 0),
    "unet 128": (128, 64, 112, 2, 2, 0, 0),
    "unet 32": (32, 16, 224, 2, 2, 0, 0),
}
# Of the shapes, all of which bfloat16 has, those of the other dtypes. No product is made for float64.
CHOSEN = {
    "f32": {"dcgan 2", "unaligned", "dcgan 4", "dcgan 1", "unet 128", "unet 3x3 contiguous", "unet 128 contiguous"},
    "f16": {"dcgan 3", "unet 1024"},
    "f64": set(),
}
# Those that are compiled with the moments of the result as well.
WITH_MOMENTS = {
    "f32": {"dcgan 4", "unet 128 contiguous"},
    "f16": {"dcgan 3"},
    "bf16": {"dcgan 1", "dcgan 2", "dcgan 4", "upsample", "unaligned", "unet 3x3 contiguous", "unet 128", "unet 32"},
    "f64": set(),
}
MANY_PARTS = 50_000


def call(launcher: Any, numbers: tuple[int, ...], dtype: torch.dtype, channels_last: bool, moments: bool) -> Any:
    channels, outputs, size, kernel, *rest = numbers
    order = torch.channels_last if channels_last else torch.contiguous_format
    x = meta((BATCH, channels, size, size), dtype).contiguous(memory_format=order)
    weight = meta((channels, outputs, kernel, kernel), dtype).contiguous(memory_format=order)
    pairs = [(n, n) for n in rest]
    activation = NONE if moments else RELU
    return lambda: launcher(x, weight, meta((outputs,), dtype), *pairs, activation, 0.0, True, channels_last, moments)


def calls(name: str) -> Calls:
    dtype = DTYPES[name]
    if name == "f32":
        parts = conv_transpose_moments.new_parts(meta((1,), dtype), MANY_PARTS, 64)
        yield "many parts", lambda: conv_transpose_moments.fewer(parts)
    launchers = (
        (conv_transpose_phases.phases, PHASES, ("dcgan 4", "unet 3x3", "unaligned")),
        (conv_transpose_matmul.matmul, MATMULS, MATMULS),
    )
    for launcher, shapes, contiguous in launchers:
        found = [(label, numbers, True) for label, numbers in shapes.items()]
        found += [(f"{label} contiguous", shapes[label], False) for label in contiguous]
        for label, numbers, channels_last in found:
            if label in CHOSEN.get(name, {label}):
                yield label, call(launcher, numbers, dtype, channels_last, False)
            if label in WITH_MOMENTS[name]:
                yield f"{label} moments", call(launcher, numbers, dtype, channels_last, True)
