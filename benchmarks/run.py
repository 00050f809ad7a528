"""Measures suites: ``python -m benchmarks.run --suite vae_loss --device cpu --out benchmarks/results/cpu``.

Writes SUITE.json after every case, SUITE.md at the end (SUITE-1of2.json and its table for a shard). Exit code 1: a row
failed (wrong, broken, slower than eager); 2: nothing of pyaegpu was measured, or bad arguments; 3: the time budget
ended before the last case; 4: the device stopped answering, or a case took too long: start again with --resume.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from threading import Timer
from typing import Any

import torch

from benchmarks import machine, ours, timing
from benchmarks.case import Case
from benchmarks.plan import Planned, plan
from benchmarks.record import Record
from benchmarks.registry import SUITES
from benchmarks.report import table
from benchmarks.rows import Row, failures
from benchmarks.runner import Runner, Settings
from benchmarks.tiers import TIERS
from benchmarks.warm import LOST, supervise, warm

FAILED, NOT_OURS, UNFINISHED = 1, 2, 3


def parse_shard(text: str) -> tuple[int, int]:
    """ "2/3" as (2, 3)."""
    try:
        which, count = (int(part) for part in text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected I/N such as 1/2, got {text!r}") from None
    if not 1 <= which <= count:
        raise argparse.ArgumentTypeError(f"expected 1 <= I <= N, got {text!r}")
    return which, count


class Measurement:
    """Runs planned cases and keeps their rows, one file per suite."""

    def __init__(self, cases: Sequence[Planned], settings: Settings, options: argparse.Namespace) -> None:
        self.settings, self._options = settings, options
        names = dict.fromkeys(name for name, _ in cases)
        self.records = {name: Record(_path(name, options), resume=options.resume) for name in names}
        self._runners: dict[str, Runner] = {}
        self._left = {name: sum(name == other for other, _ in cases) for name in names}

    def run(self, cases: Sequence[Planned]) -> int:
        """How many cases the time budget left out."""
        began = time.monotonic()
        for done, (name, case) in enumerate(cases):
            record = self.records[name]
            self._left[name] -= 1
            if record.ended_in(case):
                record.give_up(case, self._facts(), self._run(name), "the process ended")
            if record.has(case):
                continue
            if time.monotonic() - began > self._options.budget:
                return len(cases) - done
            print(f"[{done + 1}/{len(cases)}] {case.id}", file=sys.stderr, flush=True)
            self._measure(name, case)
        return 0

    def write_tables(self) -> None:
        """SUITE.md of every suite."""
        for record in self.records.values():
            if record.rows:
                record.write_table()

    def _measure(self, name: str, case: Case) -> None:
        record = self.records[name]
        record.begin(case)
        with _ended_after(self._options.case_limit):
            try:
                record.add(self._runner(name).run(case), self._run(name))
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                record.give_up(case, self._facts(), self._run(name), reason)
        if not timing.answers(self.settings.device):
            print("the device no longer answers", file=sys.stderr, flush=True)
            os._exit(LOST)

    def _runner(self, name: str) -> Runner:
        if name not in self._runners:
            self._runners[name] = Runner(SUITES[name], self.settings)
        return self._runners[name]

    def _facts(self) -> dict[str, machine.Fact]:
        return {**machine.facts(self.settings.device), "malloc": self.settings.malloc}

    def _run(self, name: str) -> dict[str, Any]:
        runner = self._runners.get(name)
        return {
            "settings": asdict(self.settings),
            "copy_gbs": None if runner is None else runner.copy_gbs,
            "missing_backends": ours.missing(self.settings.device, name),
            "cases_left": self._left[name],
        }


def _path(name: str, options: argparse.Namespace) -> Path:
    which, count = options.shard
    return Path(options.out) / (f"{name}.json" if count == 1 else f"{name}-{which}of{count}.json")


@contextmanager
def _ended_after(seconds: float) -> Iterator[None]:
    """Ends the process where the body takes longer: a kernel that hangs cannot be interrupted."""
    if seconds == float("inf"):
        yield
        return

    def end() -> None:
        faulthandler.dump_traceback(all_threads=True)
        os._exit(LOST)

    watch = Timer(seconds, end)
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--suite", choices=[*sorted(SUITES), "all"], nargs="+", default=["vae_loss"])
    made.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--out", type=Path, metavar="DIR", help="folder of the results")
    made.add_argument("--size", choices=("full", "tiny"), default="full")
    made.add_argument("--tier", choices=TIERS, default="all", help="what a first measurement takes, or the rest")
    made.add_argument("--only", default="", metavar="TEXT", help="only cases whose name holds TEXT")
    made.add_argument("--shard", type=parse_shard, default=(1, 1), metavar="I/N", help="every N-th case from the I-th")
    made.add_argument("--budget", type=float, default=float("inf"), metavar="SECONDS", help="start no case after this")
    made.add_argument("--case-limit", type=float, default=float("inf"), metavar="SECONDS", help="end a case that hangs")
    made.add_argument("--resume", action="store_true", help="go on where a process with the same arguments ended")
    made.add_argument("--warm", action="store_true", help="measure nothing: compile all of it, into the caches on disk")
    made.add_argument("--jobs", type=int, default=1, metavar="N", help="processes of --warm (default 1)")
    made.add_argument("--rounds", type=int, default=7, help="interleaved rounds, at least 5 to publish (default 7)")
    made.add_argument("--samples", type=int, default=5, help="samples per candidate and round (default 5)")
    made.add_argument("--retries", type=int, default=1, help="of a case whose A/A control is noisy (default 1)")
    made.add_argument("--threads", type=int, default=2, help="CPU threads of both sides (default 2)")
    made.add_argument(
        "--malloc",
        choices=("keep", "default"),
        default="keep",
        help="keep freed pages, or as the C library does",
    )
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--no-compile", action="store_true", help="leave torch.compile out (not for publication)")
    made.add_argument("--claims", type=Path, help=argparse.SUPPRESS)  # what processes of --warm share
    made.add_argument("--lean", action="store_true", help="leave out pyaegpu's candidates that are stock PyTorch")
    made.add_argument("--list", action="store_true", help="print the cases and stop")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    command = parser()
    options = command.parse_args(arguments)
    suites = list(SUITES) if "all" in options.suite else options.suite
    cases = plan(suites, options.device, options.size, options.tier, options.only, options.shard)
    if options.list:
        print("\n".join(case.id for _, case in cases))
        return 0
    if not cases:
        command.error(f"no case holds {options.only!r} in this shard; --list shows them")
    if options.device == "cuda" and not torch.cuda.is_available():
        command.error("--device cuda: torch sees no CUDA device here")
    if options.warm:
        return _warm(cases, options, sys.argv[1:] if arguments is None else arguments)
    if options.out is None:
        command.error("a measurement needs --out DIR")
    measurement = Measurement(cases, _settings(options), options)
    try:
        left = measurement.run(cases)
    finally:
        measurement.write_tables()
    return _summary(measurement.records, left)


def _warm(cases: Sequence[Planned], options: argparse.Namespace, arguments: Sequence[str]) -> int:
    if options.claims is None:
        return 0 if supervise(arguments, options.jobs, options.budget) else NOT_OURS
    torch.set_num_threads(options.threads)  # Inductor's keys hold the number
    warm(cases, options.device, not options.no_compile, options.budget, options.claims)
    return 0


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(
        device=options.device,
        rounds=options.rounds,
        samples=options.samples,
        threads=options.threads,
        seed=options.seed,
        compiled=not options.no_compile,
        retries=options.retries,
        malloc=options.malloc,
        lean=options.lean,
    )


def _summary(records: dict[str, Record], left: int) -> int:
    rows = [row for record in records.values() for row in record.rows]
    ours_rows = [row for row in rows if row["role"] == "ours"]
    print(table(ours_rows))
    for record in records.values():
        count, table_name = len(record.rows), record.path.with_suffix(".md").name
        print(f"\n{record.path} and {table_name}: {count} rows, copy {_copy(record.rows)}")
    noisy = sorted({row["case"] for row in rows if row.get("noisy")})
    if noisy:
        print(f"NOISY, not for publication: {', '.join(noisy)}")
    failed = failures(rows)
    for line in failed:
        print(f"FAILED {line}")
    if left:
        print(f"UNFINISHED: {left} cases left when the time budget ended")
    if failed:
        return FAILED
    if not any("median_us" in row for row in ours_rows):
        print("nothing of pyaegpu was measured: it cannot be imported here, or has no backend")
        return NOT_OURS
    return UNFINISHED if left else 0


def _copy(rows: list[Row]) -> str:
    known = [row["copy_gbs"] for row in rows if "copy_gbs" in row]
    return f"{known[0]:.3g} GB/s" if known else "not measured"


if __name__ == "__main__":
    raise SystemExit(main())
