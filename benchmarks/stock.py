"""Stock PyTorch as benchmark candidates: eager, also in the other memory format, and compiled in the modes that a user
would try."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from benchmarks.case import LAYOUTS, Candidate, Case, Inputs, Step
from benchmarks.tensors import in_layout

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


def other_layout(case: Case, make: Callable[[], Step]) -> Candidate:
    """Eager on inputs that are in the memory format that the case does not have before the timing begins."""
    other = next(layout for layout in LAYOUTS if layout != case.layout)

    def moved(inputs: Inputs) -> Inputs:
        return {name: in_layout(tensor, other) for name, tensor in inputs.items()}

    return Candidate(f"eager_{other}", "stock", make, prepare=moved)


def _compile(function: Function, mode: str) -> Function:
    return torch.compile(function, mode=mode, dynamic=False, fullgraph=True)
