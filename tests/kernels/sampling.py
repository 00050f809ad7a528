"""Tensors that take each tile and each way to the noise, and the check of the noise itself."""

import noise
import torch
from torch import Tensor

SEED, OFFSET = -0x0123456789ABCDEF, 2**33 + 12
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def contiguous(shape):
    return torch.randn(shape)


def apart(shape):
    """Contiguous rows, with a gap between them."""
    return torch.randn(*shape[:-1], 2 * shape[-1])[..., : shape[-1]]


def repeated(shape):
    return torch.randn(1, *shape[1:]).expand(shape)


def transposed(shape):
    return torch.randn(*shape[:-2], shape[-1], shape[-2]).transpose(-1, -2)


# (shape, layout), and what takes it in float32. One long row: wide, narrow, and not even a quad long.
CASES = [
    ((33, 48), contiguous),
    ((2, 1031), contiguous),
    ((), contiguous),
    ((3,), contiguous),
    ((3, 1, 7, 11), contiguous),
    # Wide tiles of short, middling and long rows.
    ((35, 48), apart),
    ((5, 160), apart),
    ((2, 2064), repeated),
    # Narrow tiles of whole quads, then of rows that split quads.
    ((9, 20), apart),
    ((2, 516), apart),
    ((9, 7), repeated),
    ((2, 515), apart),
    ((13, 1), apart),
    ((5, 6), transposed),
]


def normals(shape: tuple[int, ...], seed: int = SEED, offset: int = OFFSET) -> Tensor:
    return noise.normals(torch.Size(shape).numel(), seed, offset).reshape(shape)


def assert_is_noise(eps: Tensor, seed: int = SEED, offset: int = OFFSET) -> None:
    """eps is the oracle's noise, to its dtype's last place (the interpreter truncates to bfloat16)."""
    want = normals(eps.shape, seed, offset)
    half = eps.dtype in (torch.float16, torch.bfloat16)
    last_place = 1e-15 if eps.dtype == torch.float64 else 1e-7
    # The logarithm of a word near 2^32 is as exact as the word; the square root of it, the radius, less so.
    pairs = noise.normals(want.numel() + want.numel() % 2, seed, offset).reshape(-1, 2)
    radius = pairs.norm(dim=1).repeat_interleave(2)[: want.numel()].reshape(want.shape)
    tolerance = last_place * (10 + 10 * want.abs() + 2 / radius) + half * torch.finfo(eps.dtype).eps * want.abs()
    assert ((eps.double() - want).abs() <= tolerance).all(), (eps, want)
