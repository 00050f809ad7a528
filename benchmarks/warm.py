"""Fills the compilers' caches on disk with what a run will need, several processes at once: nothing is timed or judged.

Inductor and Triton keep compiled kernels in TORCHINDUCTOR_CACHE_DIR and TRITON_CACHE_DIR. Which of its kernels is the
fastest Inductor finds out by timing them, wrongly so beside other processes: `forget_tuning` keeps that out of the
caches, so that the run tunes again, by itself, among kernels that are compiled.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks import timing
from benchmarks.case import Candidate, Case
from benchmarks.plan import Planned
from benchmarks.registry import SUITES
from benchmarks.suites.conv_transpose_shapes import UPSAMPLE
from benchmarks.suites.norm_act_shapes import DOWN_BLOCK

# Inductor has templates of ordinary convolutions only. It chooses among them and cuDNN's while it compiles a graph, so
# that a cached graph would keep the choice.
WITH_TEMPLATES = (UPSAMPLE, DOWN_BLOCK)
GRACE_S = 20.0  # for the cases that are running when the budget ends
DONE = ".done"
LOST = 4  # exit code: the device no longer answers


def forget_tuning() -> None:
    """Makes Inductor keep compiled kernels on disk, but not which of them it found to be the fastest."""
    from torch._inductor import config

    config.autotune_local_cache = False


def warm_case(name: str, case: Case, device: str, compiled: bool = True) -> list[str]:
    """Runs every candidate of a case once; why one failed, for each that did."""
    if compiled:
        torch._dynamo.reset()
    suite = SUITES[name]
    inputs = suite.inputs(case, device, seed=0)
    failed = []
    for candidate in suite.candidates(case, device, compiled):
        try:
            with candidate.scope(), _graph_cache(case, candidate):
                candidate.make()(inputs if candidate.prepare is None else candidate.prepare(inputs))
        except Exception as error:
            failed.append(f"{candidate.name}: {type(error).__name__}: {str(error)[:200]}")
    if device == "cuda" and timing.answers(device):
        torch.cuda.empty_cache()  # the other processes need it
    return failed


def warm(cases: Sequence[Planned], device: str, compiled: bool, budget_s: float, claims: Path) -> None:
    """Runs the cases that no other process has claimed in that folder, and prints what failed; starts none after the
    budget. Exit code 4 of the process: a kernel's fault took the device away."""
    began = time.monotonic()
    if compiled:
        forget_tuning()
    for place, (name, case) in enumerate(cases):
        if time.monotonic() - began > budget_s or not _claim(claims / str(place)):
            continue
        for line in warm_case(name, case, device, compiled):
            print(f"{case.id} {line}", flush=True)
        if not timing.answers(device):
            os._exit(LOST)
        (claims / f"{place}{DONE}").touch()


def supervise(arguments: Sequence[str], jobs: int, budget_s: float) -> int:
    """How many cases `jobs` processes of ``benchmarks.run`` with those arguments warmed; one that ends early is
    replaced. They are no forks or spawns of this one: Inductor's keys hold the name of the main module."""
    began = time.monotonic()
    with TemporaryDirectory(prefix="pyaegpu-warm-") as claims:
        command = [sys.executable, "-m", "benchmarks.run", *arguments, "--claims", claims]
        workers = [subprocess.Popen(command) for _ in range(jobs)]
        while any(worker.poll() is None for worker in workers) and time.monotonic() < began + budget_s + GRACE_S:
            time.sleep(0.1)
            late = time.monotonic() > began + budget_s
            workers = [subprocess.Popen(command) if _fell(worker) and not late else worker for worker in workers]
        for worker in workers:
            worker.kill()
            worker.wait()
        done = len(list(Path(claims).glob(f"*{DONE}")))
    print(f"warmed {done} cases in {time.monotonic() - began:.0f} s, {jobs} processes", flush=True)
    return done


def _fell(worker: subprocess.Popen[bytes]) -> bool:
    code = worker.poll()
    return code is not None and (code == LOST or code < 0)  # below 0: by a signal


def _claim(path: Path) -> bool:
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _graph_cache(case: Case, candidate: Candidate) -> AbstractContextManager[object]:
    if case.op not in WITH_TEMPLATES or candidate.name != "compile_max":
        return nullcontext()
    from torch._inductor import config

    return config.patch(fx_graph_cache=False)  # type: ignore[no-any-return]
