"""Activations of a layer's output, in plain, differentiable PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NONE, RELU, LEAKY_RELU, TANH, SIGMOID = range(5)


def activate(x: Tensor, activation: int, slope: float) -> Tensor:
    """The activation of ``x``; ``slope`` is LEAKY_RELU's."""
    if activation == RELU:
        return F.relu(x)
    if activation == LEAKY_RELU:
        return F.leaky_relu(x, slope)
    if activation == TANH:
        return torch.tanh(x)
    return torch.sigmoid(x) if activation == SIGMOID else x


def gradient(g: Tensor, out: Tensor, activation: int, slope: float) -> Tensor:
    """The gradient at the activation's input, from that at its output and the output itself; ``slope`` at least 0."""
    if activation == RELU:
        return torch.where(out <= 0, 0.0, g)
    if activation == LEAKY_RELU:
        return torch.where(out > 0, g, g * slope)
    if activation == TANH:
        return torch.ops.aten.tanh_backward(g, out)
    return torch.ops.aten.sigmoid_backward(g, out) if activation == SIGMOID else g
