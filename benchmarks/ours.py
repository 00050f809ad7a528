"""Which pyaegpu backends can run here, as benchmark candidates."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType

from benchmarks.case import Candidate, Inputs, Step

BACKENDS = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}


def library() -> ModuleType | None:
    """pyaegpu, or None where it cannot be imported (the rows then hold the stock candidates only)."""
    try:
        return import_module("pyaegpu")
    except ImportError:
        return None


def missing(device: str) -> dict[str, str]:
    """Why a backend of that device is absent, by backend; empty when all are there."""
    if library() is None:
        return dict.fromkeys(("auto", *BACKENDS[device]), "pyaegpu cannot be imported")
    status = import_module("pyaegpu.backends").status()
    return {name: status[name] for name in BACKENDS[device] if status[name] is not None}


def candidates(
    device: str, make: Callable[[ModuleType], Step], served_by: Callable[[ModuleType, Inputs], str]
) -> list[Candidate]:
    """`auto` (published) and each named backend that is there; `make(pyaegpu)` builds the step."""
    pyaegpu = library()
    if pyaegpu is None:
        return []
    absent = missing(device)
    names = ["auto", *(name for name in BACKENDS[device] if name not in absent)]

    def candidate(name: str) -> Candidate:
        return Candidate(
            name=f"pyaegpu:{name}",
            role="info" if name == "reference" else "ours",
            make=lambda: make(pyaegpu),
            scope=lambda: pyaegpu.backend(name),
            published=name == "auto",
            served_by=lambda inputs: served_by(pyaegpu, inputs),
        )

    return [candidate(name) for name in names]
