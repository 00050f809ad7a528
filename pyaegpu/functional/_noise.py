"""What the functions that draw noise share: generators, and the memory format of what they return."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyaegpu import _checks

Generators = torch.Generator | Sequence[torch.Generator] | None


def one_or_each(
    generator: Generators, name: str, batch: Tensor
) -> tuple[torch.Generator | None, list[torch.Generator] | None]:
    """The generator of all samples, or the list of one for each."""
    if not isinstance(generator, (list, tuple)):
        if generator is not None:
            _checks.instance("generator", generator, torch.Generator)
        return generator, None  # type: ignore[return-value]
    for index, each in enumerate(generator):
        _checks.instance(f"generator[{index}]", each, torch.Generator)
    if len(generator) == 1:
        return generator[0], None
    samples = batch.shape[0] if batch.dim() > 1 else 1
    if len(generator) != samples:
        raise ValueError(
            f"generator must be one, or a list of one for each sample of {name}, {samples}; got {len(generator)}"
        )
    return None, list(generator)


def by_sample(f: Callable[..., Sequence[Tensor]], generators: list[torch.Generator], *tensors: Tensor) -> list[Tensor]:
    """The results of ``f(sample, generator)`` for each sample, which keeps its noise in any batch."""
    if not generators:
        return list(f(*tensors, None))
    rows = [f(*(t[i : i + 1] for t in tensors), generator) for i, generator in enumerate(generators)]
    order = memory_order(tensors[0])
    results = [torch.cat(parts) for parts in zip(*rows, strict=True)]
    if order is None:
        return results
    return [t.permute(order).contiguous().permute(inverse_of(order)) for t in results]


def memory_order(t: Tensor) -> tuple[int, ...] | None:
    """The dimensions from the outermost in memory to the innermost, or None where they lie in order.

    It is that of ``torch.empty_like(t)``, the memory format that PyTorch's elementwise functions keep.
    """
    strides = t.stride()
    if all(a >= b for a, b in itertools.pairwise(strides)):
        return None
    kept = torch.empty_like(t, device="meta").stride()
    # Comparing pairs is what a compiled graph with symbolic strides can guard on; a sort by key it cannot.
    order = list(range(t.dim()))
    for end in range(1, t.dim()):
        place = end
        while place > 0 and kept[order[place - 1]] < kept[order[place]]:
            order[place - 1], order[place] = order[place], order[place - 1]
            place -= 1
    return None if order == list(range(t.dim())) else tuple(order)


def inverse_of(order: tuple[int, ...]) -> list[int]:
    """The permutation that undoes ``order``."""
    return sorted(range(len(order)), key=order.__getitem__)
