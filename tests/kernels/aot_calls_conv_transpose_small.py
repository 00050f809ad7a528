"""The launches of transposed convolution to few output channels and of the pointwise pass that are compiled ahead."""

import itertools
from typing import NamedTuple

import torch
from aot_calls import DTYPES, Calls, meta
from pyaegpu.kernels import bias_act, conv_transpose_small
from torch import Tensor

# Of images that are contiguous or at an odd distance, and of few output channels, elements are read one at a time.
NARROW = ("small_fwd_kernel", "small_bwd_kernel", "small_input_kernel", "column_sums_kernel")
NONE, RELU, LEAKY_RELU, TANH, SIGMOID = range(5)
IMAGES = (128, 64, 32, 32)


class Layer(NamedTuple):
    input: tuple[int, int, int, int]
    outs: int
    kernel: int
    stride: int
    padding: int
    output_padding: int
    activation: int
    channels_last: bool = False


LAYERS = {
    "dcgan": Layer((128, 64, 32, 32), 3, 4, 2, 1, 0, TANH),
    "dcgan ngf 128": Layer((128, 128, 32, 32), 3, 4, 2, 1, 0, TANH),
    "dcgan channels_last": Layer((128, 64, 32, 32), 3, 4, 2, 1, 0, TANH, True),
    "mnist": Layer((128, 32, 14, 14), 1, 3, 2, 1, 1, SIGMOID),
    "conv-vae": Layer((256, 32, 32, 32), 3, 3, 2, 1, 1, SIGMOID),
    # Kernels that no halo tile takes, and more rows than one block.
    "kernel 9": Layer((64, 64, 32, 32), 3, 9, 1, 4, 0, NONE),
}
# Of the layers, all of which bfloat16 and float32 have, those of the other dtypes and of TF32.
CHOSEN = {
    "f16": {"dcgan channels_last"},
    "f64": {"dcgan channels_last", "mnist"},
    "tf32": {"dcgan", "dcgan channels_last", "mnist"},
}
ACTIVATIONS = {"relu": RELU, "tanh": TANH, "sigmoid": SIGMOID, "leaky_relu": LEAKY_RELU}
COMMON = {name: ACTIVATIONS[name] for name in ("relu", "tanh")}


def in_order(t: Tensor, channels_last: bool) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last) if channels_last else t


def small_calls(label: str, layer: Layer, dtype: torch.dtype, tf32: bool) -> Calls:
    x = in_order(meta(layer.input, dtype), layer.channels_last)
    w = in_order(meta((layer.input[1], layer.outs, layer.kernel, layer.kernel), dtype), layer.channels_last)
    stride, padding = [layer.stride] * 2, [layer.padding] * 2
    numbers = (layer.activation, 0.0, tf32, layer.channels_last)
    size = (
        (side - 1) * layer.stride - 2 * layer.padding + layer.kernel + layer.output_padding for side in layer.input[2:]
    )
    out = in_order(meta((layer.input[0], layer.outs, *size), dtype), layer.channels_last)

    def forward() -> Tensor:
        extra = [layer.output_padding] * 2
        return conv_transpose_small.conv_transpose2d_small_fwd(
            x, w, meta((layer.outs,), dtype), stride, padding, extra, *numbers
        )

    def backward(*needed: bool) -> object:
        saved = out if layer.activation else None
        return conv_transpose_small.conv_transpose2d_small_bwd(out, x, w, saved, stride, padding, *numbers, *needed)

    yield label, forward
    yield f"{label} backward", lambda: backward(True, True, True)
    if label == "dcgan":
        yield f"{label} input backward", lambda: backward(True, False, False)
        yield f"{label} bias backward", lambda: backward(False, False, True)


def bias_act_calls(dtype: torch.dtype, activations: dict[str, int]) -> Calls:
    bias = meta(IMAGES[1:2], dtype)
    for channels_last in (False, True):
        y = in_order(meta(IMAGES, dtype), channels_last)
        for name, activation in activations.items():
            label = f"{name}{' channels_last' if channels_last else ''}"
            if dtype.itemsize == 2 and not channels_last:
                label += ", odd bias"  # of each row one element, which counts as a narrow access
            yield label, lambda y=y, a=activation: bias_act.bias_act_(y, bias, a, 0.2)
            yield f"{label} backward", lambda y=y, a=activation: bias_act.bias_act_bwd(y, y, True, a, 0.2)
    yield "relu alone", lambda: bias_act.bias_act_(meta(IMAGES, dtype), None, RELU, 0.0)
    yield "relu alone backward", lambda: bias_act.bias_act_bwd(y, y, False, RELU, 0.0)


def calls(name: str) -> Calls:
    """With TF32 only where it is float32."""
    dtype = DTYPES[name]
    plain = CHOSEN.get(name, LAYERS.keys())
    rounded = CHOSEN["tf32"] if name == "f32" else set()
    return itertools.chain(
        *(small_calls(label, layer, dtype, False) for label, layer in LAYERS.items() if label in plain),
        *(small_calls(f"{label} tf32", layer, dtype, True) for label, layer in LAYERS.items() if label in rounded),
        bias_act_calls(dtype, ACTIVATIONS if name in ("bf16", "f32") else COMMON),
    )
