"""The correctness gate: no speed is reported for a result that is not right.

A candidate passes when each output's error against float64 is at most twice eager's in the same dtype, plus a
floor of two units of rounding, and its inputs are left as they were. To a sum of K products come sqrt(K) roundings of
float32, the usual error of a plain loop: how near to it eager comes is a matter of the library's blocking, and differs
between memory formats. One that draws noise is compared so with the noise given, and its own draws pass the suite's
check.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.case import Candidate, Case, CheckedSuite, Inputs, Outputs, Suite

FLOOR_EPS = 2.0
STOCK_FACTOR = 2.0


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate may be timed, its largest error relative to what is allowed, and why not."""

    ok: bool
    error: float
    reason: str = ""


class Gate:
    """Judges the candidates of one case; the first whose outputs can be compared, eager, is what stock's error is."""

    def __init__(self, suite: Suite, case: Case, inputs: Inputs) -> None:
        self._suite, self._case = suite, case
        self._reference = suite.reference(case, inputs)
        self._eager: Outputs | None = None

    def verdict(self, candidate: Candidate, call: Callable[[], Outputs], inputs: Inputs) -> Verdict:
        """Of a candidate whose timed call on `inputs` is `call`."""
        outputs, fault = self._outcome(candidate, call, inputs)
        if fault:
            return Verdict(False, math.inf, fault)
        if outputs is None:
            return Verdict(True, 0.0)
        self._eager = self._eager or outputs
        terms = self._suite.work(self._case).terms
        return judge(outputs, self._eager, self._reference, strict=candidate.role != "info", terms=terms)

    def _outcome(self, candidate: Candidate, call: Callable[[], Outputs], inputs: Inputs) -> tuple[Outputs | None, str]:
        """What to compare with the reference, None where nothing can be, and what the suite finds wrong."""
        if not isinstance(self._suite, CheckedSuite):
            return call(), ""
        first = tuple(output.clone() for output in call())  # the replay of a CUDA graph writes it anew
        fault = self._suite.check(self._case, inputs, (first, call()))
        return None if candidate.given is None else candidate.given()(inputs), fault


def error_of(output: Tensor, reference: Tensor) -> float:
    """Largest |out - ref| / (|ref| + mean|ref|): one wrong element shows. Infinite for NaN or Inf."""
    if not bool(torch.isfinite(output).all()):
        return math.inf
    if reference.numel() == 0:
        return 0.0
    size = reference.abs()
    difference = (output.double() - reference).abs()
    # 0/0 is an exact zero, not an error
    share = torch.where(difference == 0, 0.0, difference / (size + size.mean()))
    return float(share.max())


def judge(
    outputs: Outputs,
    eager: Outputs,
    reference: Outputs,
    *,
    strict: bool = True,
    terms: tuple[int, ...] = (),
) -> Verdict:
    """Compares values and gradients by the 2x rule; `strict=False` only asks for finite numbers."""
    if len(outputs) != len(reference):
        return Verdict(False, math.inf, f"{len(outputs)} outputs, expected {len(reference)}")
    worst = 0.0
    for place, (output, stock, expected) in enumerate(zip(outputs, eager, reference, strict=True)):
        if output.shape != expected.shape:
            reason = f"output {place} has shape {tuple(output.shape)}, expected {tuple(expected.shape)}"
            return Verdict(False, math.inf, reason)
        error = error_of(output, expected)
        if not strict:
            error = 0.0 if math.isfinite(error) else math.inf
        floor = FLOOR_EPS * torch.finfo(output.dtype).eps
        if terms:
            summed_in = torch.promote_types(output.dtype, torch.float32)
            floor += math.sqrt(terms[place]) * torch.finfo(summed_in).eps
        allowed = STOCK_FACTOR * error_of(stock, expected) + floor
        if not math.isfinite(error) or error > allowed:
            return Verdict(False, error, f"output {place}: error {error:.3g}, allowed {allowed:.3g}")
        worst = max(worst, error)
    return Verdict(True, worst)


def snapshot(inputs: Inputs) -> Inputs:
    """Copies, to see afterwards whether a candidate wrote to its inputs."""
    return {name: tensor.detach().clone() for name, tensor in inputs.items()}


def changed(inputs: Inputs, before: Inputs) -> list[str]:
    """Names of the inputs that are not bit-equal to their copies."""
    return [name for name, tensor in inputs.items() if not torch.equal(tensor.detach(), before[name])]
