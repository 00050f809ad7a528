"""Transposed convolution, batch normalisation and activation: the launchers of the products with moments.

A launcher has the name and arguments of the registered op it serves.
"""

from torch import Tensor

from .activations import NONE
from .conv_transpose_matmul import matmul
from .conv_transpose_moments import Parts, fewer
from .conv_transpose_phases import phases
from .norm_act import moments, normalized


def conv_transpose2d_phases_norm_fwd(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    eps: float,
    activation: int,
    slope: float,
    tf32: bool,
    channels_last: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    y, parts = phases(
        input, weight, bias, stride, padding, output_padding, NONE.value, 0.0, tf32, channels_last, True
    )  # fmt: skip
    return finished(y, parts, norm_weight, norm_bias, eps, activation, slope)


def conv_transpose2d_matmul_norm_fwd(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    eps: float,
    activation: int,
    slope: float,
    tf32: bool,
    channels_last: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    y, parts = matmul(
        input, weight, bias, stride, padding, output_padding, NONE.value, 0.0, tf32, channels_last, True
    )  # fmt: skip
    return finished(y, parts, norm_weight, norm_bias, eps, activation, slope)


def finished(
    y: Tensor,
    parts: Parts,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: int,
    slope: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The result, then what it was made of: the convolution, mean, inverse deviation and unbiased variance."""
    mean, invstd, var = moments(*fewer(parts), eps)
    return normalized(y, weight, bias, mean, invstd, activation, slope), y, mean, invstd, var
