"""Sampling and corruption as modules."""

from __future__ import annotations

from torch import Tensor, nn

from pyaegpu import functional
from pyaegpu.functional._noise import Generators


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
