"""Random tensors of convolutions and normalisations in the memory format of a case."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from benchmarks.case import DTYPES, LAYOUTS, Case, Inputs

NEAR_ZERO = 4.0  # units of rounding of the mean size
TF32_EPS = 2.0**-10


class Draw(Protocol):
    """Draws a tensor of normal numbers."""

    def __call__(self, shape: tuple[int, ...], deviation: float = 1.0) -> Tensor: ...


def normals(case: Case, device: str, seed: int) -> Draw:
    """Normal numbers in the dtype of the case and, where they have four dimensions, in its layout."""
    generator = torch.Generator(device).manual_seed(seed)

    def draw(shape: tuple[int, ...], deviation: float = 1.0) -> Tensor:
        values = deviation * torch.randn(shape, generator=generator, device=device)
        return in_layout(values.to(DTYPES[case.dtype]), case.layout)

    return draw


def in_layout(tensor: Tensor, layout: str) -> Tensor:
    """A new leaf of the same values, in the layout where it has four dimensions."""
    if tensor.dim() != 4:
        return tensor
    moved = tensor.detach().contiguous(memory_format=LAYOUTS[layout])
    return moved.requires_grad_(tensor.requires_grad)


def in_float64(inputs: Inputs) -> Inputs:
    """The very same values in float64, as leaves."""
    return {name: tensor.detach().double().requires_grad_(tensor.requires_grad) for name, tensor in inputs.items()}


def without_doubt(g: Tensor, z: Tensor) -> Tensor:
    """g, but 0 where rounding decides on which side of relu's corner z falls: one such element would be a large error
    of the gradients, of whichever side."""
    eps = max(torch.finfo(g.dtype).eps, TF32_EPS)
    size = z.detach().abs()
    return g.masked_fill_(size <= NEAR_ZERO * eps * size.mean(), 0)
