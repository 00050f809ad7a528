"""The timed call of a suite whose ops are differentiated: forward alone, or forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.case import Case, Inputs, Outputs, Step


def step(
    case: Case,
    run: Callable[..., Tensor],
    names: Sequence[str],
    others: Callable[[Inputs], Sequence[Tensor]],
    upstream: Callable[[Inputs, Tensor], Tensor | None],
) -> Step:
    """`run` on the inputs of those names, which get gradients in "fwd+bwd", and on `others`; `upstream` is the gradient
    at its result."""

    def forward(inputs: Inputs) -> Outputs:
        with torch.no_grad():
            return (run(*(inputs[name] for name in names), *others(inputs)),)

    def forward_backward(inputs: Inputs) -> Outputs:
        leaves = [inputs[name] for name in names]
        output = run(*leaves, *others(inputs))
        return output.detach(), *torch.autograd.grad(output, leaves, upstream(inputs, output))

    return forward if case.mode == "fwd" else forward_backward
