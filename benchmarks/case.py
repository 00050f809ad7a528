"""The words of the benchmark: a case is what is timed, a candidate who runs it, a suite both of a family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

Inputs = dict[str, Tensor]
Outputs = tuple[Tensor, ...]
Step = Callable[[Inputs], Outputs]
Role = Literal["ours", "stock", "info"]

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
MODES = ("fwd", "fwd+bwd")


@dataclass(frozen=True)
class Case:
    """One problem: op, shape, dtype, layout, mode and the op's options; equal on every candidate."""

    op: str
    shape: tuple[int, ...]
    dtype: str
    layout: str = "contiguous"
    mode: str = "fwd+bwd"
    options: tuple[tuple[str, str | int | float], ...] = ()
    graph: bool = False  # every candidate replayed from a CUDA graph
    out_of_cache: bool = False  # inputs rotate among copies that together exceed the cache

    @property
    def id(self) -> str:
        """A name that is unique in a suite and safe in a pytest id."""
        size = "x".join(map(str, self.shape))
        options = [f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in self.options]
        parts = [
            self.op,
            size,
            self.dtype,
            self.layout,
            self.mode,
            *options,
            *(["graph"] if self.graph else []),
        ]
        return "-".join(parts)

    def option(self, name: str) -> str | int | float:
        """The value of one option; KeyError where the case has none of that name."""
        return dict(self.options)[name]


@dataclass(frozen=True)
class Work:
    """What the case must do at least: floating-point operations, and bytes moved through memory.

    `terms` has, where an output is a sum, the products summed in an element of each.
    """

    flops: float
    bytes: float
    terms: tuple[int, ...] = ()
    matmul: bool = False  # whether the operations are those of matrix products


@dataclass(frozen=True)
class Candidate:
    """One way to run a case. `scope` is entered around the measurement, outside the timed region."""

    name: str
    role: Role
    make: Callable[[], Step]
    scope: Callable[[], AbstractContextManager[object]] = nullcontext
    published: bool = False  # never slower than eager, or the run fails
    served_by: Callable[[Inputs], str] | None = None  # which backend a choosing candidate takes
    given: Callable[[], Step] | None = None  # of a random op, with the noise of the reference; never timed
    prepare: Callable[[Inputs], Inputs] | None = None  # the same values as it takes them; never timed


class Suite(Protocol):
    """One family of ops: its cases, their inputs and work, the candidates, and the float64 reference."""

    name: str

    def cases(self, device: str, size: str) -> list[Case]:
        """The cases of a device ("cpu" | "cuda"); size "full" or "tiny" (seconds in all, for tests)."""
        ...

    def inputs(self, case: Case, device: str, seed: int) -> Inputs:
        """Fresh random tensors; those that want a gradient require it."""
        ...

    def work(self, case: Case) -> Work:
        """Floating-point operations and the fewest bytes of one call."""
        ...

    def candidates(self, case: Case, device: str, compiled: bool) -> list[Candidate]:
        """Everything that runs this case; exactly one is named "eager"."""
        ...

    def reference(self, case: Case, inputs: Inputs) -> Outputs:
        """Values and gradients in float64 from the same inputs."""
        ...


@runtime_checkable
class CheckedSuite(Suite, Protocol):
    """A suite that looks at the timed calls itself: of candidates that draw noise only those that can be given the
    reference's are compared with it, and the gate, which compares real numbers, cannot judge integers."""

    def check(self, case: Case, inputs: Inputs, draws: Sequence[Outputs]) -> str:
        """What is wrong with the outputs of two calls as they are timed, each with its own noise if it draws any; "" if
        nothing is."""
        ...
