"""Transposed convolution and its activation, in plain, differentiable PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pyaegpu.reference.activations import activate

_FUNCTIONS = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def conv_transpose(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
    activation: int,
    slope: float,
) -> Tensor:
    """Transposed convolution over as many dimensions as ``stride`` has numbers, then the activation."""
    function = _FUNCTIONS[len(stride) - 1]
    return activate(function(input, weight, bias, stride, padding, output_padding, groups, dilation), activation, slope)


def upsample_conv2d(input: Tensor, weight: Tensor, bias: Tensor | None, activation: int, slope: float) -> Tensor:
    """Nearest upsampling by 2, a 3x3 convolution with padding 1, then the activation."""
    larger = F.interpolate(input, scale_factor=2, mode="nearest")
    return activate(F.conv2d(larger, weight, bias, padding=1), activation, slope)


def folded_weight(weight: Tensor) -> Tensor:
    """The [Cin, Cout, 4, 4] weight of the transposed convolution of stride 2 and padding 1 that equals nearest
    upsampling by 2 and then the 3x3 convolution of padding 1 with ``weight`` [Cout, Cin, 3, 3].

    Each output row reads two input rows, through the kernel rows (w2, w1 + w2, w0 + w1, w0). Sums are taken in float32
    at least.
    """
    wide = weight if weight.dtype.itemsize >= 4 else weight.float()
    for dim in (2, 3):
        first, middle, last = wide.unbind(dim)
        wide = torch.stack((last, middle + last, first + middle, first), dim)
    format = torch.channels_last if weight.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    return wide.to(weight.dtype).transpose(0, 1).contiguous(memory_format=format)
