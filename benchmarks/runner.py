"""Runs one case: gate, interleaved timing, rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch

from benchmarks import gate, machine, stats, timing
from benchmarks.case import DTYPES, Candidate, Case, Inputs, Outputs, Step, Suite
from benchmarks.rows import Context, Row, device_times, failed_row, timed_row
from benchmarks.warm import forget_tuning

CONTROL = "eager again (A/A)"
MAX_COPIES = 16
Ready = list[tuple[Candidate, Step]]


@dataclass(frozen=True)
class Settings:
    """How a run measures."""

    device: str = "cpu"
    rounds: int = 7
    samples: int = 5
    threads: int = 2
    seed: int = 0
    compiled: bool = True
    retries: int = 0  # of a case whose A/A control was noisy
    malloc: str = "keep"  # "keep" freed pages, or the C library's "default"
    lean: bool = False  # without pyaegpu:reference, and pyaegpu:auto where stock PyTorch serves it: they are eager


@dataclass
class Runner:
    """Holds what a run measures once: the clock, the copy bandwidth, the facts that every row carries."""

    suite: Suite
    settings: Settings
    candidates: Callable[[Case], list[Candidate]] | None = None  # other than the suite's, for tests
    clock: timing.Clock = field(init=False)
    copy_gbs: float = field(init=False)
    matmul_gflops: dict[str, float] = field(init=False, default_factory=dict)  # by dtype, once one is needed
    facts: dict[str, machine.Fact] = field(init=False)

    def __post_init__(self) -> None:
        torch.set_num_threads(self.settings.threads)
        torch.manual_seed(self.settings.seed)  # of the noise that random ops draw
        kept = self.settings.malloc == "keep" and machine.keep_pages()
        if self.settings.device == "cuda":
            torch.backends.cudnn.benchmark = True
        if self.settings.compiled:
            forget_tuning()
        self.clock = timing.clock_for(self.settings.device)
        self.copy_gbs = timing.copy_bandwidth(self.settings.device, self.clock)
        self.facts = {**machine.facts(self.settings.device), "malloc": "keep" if kept else "default"}

    def run(self, case: Case) -> list[Row]:
        """One row per candidate and one of the A/A control; a noisy case is timed again, whatever its speeds were."""
        if self.settings.compiled:
            torch._dynamo.reset()  # else the cases of a suite run into its limit of recompilations
        ready, rows = self._gate(case)
        if not ready or ready[0][0].name != "eager":
            return rows
        for _ in range(self.settings.retries):
            timed = self._time(case, ready)
            if not any(row["noisy"] for row in timed):
                return timed + rows
        return self._time(case, ready) + rows

    def published_call(self, case: Case) -> Callable[[], None]:
        """The published candidate (eager where there is none) on one input set, waiting for the device."""
        candidates = self._candidates(case)
        candidate = next((one for one in candidates if one.published), candidates[0])
        inputs = self.suite.inputs(case, self.settings.device, self.settings.seed)
        subject = self._subject(case, candidate, candidate.make(), [inputs])

        def call() -> None:
            with candidate.scope():
                subject.calls[0]()
            if self.settings.device == "cuda":
                torch.cuda.synchronize()

        return call

    def _gate(self, case: Case) -> tuple[Ready, list[Row]]:
        """The candidates whose values and gradients are right, eager first, and the rows of the others."""
        ready: Ready = []
        rows: list[Row] = []
        seed = self.settings.seed + 1  # other values than the ones that are timed
        inputs = self.suite.inputs(case, self.settings.device, seed)
        judge = gate.Gate(self.suite, case, inputs)
        before = gate.snapshot(inputs)
        for candidate in self._candidates(case):
            try:
                if self.settings.lean and _is_eager(candidate, inputs):
                    continue
                step = candidate.make()
                with candidate.scope():
                    verdict = judge.verdict(candidate, _bind(candidate, step, inputs, case), inputs)
            except Exception as error:
                rows.append(self._failed(case, candidate, "error", f"{type(error).__name__}: {error}"))
                if not timing.answers(self.settings.device):
                    return [], rows
                continue
            written = gate.changed(inputs, before)
            if written:
                inputs = self.suite.inputs(case, self.settings.device, seed)
                verdict = gate.Verdict(False, math.inf, f"wrote to its inputs: {', '.join(written)}")
            if verdict.ok:
                ready.append((candidate, step))
            else:
                rows.append(self._failed(case, candidate, "wrong", verdict.reason))
        return ready, rows

    def _candidates(self, case: Case) -> list[Candidate]:
        settings = self.settings
        if self.candidates is not None:
            found = self.candidates(case)
        else:
            found = self.suite.candidates(case, settings.device, settings.compiled)
        return sorted(found, key=lambda candidate: candidate.name != "eager")

    def _time(self, case: Case, ready: Ready) -> list[Row]:
        settings = self.settings
        copies = self._copies(case)
        subjects = {candidate.name: self._subject(case, candidate, step, copies) for candidate, step in ready}
        subjects[CONTROL] = self._subject(case, *ready[0], copies)
        for subject in subjects.values():
            timing.calibrate(subject, self.clock)
        measured = timing.interleave(
            subjects, self.clock, rounds=settings.rounds, samples=settings.samples, seed=settings.seed
        )
        stock = [candidate.name for candidate, _ in ready if candidate.role == "stock"]
        work = self.suite.work(case)
        context = Context(
            case=case,
            work=work,
            copy_gbs=self.copy_gbs,
            matmul_gflops=self._matmul_rate(case.dtype) if work.matmul else None,
            facts=self.facts,
            measured=measured,
            best=min(stock, key=lambda name: _median(measured[name])),
            control=stats.speed_ratio(device_times(measured["eager"]), device_times(measured[CONTROL])),
            copies=len(copies),
        )
        every = [*(candidate for candidate, _ in ready), Candidate(CONTROL, "info", ready[0][0].make)]
        rows = []
        for candidate in every:
            row = timed_row(context, candidate, self._peak(subjects[candidate.name]))
            rows.append({**row, "served_by": _served_by(candidate, copies[0])})
        return rows

    def _matmul_rate(self, dtype: str) -> float:
        if dtype not in self.matmul_gflops:
            self.matmul_gflops[dtype] = timing.matmul_rate(self.settings.device, DTYPES[dtype], self.clock)
        return self.matmul_gflops[dtype]

    def _copies(self, case: Case) -> list[Inputs]:
        """Input sets to rotate among: one, or enough to hold twice the cache."""
        first = self.suite.inputs(case, self.settings.device, self.settings.seed)
        if not case.out_of_cache:
            return [first]
        size = sum(tensor.nbytes for tensor in first.values())
        count = max(2, math.ceil(2 * machine.cache_bytes(self.settings.device) / size))
        seeds = range(self.settings.seed + 2, self.settings.seed + 1 + min(count, MAX_COPIES))
        return [first, *(self.suite.inputs(case, self.settings.device, seed) for seed in seeds)]

    def _subject(self, case: Case, candidate: Candidate, step: Step, copies: list[Inputs]) -> timing.Subject:
        with candidate.scope():
            return timing.Subject([_bind(candidate, step, inputs, case) for inputs in copies], candidate.scope)

    def _peak(self, subject: timing.Subject) -> float | None:
        if self.settings.device != "cuda":
            return None
        with subject.scope():
            return timing.peak_mb(subject.calls[0])

    def _failed(self, case: Case, candidate: Candidate, status: str, reason: str) -> Row:
        return failed_row(case, candidate, self.facts, status, reason)


def _bind(candidate: Candidate, step: Step, inputs: Inputs, case: Case) -> Callable[[], Outputs]:
    call = partial(step, inputs if candidate.prepare is None else candidate.prepare(inputs))
    if not case.graph:
        return call
    replay = timing.capture(call)
    return lambda: replay()  # type: ignore[return-value]


def _served_by(candidate: Candidate, inputs: Inputs) -> str:
    if candidate.served_by is None:
        return candidate.name
    with candidate.scope():
        return candidate.served_by(inputs)


def _is_eager(candidate: Candidate, inputs: Inputs) -> bool:
    """Whether it is one of ours and yet only stock PyTorch's functions."""
    return candidate.role != "stock" and _served_by(candidate, inputs).startswith("reference")


def _median(rounds: list[list[timing.Sample]]) -> float:
    return stats.summarize(device_times(rounds)).median
