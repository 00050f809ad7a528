"""Argument checks shared by the public functions: each raises an error that names the argument."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

_FULL = (torch.float32, torch.float64)


def floating(**tensors: object) -> None:
    """Each argument is a floating-point tensor."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
        if not tensor.is_floating_point():
            raise RuntimeError(f"{name} must have a floating-point dtype, got {tensor.dtype}")


def instance(name: str, value: object, kind: type) -> None:
    """``value`` is a ``kind``."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a torch.{kind.__name__}, got {type(value).__name__}")


def alike(name: str, tensor: Tensor, reference_name: str, reference: Tensor) -> None:
    """``tensor`` has the shape and the device of ``reference``."""
    if tensor.shape != reference.shape:
        raise ValueError(
            f"{name} must have the shape of {reference_name}, {tuple(reference.shape)}; got {tuple(tensor.shape)}"
        )
    same_device(name, tensor, reference_name, reference)


def are_plain(a: object, b: object) -> bool:
    """Whether two arguments are tensors of one shape, device and full-precision dtype: the case without a remark."""
    return (
        isinstance(a, Tensor)
        and isinstance(b, Tensor)
        and a.dtype in _FULL
        and b.dtype == a.dtype
        and a.shape == b.shape
        and a.device == b.device
    )


def same_device(name: str, tensor: Tensor, reference_name: str, reference: Tensor) -> None:
    """``tensor`` lies on the device of ``reference``."""
    if tensor.device != reference.device:
        raise RuntimeError(f"{name} must be on the device of {reference_name}, {reference.device}; got {tensor.device}")


def choice(name: str, value: object, allowed: Sequence[str | None]) -> int:
    """The position of ``value`` among ``allowed``."""
    for index, option in enumerate(allowed):
        if value == option:
            return index
    raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")


def number(name: str, value: object, minimum: float | None = None) -> float:
    """``value`` as a float, at least ``minimum``."""
    if type(value) is float and minimum is None:  # nearly every call; a look at the abstract class takes longer
        return value
    if isinstance(value, bool) or not isinstance(value, (Real, torch.SymInt, torch.SymFloat)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if minimum is not None and not value >= minimum:  # type: ignore[operator]
        raise ValueError(f"{name} must be at least {minimum:g}, got {value}")
    # A symbolic number of a compiled graph stands for a float.
    return value if isinstance(value, (torch.SymInt, torch.SymFloat)) else float(value)  # type: ignore[return-value]


def one_dtype(named: dict[str, Tensor]) -> list[Tensor]:
    """The tensors in one dtype: under autocast the widest of theirs, else theirs if it is one.

    Raises:
        RuntimeError: for different dtypes outside autocast.
    """
    tensors = list(named.values())
    first = tensors[0]
    if all(t.dtype == first.dtype for t in tensors):
        return tensors
    if autocasts(first):
        widest = first.dtype
        for tensor in tensors[1:]:
            widest = torch.promote_types(widest, tensor.dtype)
        return [t.to(widest) for t in tensors]
    given = ", ".join(f"{name}: {t.dtype}" for name, t in named.items())
    raise RuntimeError(f"{', '.join(named)} must have one dtype outside autocast; got {given}")


def promoted(tensors: Sequence[Tensor], exponential: bool) -> list[Tensor]:
    """The tensors in the dtype that stock PyTorch's elementwise functions give them together.

    ``exponential``: an exp is among those functions, which autocast takes to float32 on a GPU.
    """
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    if exponential and tensors[0].is_cuda and dtype.itemsize < 4 and autocasts(tensors[0]):
        dtype = torch.float32
    return [t.to(dtype) for t in tensors]


def autocasts(tensor: Tensor) -> bool:
    """Whether autocast is on for the device of ``tensor``."""
    device = tensor.device.type
    return device != "meta" and torch.is_autocast_enabled(device)


def broadcast_to(name: str, tensor: Tensor, reference_name: str, reference: Tensor) -> Tensor:
    """``tensor`` expanded to the shape of ``reference``."""
    same_device(name, tensor, reference_name, reference)
    if tensor.shape == reference.shape:
        return tensor
    try:
        return tensor.expand(reference.shape)
    except RuntimeError:
        raise ValueError(
            f"{name} must be broadcastable to the shape of {reference_name}, {tuple(reference.shape)}; "
            f"got {tuple(tensor.shape)}"
        ) from None


def clamp_bounds(clamp: object) -> tuple[float, float]:
    """The bounds of ``clamp=(lo, hi)``, infinite for None."""
    if clamp is None:
        return -float("inf"), float("inf")
    if not isinstance(clamp, (tuple, list)) or len(clamp) != 2:
        raise TypeError(f"clamp must be None or a pair (lo, hi), got {clamp!r}")
    lo, hi = number("clamp[0]", clamp[0]), number("clamp[1]", clamp[1])
    if not lo <= hi:
        raise ValueError(f"clamp must have lo <= hi, got {clamp!r}")
    return float(lo), float(hi)
