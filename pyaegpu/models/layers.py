"""Layers of the reference models, of the fused ops or of stock PyTorch's; both have the same names of parameters."""

from collections.abc import Callable
from typing import Any

from torch import nn

from pyaegpu.nn import BatchNormAct2d, ConvTranspose2d, ConvTransposeNormAct2d

LEAK = 0.2


def conv_transpose_act(a: int, b: int, activation: str | None, fused: bool, **numbers: Any) -> list[nn.Module]:
    """A transposed convolution and its activation; fused, an identity keeps the names of later parameters."""
    if fused:
        layer = ConvTranspose2d(a, b, activation=activation, **numbers)
        return [layer, nn.Identity()] if activation else [layer]
    stock = nn.ConvTranspose2d(a, b, **numbers)
    return [stock, activation_layer(activation)] if activation else [stock]


def conv_transpose_norm(a: int, b: int, activation: str, fused: bool, **numbers: Any) -> nn.Module:
    """A transposed convolution, batch normalisation and an activation."""
    if fused:
        return ConvTransposeNormAct2d(a, b, activation=activation, negative_slope=LEAK, **numbers)
    return nn.Sequential(nn.ConvTranspose2d(a, b, **numbers), nn.BatchNorm2d(b), activation_layer(activation))


def conv_norm(a: int, b: int, activation: str, fused: bool, **numbers: Any) -> nn.Module:
    """A convolution, batch normalisation and an activation."""
    conv = nn.Conv2d(a, b, **numbers)
    if fused:
        return nn.Sequential(conv, BatchNormAct2d(b, activation=activation, negative_slope=LEAK))
    return nn.Sequential(conv, nn.BatchNorm2d(b), activation_layer(activation))


def activation_layer(activation: str) -> nn.Module:
    """Stock PyTorch's module; the slope of leaky_relu is that of DCGAN."""
    layers: dict[str, Callable[[], nn.Module]] = {
        "relu": nn.ReLU,
        "leaky_relu": lambda: nn.LeakyReLU(LEAK),
        "tanh": nn.Tanh,
        "sigmoid": nn.Sigmoid,
    }
    return layers[activation]()
