"""Modules over the public functions; parameter and buffer names equal torch.nn's."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pyaegpu import functional
from pyaegpu.functional._noise import Generators


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
