"""Losses as modules."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pyaegpu import functional


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
