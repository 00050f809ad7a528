"""The launches of a transposed convolution's reconstruction loss that are compiled ahead."""

import itertools

import torch
from aot_calls import DTYPES, Calls, meta
from aot_calls_conv_transpose_small import LAYERS, NONE, SIGMOID, TANH, Layer, in_order
from pyaegpu.kernels import conv_transpose_loss as kernels
from torch import Tensor

# Of contiguous images, and of few channels, elements are read one at a time.
NARROW = ("small_loss_kernel",)
BCE, BCE_LOGITS, MSE = range(3)
LOSSES = {"bce": (SIGMOID, BCE), "bce_logits": (NONE, BCE_LOGITS), "mse": (TANH, MSE)}
# Layers and losses, of which float32 and bfloat16 have all. Nothing is launched for float16.
CHOSEN = {"dcgan": "mse", "dcgan channels_last": "mse", "mnist": "bce_logits", "conv-vae": "bce"}
FEW = {"mnist": "bce_logits"}


def small_calls(name: str, layer: Layer, loss: str, dtype: torch.dtype, tf32: bool) -> Calls:
    x = in_order(meta(layer.input, dtype), layer.channels_last)
    w = in_order(meta((layer.input[1], layer.outs, layer.kernel, layer.kernel), dtype), layer.channels_last)
    numbers = ([layer.stride] * 2, [layer.padding] * 2, [layer.output_padding] * 2)
    size = (
        (side - 1) * layer.stride - 2 * layer.padding + layer.kernel + layer.output_padding for side in layer.input[2:]
    )
    target = in_order(meta((layer.input[0], layer.outs, *size), dtype), layer.channels_last)
    activation, kind = LOSSES[loss]

    def forward(need_grad: bool) -> tuple[Tensor, Tensor]:
        bias = meta((layer.outs,), dtype)
        return kernels.conv_transpose2d_small_loss_fwd(
            x, w, bias, target, *numbers, activation, 0.0, kind, 1.0, need_grad, tf32, layer.channels_last
        )

    label = f"{name} {loss}{' tf32' if tf32 else ''}"
    yield label, lambda: forward(True)
    if name == "mnist" and dtype == torch.bfloat16:
        yield f"{label} alone", lambda: forward(False)


def pass_calls(dtype: torch.dtype) -> Calls:
    logits = meta((128, 3, 64, 64), dtype)
    for label, (activation, kind) in LOSSES.items():
        yield label, lambda a=activation, k=kind: kernels.activation_loss_fwd(logits, logits, a, 0.0, k, 1.0, True)


def calls(name: str) -> Calls:
    """With TF32 where it is float32."""
    if name == "f16":
        return iter(())
    dtype = DTYPES[name]
    chosen = CHOSEN if name in ("f32", "bf16") else FEW
    return itertools.chain(
        *(small_calls(label, LAYERS[label], loss, dtype, False) for label, loss in chosen.items()),
        *(small_calls(label, LAYERS[label], "mse", dtype, True) for label in ("dcgan",) if name == "f32"),
        pass_calls(dtype),
    )
