"""Stock PyTorch as benchmark candidates: eager, and compiled in the modes that a user would try."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from benchmarks.case import Candidate, Step

Function = TypeVar("Function", bound=Callable[..., object])


def candidates(
    function: Function,
    make: Callable[[Function], Step],
    device: str,
    compiled: bool,
    given: Callable[[], Step] | None = None,
) -> list[Candidate]:
    """`eager`, `compile` and on CUDA `compile_max`; `make(function)` builds the step of each."""
    modes = {"compile": "default"} | ({"compile_max": "max-autotune-no-cudagraphs"} if device == "cuda" else {})
    found = [Candidate("eager", "stock", lambda: make(function), given=given)]
    for name, mode in modes.items() if compiled else ():
        found.append(Candidate(name, "stock", lambda mode=mode: make(_compile(function, mode))))
    return found


def _compile(function: Function, mode: str) -> Function:
    return torch.compile(function, mode=mode, dynamic=False, fullgraph=True)
