"""Arguments that are one number, or one for each spatial dimension."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any

import torch

Numbers = int | Sequence[int]


def is_key(value: Any) -> bool:
    """Whether a number, or several, is told from every other by ``==``: True is 1 there, and a tensor may change."""
    return type(value) is int or (type(value) is tuple and all(type(each) is int for each in value))


def one_for_each(value: Numbers, dims: int) -> tuple[int, ...] | None:
    """One number for each dimension, or None where ``value`` is neither a number nor as many of them."""
    if isinstance(value, bool):
        return None
    try:
        if not isinstance(value, (list, tuple)):
            return (_integer(value),) * dims
        numbers = tuple(map(_integer, value))
    except TypeError:
        return None
    numbers = numbers * dims if len(numbers) == 1 else numbers
    return numbers if len(numbers) == dims else None


def _integer(value: Any) -> int:
    # A symbolic number stays one; while a graph is compiled it passes for an int, which ``index`` would bind it to.
    if isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool):
        return value  # type: ignore[return-value]
    return index(value)
