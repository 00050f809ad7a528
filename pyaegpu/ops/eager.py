"""What the families' eager ops share: the route of a call, and derivatives by the reference formula.

Eager calls an ``autograd.Function`` that calls the chosen backend directly. While a graph is compiled, exported or
traced the registered op is called, and inside a functorch transform the reference formula: ``register_autograd`` alone
breaks ``torch.func.grad``, and a Function alone gives zeros under ``compile(func.grad)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental.symbolic_shapes import statically_known_true

from pyaegpu import backends
from pyaegpu.measured import Call


def route_of(family: str, call: Call, *plain: Tensor | None) -> str | None:
    """A backend to call now, "graph" for the registered op, or None for the reference formula.

    ``plain`` are inputs whose gradient no kernel computes: where one needs it, a compiled graph takes the formula.
    """
    if torch._C._are_functorch_transforms_active():
        return None
    chosen = backends.choose(family, call.input.device, call)
    if chosen == "reference":
        return None
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return None if _needs_grad(plain) else "graph"
    return chosen


def differentiable(plain: tuple[bool, ...], *upstream: Tensor | None) -> bool:
    """Whether this backward must itself be differentiable or batched, or yield gradients that no kernel computes."""
    if torch.is_grad_enabled() or any(plain) or torch._C._are_functorch_transforms_active():
        return True
    return any(g is not None and torch._C._functorch.is_legacy_batchedtensor(g) for g in upstream)


def differentiate(
    formula: Callable[..., tuple[Tensor, ...]],
    inputs: tuple[Tensor | None, ...] | list[Tensor | None],
    needed: tuple[bool, ...],
    upstream: tuple[Tensor | None, ...],
) -> list[Tensor | None]:
    """Gradients by differentiating the reference formula, connected to the inputs where grad mode is on."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # A view of each input: the same tensor given as two arguments must get two gradients.
        copies = [_branch(t, create_graph, need) for t, need in zip(inputs, needed, strict=True)]
        results = zip(formula(*copies), upstream, strict=True)
        pairs = [(o, g) for o, g in results if g is not None and o.requires_grad]
    if not pairs:
        return [None] * len(inputs)
    wanted = [t for t, need in zip(copies, needed, strict=True) if need and t is not None]
    grads = iter(
        torch.autograd.grad(
            [o for o, _ in pairs],
            wanted,
            [g for _, g in pairs],
            create_graph=create_graph,
            allow_unused=True,
        )
    )
    return [next(grads) if need else None for need in needed]


def split_factor(args: Any, whole: bool) -> tuple[Any, float]:
    """The op's arguments with a factor of 1, and the factor, unless ``whole``: an op specialises a graph on its
    numbers, and a factor that divides by the batch size would have it compiled anew for each."""
    return (args, 1.0) if whole else (args._replace(factor=1.0), args.factor)


def is_differentiated(input: Tensor) -> bool:
    """Whether a call on ``input`` takes part in autograd, forward mode included: else its Function can be left out."""
    if input.requires_grad and torch.is_grad_enabled():
        return True
    return forward_ad._current_level >= 0


def is_known(condition: Any) -> bool:
    """Whether a condition holds; of symbolic sizes, whether it must: a comparison would bind a graph to one side."""
    return statically_known_true(condition) if torch.compiler.is_compiling() else bool(condition)


def _needs_grad(tensors: tuple[Tensor | None, ...]) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _branch(tensor: Tensor | None, create_graph: bool, needed: bool) -> Tensor | None:
    if tensor is None or not needed:
        return tensor
    return tensor.view_as(tensor) if create_graph else tensor.detach().requires_grad_()
