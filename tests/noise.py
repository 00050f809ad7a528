"""The library's random numbers in plain PyTorch, written apart from every backend: int64 Philox, float64 normals.

Philox 4x32-10 of Salmon et al., SC 2011, and Box and Muller's transform.
"""

import math

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
KEY_STEPS = 0x9E3779B9, 0xBB67AE85


def _multiply(factor: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """High and low word of the product, which int64 holds up to its sign."""
    product = x * factor
    return (product >> 32) & MASK, product & MASK


def philox(c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The words of each counter; counters and words are int64 in [0, 2^32), the seed is 64 bits, signed or not."""
    keys = seed & MASK, (seed >> 32) & MASK
    for i in range(10):
        k0, k1 = ((key + i * step) & MASK for key, step in zip(keys, KEY_STEPS, strict=True))
        high0, low0 = _multiply(MULTIPLIERS[0], c0)
        high1, low1 = _multiply(MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
    return c0, c1, c2, c3


def words(numel: int, seed: int, offset: int, start: int = 0) -> Tensor:
    """The word of each of `numel` elements from index `start`, a multiple of 4, on: int64 in [0, 2^32)."""
    quad = torch.arange(start // 4, (start + numel + 3) // 4, dtype=torch.int64)
    counter = torch.full_like(quad, offset & MASK), torch.full_like(quad, (offset >> 32) & MASK)
    return torch.stack(philox(*counter, quad & MASK, quad >> 32, seed), 1).reshape(-1)[:numel]


def normals(numel: int, seed: int, offset: int, dtype: torch.dtype = torch.float64, start: int = 0) -> Tensor:
    """The standard normal of each element, computed in float64."""
    pairs = words(numel + numel % 2, seed, offset, start).double().reshape(-1, 2)
    radius = (-2 * ((pairs[:, 0] + 0.5) / 2**32).log()).sqrt()
    angle = 2 * math.pi * pairs[:, 1] / 2**32
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1).reshape(-1)[:numel].to(dtype)
