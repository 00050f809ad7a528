"""Modules over the public functions; parameter and buffer names equal torch.nn's."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from pyaegpu import functional
from pyaegpu.functional._conv_transpose import activation_of
from pyaegpu.functional._noise import Generators


class _Activated:
    """What the layers with an activation share."""

    activation: str | None
    negative_slope: float

    def _set_activation(self, activation: str | None, negative_slope: float) -> None:
        activation_of(activation, negative_slope)
        self.activation, self.negative_slope = activation, negative_slope

    @property
    def _activation(self) -> dict[str, Any]:
        return {"activation": self.activation, "negative_slope": self.negative_slope}

    def extra_repr(self) -> str:
        """The arguments of the layer."""
        text = super().extra_repr()  # type: ignore[misc]
        if self.activation is not None:
            text += f", activation={self.activation!r}"
        return text + f", negative_slope={self.negative_slope}" if self.activation == "leaky_relu" else text


class _ConvTranspose(_Activated, nn.modules.conv._ConvTransposeNd):
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


class UpsampleConv2d(_Activated, nn.Conv2d):
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


class ReconstructionLoss(nn.Module):
    """:func:`pyaegpu.functional.reconstruction_loss` as a module; it takes the function's keyword arguments."""

    explained_as = "reconstruction_loss"
    weight: Tensor | None

    def __init__(
        self,
        kind: str = "bce",
        *,
        reduction: str = "sum",
        weight: Tensor | None = None,
        scale: float = 1.0,
        beta: float = 1.0,
    ) -> None:
        super().__init__()
        self.kind, self.reduction, self.scale, self.beta = kind, reduction, scale, beta
        self.register_buffer("weight", weight)

    def forward(self, recon: Tensor, target: Tensor) -> Tensor:
        """The loss of ``recon`` against ``target``."""
        return functional.reconstruction_loss(
            recon,
            target,
            self.kind,
            reduction=self.reduction,
            weight=self.weight,
            scale=self.scale,
            beta=self.beta,
        )

    def extra_repr(self) -> str:
        """The arguments that define the loss."""
        return f"kind={self.kind!r}, reduction={self.reduction!r}, scale={self.scale}, beta={self.beta}"


class VAELoss(nn.Module):
    """:func:`pyaegpu.functional.vae_loss` as a module; it takes the function's keyword arguments.

    ``beta`` may be reassigned between steps (annealing); a tensor keeps a compiled step from recompiling.
    """

    explained_as = "vae_loss"
    weight: Tensor | None

    def __init__(
        self,
        *,
        kind: str = "bce",
        beta: float | Tensor = 1.0,
        recon_reduction: str = "sum",
        kl_reduction: str = "sum",
        recon_scale: float = 1.0,
        weight: Tensor | None = None,
        free_bits: float = 0.0,
        clamp: tuple[float, float] | None = None,
        return_parts: bool = False,
    ) -> None:
        super().__init__()
        self.beta = beta
        self.options: dict[str, Any] = {
            "kind": kind,
            "recon_reduction": recon_reduction,
            "kl_reduction": kl_reduction,
            "recon_scale": recon_scale,
            "free_bits": free_bits,
            "clamp": clamp,
            "return_parts": return_parts,
        }
        self.register_buffer("weight", weight)

    def forward(
        self, recon: Tensor, target: Tensor, mu: Tensor, logvar: Tensor
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """The loss, or with ``return_parts`` the loss, its reconstruction part and its KL part."""
        return functional.vae_loss(recon, target, mu, logvar, beta=self.beta, weight=self.weight, **self.options)

    def extra_repr(self) -> str:
        """The arguments that define the loss."""
        options = {k: v for k, v in self.options.items() if v not in (None, 0.0, False)}
        return ", ".join(f"{k}={v!r}" for k, v in options.items()) + f", beta={self.beta}"


class Reparameterize(nn.Module):
    """:func:`pyaegpu.functional.reparameterize` as a module; in evaluation mode it returns the mean.

    ``eps`` and ``generator`` may also be given at each call.
    """

    explained_as = "reparameterize"

    def __init__(
        self,
        *,
        generator: Generators = None,
        clamp: tuple[float, float] | None = None,
        return_eps: bool = False,
    ) -> None:
        super().__init__()
        self.generator, self.clamp, self.return_eps = generator, clamp, return_eps

    def forward(
        self,
        mu: Tensor,
        logvar: Tensor | None = None,
        *,
        std: Tensor | None = None,
        eps: Tensor | None = None,
        generator: Generators = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The sample, or with ``return_eps`` the sample and its noise."""
        return functional.reparameterize(
            mu,
            logvar,
            std=std,
            eps=eps,
            generator=self.generator if generator is None else generator,
            training=self.training,
            clamp=self.clamp,
            return_eps=self.return_eps,
        )

    def extra_repr(self) -> str:
        """The arguments that define the sample."""
        return f"clamp={self.clamp}, return_eps={self.return_eps}"


class Corrupt(nn.Module):
    """:func:`pyaegpu.functional.corrupt` as a module; in evaluation mode it returns its input."""

    explained_as = "corrupt"

    def __init__(
        self,
        kind: str,
        amount: float,
        *,
        generator: Generators = None,
        low: float = 0.0,
        high: float = 1.0,
    ) -> None:
        super().__init__()
        self.kind, self.amount, self.low, self.high = kind, amount, low, high
        self.generator = generator

    def forward(self, input: Tensor, *, generator: Generators = None) -> Tensor:
        """``input`` with noise."""
        if not self.training:
            return input
        generator = self.generator if generator is None else generator
        return functional.corrupt(input, self.kind, self.amount, generator=generator, low=self.low, high=self.high)

    def extra_repr(self) -> str:
        """The arguments that define the noise."""
        bounds = f", low={self.low}, high={self.high}" if self.kind == "salt_and_pepper" else ""
        return f"{self.kind!r}, amount={self.amount}{bounds}"
