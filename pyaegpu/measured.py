"""Which kernels were measured to be the fastest on a GPU, by card and class of call: the table that ``auto`` reads."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true


class Rule(NamedTuple):
    """Calls of a family that a backend serves best. What a rule does not name it does not restrict.

    ``ops`` are called as the family's file in ``pyaegpu/ops`` calls them in its :class:`Call`.
    ``elements`` are those of the op's first tensor, ``channels`` those of its dimension 1, ``outputs`` the channels of
    a convolution's result; each ``(least, most)``, both included, ``most`` None where there is no bound.
    """

    backend: str
    ops: tuple[str, ...] = ()
    dtypes: tuple[torch.dtype, ...] = ()
    channels_last: bool | None = None
    elements: tuple[int, int | None] = (0, None)
    channels: tuple[int, int | None] = (0, None)
    outputs: tuple[int, int | None] = (0, None)
    algorithm: str = ""  # of a transposed convolution


class Call(NamedTuple):
    """What rules ask about a call. A compiled graph's sizes may be symbols."""

    op: str
    input: Tensor
    channels_last: bool = False  # for the ops whose kernels differ by layout
    outputs: int = 0


# By compute capability and family; the first rule that holds for a call decides. What no rule holds for takes stock
# PyTorch's kernels: none of ours is chosen on hope. A rule stands here only for a card on which the family's `gpu`
# tests passed and its benchmark was run.
MEASURED: dict[tuple[int, int], dict[str, tuple[Rule, ...]]] = {}


def rules(family: str, capability: tuple[int, int]) -> tuple[Rule, ...]:
    """The rules of a family on a card, in their order."""
    return MEASURED.get(capability, {}).get(family, ())


def holds(rule: Rule, call: Call | None) -> bool:
    """Whether a rule is for ``call``; for no call in particular, whether it is for any."""
    if call is None:
        return True
    if rule.ops and call.op not in rule.ops:
        return False
    if rule.dtypes and call.input.dtype not in rule.dtypes:
        return False
    if rule.channels_last not in (None, call.channels_last):
        return False
    return (
        _within(call.input.numel(), rule.elements)
        and _within(call.input.shape[1] if call.input.dim() > 1 else 1, rule.channels)
        and _within(call.outputs, rule.outputs)
    )


def _within(size: Any, bounds: tuple[int, int | None]) -> bool:
    """Whether ``size`` is within bounds or, as a symbol, may be: a comparison would bind the graph to one side."""
    least, most = bounds
    if torch.compiler.is_compiling():
        return not statically_known_true(size < least) and (most is None or not statically_known_true(size > most))
    return bool(size >= least) and (most is None or bool(size <= most))
