"""Corruption of a tensor, in plain, differentiable PyTorch."""

from __future__ import annotations

from torch import Tensor

GAUSSIAN, MASKING, SALT_AND_PEPPER = range(3)


def corrupt(input: Tensor, noise: Tensor, kind: int, amount: float, low: float, high: float) -> Tensor:
    """``input`` with ``noise``: standard normal for GAUSSIAN, else uniform in [0, 1); nothing flows through a hit."""
    if kind == GAUSSIAN:
        return input + amount * noise
    if kind == MASKING:
        return input.masked_fill(noise < amount, 0.0)
    spoiled = input.masked_fill(noise < amount, high)
    return spoiled.masked_fill(noise < 0.5 * amount, low)
