"""Which backends are there, which one serves a call and why the others do not, and the override."""

from __future__ import annotations

import functools
import importlib
import os
from dataclasses import dataclass, field
from types import TracebackType

import torch

from pyaegpu import _extension, measured
from pyaegpu.measured import Call

NAMES = ("auto", "cuda", "triton", "cpu", "reference")

# Families that a backend has no kernels of.
_UNSERVED = {
    (family, "cuda"): f"it has no kernels of {family}; triton has"
    for family in ("conv_transpose_loss", "corrupt", "nearest_unpool", "norm_act")
}


class BackendError(RuntimeError):
    """A backend that was asked for by name cannot serve the call."""


def _check(name: str, source: str, error: type[Exception]) -> None:
    if name not in NAMES:
        raise error(f"{source} must be one of {', '.join(NAMES)}; got {name!r}")


# A plain global: torch.compile can guard on it, which it cannot on a ContextVar. The environment's name is checked by
# the first call, so that an import never fails and the command line can say what is wrong.
_selected = os.environ.get("PYAEGPU_BACKEND", "auto")


class backend:
    """Select the backend of every following call, for good or, in a ``with`` statement, for its body.

    Args:
        name: ``"auto"`` (measured choice), ``"cuda"`` (C++/CUDA), ``"triton"``, ``"cpu"`` (C++) or ``"reference"``
            (plain PyTorch).

    Raises:
        ValueError: for another name. A backend that is not available raises when an op is called.
    """

    def __init__(self, name: str) -> None:
        global _selected
        _check(name, "name", ValueError)
        self._name = name
        self._previous = [_selected]
        _selected = name

    def __enter__(self) -> backend:
        global _selected
        if _selected != self._name or not self._previous:  # entered again, or later than it was made
            self._previous.append(_selected)
            _selected = self._name
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _selected
        _selected = self._previous.pop()


@dataclass(frozen=True)
class Explanation:
    """What :func:`pyaegpu.explain` found: the backend and algorithm of a call, and why each other one is not taken."""

    op: str
    backend: str
    algorithm: str
    others: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.op}: {self.backend} ({self.algorithm})"]
        lines += [f"  not {name}: {reason}" for name, reason in self.others.items()]
        return "\n".join(lines)


def selected() -> str:
    """The backend that :class:`backend` or ``PYAEGPU_BACKEND`` selected."""
    return _selected


def status() -> dict[str, str | None]:
    """Every backend with None where it is available, else the reason why not."""
    return {name: _missing(name) for name in NAMES if name != "auto"}


def choose(family: str, device: torch.device, call: Call | None = None) -> str:
    """The backend that serves ``call``, or any call of ``family``, on ``device``.

    Raises:
        RuntimeError: if the selected backend cannot serve it, with the reason.
    """
    if _selected == "auto":
        return _automatic(family, device, call)
    _check(_selected, "PYAEGPU_BACKEND", BackendError)
    reason = _refusal_now(_selected, family, device.type)
    if reason is not None:
        raise BackendError(f"backend {_selected!r} was selected but cannot run {family} here: {reason}")
    return _selected


def first_available(names: tuple[str, ...], family: str, wanted_by: str) -> str:
    """The first of ``names`` that is there and has kernels of ``family``.

    Raises:
        RuntimeError: if none is, with the reasons.
    """
    reasons = {name: _missing(name) or _UNSERVED.get((family, name)) for name in names}
    for name, reason in reasons.items():
        if reason is None:
            return name
    listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    raise BackendError(f"{wanted_by} needs one of the backends {', '.join(names)}; {listed}")


def explain(family: str, op: str, call: Call, algorithm: str, refusal: str | None = None) -> Explanation:
    """The backend of a call of ``op``; ``algorithm`` is that of the kernels, ``refusal`` why they cannot serve it."""
    device = call.input.device
    chosen = choose(family, device, call)
    served = "reference" if refusal is not None else chosen
    algorithm = "stock PyTorch functions" if served == "reference" else algorithm
    others = refusals(family, device, served)
    if refusal is not None and chosen != "reference":
        others[chosen] = refusal
    return Explanation(op, served, algorithm, others)


def explain_plain(op: str, reason: str) -> Explanation:
    """The explanation of a function without kernels."""
    others = {name: reason for name in NAMES if name not in ("auto", "reference")}
    return Explanation(op, "reference", "stock PyTorch functions", others)


def refusals(family: str, device: torch.device, chosen: str) -> dict[str, str]:
    """Why each backend other than ``chosen`` is not taken for ``family`` on ``device``."""
    reasons = {}
    for name in NAMES:
        if name in ("auto", chosen):
            continue
        reason = _refusal(name, family, device.type)
        if reason is None:
            reason = _not_preferred(name, family, device)
        reasons[name] = reason
    return reasons


def rules(family: str, device: torch.device) -> tuple[measured.Rule, ...]:
    """What was measured of a family on the card ``device``, as far as the backends are there."""
    found = measured.rules(family, _capability(device.index)) if device.type == "cuda" else ()
    return tuple(rule for rule in found if _is_there(rule.backend))


def _automatic(family: str, device: torch.device, call: Call | None) -> str:
    if device.type == "cpu":
        return "cpu" if _is_there("cpu") else "reference"
    return next((rule.backend for rule in rules(family, device) if measured.holds(rule, call)), "reference")


@torch.compiler.assume_constant_result
def _is_there(name: str) -> bool:
    return _missing(name) is None


@torch.compiler.assume_constant_result
def _capability(index: int | None) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


@torch.compiler.assume_constant_result
def _refusal_now(name: str, family: str, device_type: str) -> str | None:
    return _refusal(name, family, device_type)


def _refusal(name: str, family: str, device_type: str) -> str | None:
    missing = _missing(name) or _UNSERVED.get((family, name))
    if missing is not None or name == "reference":
        return missing
    if name == "cpu" and device_type != "cpu":
        return f"it serves CPU tensors, the input is on {device_type}"
    if name == "cuda" and device_type != "cuda":
        return f"it serves CUDA tensors, the input is on {device_type}"
    if name == "triton" and device_type != ("cpu" if _interpreting() else "cuda"):
        return f"it serves CUDA tensors, the input is on {device_type}"
    return None


def _not_preferred(name: str, family: str, device: torch.device) -> str:
    if _selected != "auto":
        return f"{_selected!r} was selected"
    if name == "reference":
        return "a compiled kernel serves this call"
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        return f"no measurement of {family} on compute capability {capability[0]}.{capability[1]} prefers it"
    return "the C++ kernels serve CPU tensors"


@functools.cache
def _missing(name: str) -> str | None:
    if name == "cpu":
        return _extension.load_cpu().reason
    if name == "cuda":
        return _extension.load_cuda().reason
    if name == "triton":
        return _triton_missing()
    return None


def _interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _triton_missing() -> str | None:
    try:
        importlib.import_module("triton")
    except ImportError as error:
        return f"triton cannot be imported ({error}); install it with: pip install triton"
    try:
        importlib.import_module("pyaegpu.kernels")
    except ImportError as error:
        return f"pyaegpu.kernels cannot be imported ({error}); install pyaegpu with: pip install ."
    if _interpreting():
        return None
    if not torch.cuda.is_available():
        return "no CUDA device (TRITON_INTERPRET=1 runs the kernels on the CPU, for tests)"
    return None
