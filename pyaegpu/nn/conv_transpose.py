"""Transposed convolutions as modules."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from pyaegpu import functional
from pyaegpu.nn._activated import Activated


class _ConvTranspose(Activated, nn.modules.conv._ConvTransposeNd):
    """The constructor and the call of the three transposed convolutions, over those of torch.nn."""

    explained_as: str
    _dims: int

    def __init__(self, *args: Any, activation: str | None = None, negative_slope: float = 0.01, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._set_activation(activation, negative_slope)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """The layer's output; ``output_size`` chooses among the sizes that the stride allows, as in torch.nn."""
        args, kwargs = self.explained_call(input, output_size)
        return cast(Tensor, getattr(functional, self.explained_as)(*args, **kwargs))

    def explained_call(self, input: Tensor, output_size: list[int] | None = None) -> tuple[Any, dict[str, Any]]:
        """The arguments of the function that the layer calls."""
        extra: Any = self.output_padding
        if output_size is not None:
            sizes: Any = (self.stride, self.padding, self.kernel_size, self._dims, self.dilation)
            extra = self._output_padding(input, output_size, *sizes)
        args = (input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation)
        return args, self._activation


class ConvTranspose1d(_ConvTranspose, nn.ConvTranspose1d):
    """:class:`torch.nn.ConvTranspose1d` with an ``activation`` (see :func:`pyaegpu.functional.conv_transpose1d`)."""

    explained_as = "conv_transpose1d"
    _dims = 1


class ConvTranspose2d(_ConvTranspose, nn.ConvTranspose2d):
    """:class:`torch.nn.ConvTranspose2d` with an ``activation``: None, ``"relu"``, ``"leaky_relu"`` (of
    ``negative_slope``), ``"tanh"`` or ``"sigmoid"`` (see :func:`pyaegpu.functional.conv_transpose2d`)."""

    explained_as = "conv_transpose2d"
    _dims = 2


class ConvTranspose3d(_ConvTranspose, nn.ConvTranspose3d):
    """:class:`torch.nn.ConvTranspose3d` with an ``activation`` (see :func:`pyaegpu.functional.conv_transpose3d`)."""

    explained_as = "conv_transpose3d"
    _dims = 3


class UpsampleConv2d(Activated, nn.Conv2d):
    """Nearest upsampling by 2 and a 3x3 convolution with padding 1, with an ``activation``, as one op.

    Parameters are those of :class:`torch.nn.Conv2d` (see :func:`pyaegpu.functional.upsample_conv2d`).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        bias: whether the layer adds a bias.
        scale: 2.
        activation: ``None``, ``"relu"``, ``"leaky_relu"``, ``"tanh"`` or ``"sigmoid"``.
        negative_slope: slope of leaky_relu below 0.
        device: of the parameters.
        dtype: of the parameters.
    """

    explained_as = "upsample_conv2d"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bias: bool = True,
        *,
        scale: int = 2,
        activation: str | None = None,
        negative_slope: float = 0.01,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias, device=device, dtype=dtype)
        if scale != 2:
            raise ValueError(f"scale must be 2, got {scale!r}")
        self.scale = scale
        self._set_activation(activation, negative_slope)

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output, [N, out_channels, 2 H, 2 W]."""
        args, kwargs = self.explained_call(input)
        return functional.upsample_conv2d(*args, **kwargs)

    def explained_call(self, input: Tensor) -> tuple[Any, dict[str, Any]]:
        """The arguments of the function that the layer calls."""
        return (input, self.weight, self.bias), {"scale": self.scale, **self._activation}
