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


def missing(device: str, family: str) -> dict[str, str]:
    """Why a backend of that device cannot run the family, by backend; empty when all can."""
    if library() is None:
        return dict.fromkeys(("auto", *BACKENDS[device]), "pyaegpu cannot be imported")
    backends = import_module("pyaegpu.backends")
    reasons = {}
    for name in BACKENDS[device]:
        try:
            backends.first_available((name,), family, "the benchmark")
        except backends.BackendError as error:
            reasons[name] = str(error).rpartition(f"{name}: ")[2]
    return reasons


def candidates(
    device: str,
    family: str,
    make: Callable[[ModuleType], Step],
    served_by: Callable[[ModuleType, Inputs], str],
    given: Callable[[ModuleType], Step] | None = None,
) -> list[Candidate]:
    """`auto` (published) and each named backend that is there; `make(pyaegpu)` builds the step, `given` that of a
    random op with the reference's noise."""
    pyaegpu = library()
    if pyaegpu is None:
        return []
    absent = missing(device, family)
    names = ["auto", *(name for name in BACKENDS[device] if name not in absent)]

    def candidate(name: str) -> Candidate:
        return Candidate(
            name=f"pyaegpu:{name}",
            role="info" if name == "reference" else "ours",
            make=lambda: make(pyaegpu),
            scope=lambda: pyaegpu.backend(name),
            published=name == "auto",
            served_by=lambda inputs: served_by(pyaegpu, inputs),
            given=None if given is None else lambda: given(pyaegpu),
        )

    return [candidate(name) for name in names]
