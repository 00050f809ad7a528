"""compute-sanitizer over the small cases of every kernel, several processes at once: ``python -m benchmarks.sanitize``.

memcheck looks at every family and backend, racecheck at the kernels that use shared memory. A line per tool, backend
and family says what was found; the tools' own output goes to --log.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ours
from benchmarks.registry import SUITES
from benchmarks.smoke import DTYPES

TOOL = "compute-sanitizer"
# Triton's kernels that sum across warps or keep tiles, and all of csrc/cuda.
SHARED = {"cuda": tuple(SUITES), "triton": ("conv_transpose", "conv_transpose_loss", "norm_act")}
FOUND = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)")
REFUSED = re.compile(r".*(?:not supported|Failed to initialize|Unable to find).*", re.IGNORECASE)
CLEAN, SKIPPED = "clean", 77
# Libraries ask the driver for what it may lack: a call of its API that fails is no fault of a kernel. The tool waits
# for its target, which calls CUDA only when torch is imported, and prints so many errors of a process.
OPTIONS = ("--report-api-errors", "no", "--launch-timeout", "0", "--print-limit", "100", "--error-exitcode", "9")
EXCERPTS, LINES = 8, 8  # of what was found, as many lines of each


@dataclass(frozen=True)
class Task:
    """One process under the tool."""

    tool: str
    backend: str
    family: str
    dtype: str

    def command(self) -> list[str]:
        """The tool and what it watches."""
        smoke = ["-m", "benchmarks.smoke", "--backend", self.backend, "--family", self.family, "--dtype", self.dtype]
        return [TOOL, "--tool", self.tool, *OPTIONS, sys.executable, *smoke]


def tasks() -> list[Task]:
    """The tool's processes: all of a dtype before the next one, for when time ends, and memcheck's first."""
    there = [
        (backend, family)
        for backend in ("cuda", "triton")
        for family in SUITES
        if backend not in ours.missing("cuda", family)
    ]
    memory = [Task("memcheck", *each, dtype) for each in there for dtype in DTYPES]
    races = [Task("racecheck", *each, dtype) for each in there for dtype in DTYPES[:2] if each[1] in SHARED[each[0]]]
    return sorted(memory + races, key=lambda task: DTYPES.index(task.dtype))


def verdict(returncode: int, output: str) -> str:
    """What a process found: "clean", the number of errors, the tool's refusal, or that the check itself failed."""
    counts = [int(count) for count in FOUND.findall(output)]
    if any(counts):
        return f"{sum(counts)} found"
    if counts and returncode == 0:
        return CLEAN
    refusal = REFUSED.search(output)
    return f"refused: {refusal[0].strip()[:120]}" if refusal and not counts else f"exit code {returncode}"


def run(task: Task, deadline: float) -> tuple[Task, str, str]:
    """The task with its verdict and output; one that would begin or end after the deadline says so."""
    left = deadline - time.monotonic()
    if left <= 0:
        return task, "no time left", ""
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # else neighbours in a block look allocated
    try:
        done = subprocess.run(task.command(), env=environment, capture_output=True, text=True, timeout=left)
    except subprocess.TimeoutExpired as stopped:
        return task, "no time left", str(stopped.stdout or "")
    return task, verdict(done.returncode, done.stdout + done.stderr), done.stdout + done.stderr


def table(found: Sequence[tuple[Task, str]]) -> list[str]:
    """A line per tool, backend and family: dtypes that are clean, and what the others have."""
    groups: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for task, said in found:
        groups.setdefault((task.tool, task.backend, task.family), []).append((task.dtype, said))
    lines = []
    for key, each in groups.items():
        clean = [dtype for dtype, said in each if said == CLEAN]
        others = [f"{dtype}: {said}" for dtype, said in each if said != CLEAN]
        said = [*([f"clean ({', '.join(clean)})"] if clean else []), *others]
        lines.append(f"{key[0]:10}{key[1]:8}{key[2]:22}{'; '.join(said)}")
    return lines


def excerpts(done: Sequence[tuple[Task, str, str]]) -> list[str]:
    """The beginning of what the tool says of the first few families in which it found something."""
    shown: dict[tuple[str, str, str], list[str]] = {}
    for task, said, output in done:
        if said != CLEAN and output:
            lines = output.splitlines()
            told = [line for line in lines if line.startswith("=========") and "COMPUTE-SANITIZER" not in line]
            own = [line for line in lines if not line.startswith("=========")]  # what the checked program says
            found = told[:LINES] if said.endswith(" found") else (own or lines)[-LINES:]
            shown.setdefault((task.tool, task.backend, task.family), [f"-- {task}", *found])
    return [line for lines in list(shown.values())[:EXCERPTS] for line in lines]


def main(arguments: Sequence[str] | None = None) -> int:
    """0: clean; 1: something was found, or not looked at; 77: the tool cannot run here."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sanitize", description=__doc__)
    parser.add_argument("--jobs", type=int, default=4, help="processes at once (default 4)")
    parser.add_argument(
        "--budget", type=float, default=3600.0, metavar="SECONDS", help="stop after this (default 3600)"
    )
    parser.add_argument("--log", type=Path, help="the output of every process")
    options = parser.parse_args(arguments)
    deadline, wanted = time.monotonic() + options.budget, tasks()
    if not wanted:
        print(f"no kernels to look at: {ours.missing('cuda', 'vae_loss')}")
        return SKIPPED
    with ThreadPoolExecutor(options.jobs) as pool:
        done = list(pool.map(lambda task: run(task, deadline), wanted))
    if options.log:
        options.log.write_text("\n".join(f"== {task}: {said}\n{output}" for task, said, output in done))
    if all(said.startswith("refused") for _, said, _ in done):
        print(f"{TOOL} cannot run here, {done[0][1]}")
        return SKIPPED
    print("\n".join([*excerpts(done), *table([each[:2] for each in done])]))
    return int(any(said != CLEAN for _, said, _ in done))


if __name__ == "__main__":
    raise SystemExit(main())
