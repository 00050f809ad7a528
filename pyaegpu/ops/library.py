"""The torch.library namespaces: schemas are defined here, in Python; C++ and the families register implementations.

``pyaegpu::op`` is the public op (C++ serves its CPU key where the extension is built, the chooser its CUDA key).
``pyaegpu_cpu::op`` and ``pyaegpu_cuda::op`` are the C++ and C++/CUDA implementations of the same schema, without an
autograd key: what eager calls from inside its own autograd function.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from pyaegpu import _extension, backends

_public = torch.library.Library("pyaegpu", "FRAGMENT")
_direct = [(torch.library.Library(name, "FRAGMENT"), name) for name in ("pyaegpu_cpu", "pyaegpu_cuda")]
_families: dict[str, tuple[str, ...]] = {}
_triton_only: set[str] = set()


@functools.cache
def implementation(family: str, backend: str) -> Any:
    """The functions of ``family`` on a backend, called by the names and arguments of the ops' schemas."""
    if backend == "triton":
        launchers = importlib.import_module(f"pyaegpu.kernels.{family}")
        return SimpleNamespace(**{op: _reading_memory(getattr(launchers, op)) for op in _families[family]})
    namespace = getattr(torch.ops, f"pyaegpu_{backend}")
    ops = (op for op in _families[family] if op not in _triton_only)
    return SimpleNamespace(**{op: getattr(namespace, op).default for op in ops})


def _reading_memory(launcher: Callable[..., Any]) -> Callable[..., Any]:
    """A launcher whose kernel reads memory as it is, where the dispatcher would have resolved views that negate."""

    def launch(*args: Any) -> Any:
        return launcher(*(arg.resolve_neg() if isinstance(arg, Tensor) else arg for arg in args))

    return launch


def define(
    family: str, schemas: dict[str, str], fakes: dict[str, Callable[..., Any]], triton_only: tuple[str, ...] = ()
) -> None:
    """Define a family's ops in every namespace with their fake kernels, and the choice of backend under CUDA."""
    _families[family] = tuple(schemas)
    _triton_only.update(triton_only)
    for op, schema in schemas.items():
        for lib, namespace in ((_public, "pyaegpu"), *_direct):
            lib.define(op + schema, tags=(torch.Tag.pt2_compliant_tag,))
            torch.library.register_fake(f"{namespace}::{op}", fakes[op], lib=lib)
        if op in triton_only:
            for key in ("CPU", "CUDA"):  # on the CPU Triton's interpreter runs it
                _public.impl(op, _launcher(family, op), key)
        else:
            _public.impl(op, _chooser(family, op), "CUDA")


def refuse_autograd(op: str) -> None:
    """Make a second derivative through the registered backward op an error instead of a silent zero."""

    def backward(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(
            f"pyaegpu::{op} has no derivative: second derivatives do not go through compiled or exported graphs. "
            "Call the function in eager mode, or select pyaegpu.backend('reference')."
        )

    torch.library.register_autograd(f"pyaegpu::{op}", backward, lib=_public)


def register_autograd(op: str, backward: Callable[..., Any], setup_context: Callable[..., None]) -> None:
    """Register the derivative of a public op, used while a graph is compiled, exported or traced."""
    torch.library.register_autograd(f"pyaegpu::{op}", backward, setup_context=setup_context, lib=_public)


def _launcher(family: str, op: str) -> Callable[..., Any]:
    def launch(*args: Any) -> Any:
        return getattr(implementation(family, backends.first_available(("triton",), family, f"pyaegpu::{op}")), op)(
            *args
        )

    return launch


def _chooser(family: str, op: str) -> Callable[..., Any]:
    def choose(*args: Any) -> Any:
        device = next(arg for arg in args if isinstance(arg, Tensor)).device
        name = backends.choose(family, device)
        if name == "reference":
            # The graph took a kernel when it was compiled; by now another backend may be selected, or no rule be left.
            name = backends.first_available(("cuda", "triton"), family, f"pyaegpu::{op} of a compiled graph")
        return getattr(implementation(family, name), op)(*args)

    return choose


_extension.load_cpu()
