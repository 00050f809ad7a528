"""The memory layouts in which kernels read their inputs, as the fake kernels have to predict them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill one block of memory, each once, in any order of the dimensions."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


def dense(tensor: Tensor, rows: bool) -> Tensor:
    """``tensor`` itself where a kernel can walk it as one block (``rows``: with dim 0 outermost), else a copy."""
    if tensor.is_contiguous():
        return tensor
    outermost = not rows or tensor.stride(0) * tensor.shape[0] == tensor.numel()
    return tensor if outermost and is_dense(tensor) else tensor.contiguous()


def suggests_channels_last(tensor: Tensor, batched: bool = True) -> bool:
    """Whether stock PyTorch's convolutions take a 4-D tensor as channels_last, or a 5-D one as channels_last_3d, of any
    gaps (its ``suggest_memory_format``). Without a batch of its own, dim 0 does not tell."""
    least, strides, shape = 0, tensor.stride(), tensor.shape
    if strides[1] == 0:
        return False
    for dim in (1, *reversed(range(2, tensor.dim())), *((0,) if batched else ())):
        if shape[dim] == 0 or strides[dim] < least or (dim == 0 and least == strides[1]):
            return False
        least = strides[dim] * (shape[dim] if shape[dim] > 1 else 1)
    return True


def in_format(tensor: Tensor, channels_last: bool) -> Tensor:
    """``tensor`` [N, C, *spatial] itself where it lies as asked, else a copy. Inside functorch transforms,
    which hide dimensions, layouts are left alone."""
    if torch._C._are_functorch_transforms_active():
        return tensor
    return tensor.contiguous(memory_format=_order(tensor.dim(), channels_last))


def empty_images(shape: Sequence[int], like: Tensor, channels_last: bool) -> Tensor:
    """An empty tensor [N, C, *spatial] of the dtype and device of ``like``; channels_last is for two or three spatial
    dimensions."""
    order = _order(len(shape), channels_last)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=order)


def _order(dims: int, channels_last: bool) -> torch.memory_format:
    if not channels_last:
        return torch.contiguous_format
    return torch.channels_last if dims == 4 else torch.channels_last_3d
