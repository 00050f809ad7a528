"""Measures a suite: ``python -m benchmarks.run --suite vae_loss --device cpu --out benchmarks/results/cpu``.

Writes SUITE.json and SUITE.md (SUITE-1of2.json and its table for a shard) after every case. Exit code 1: a row failed
(wrong, broken, slower than eager); 2: nothing of pyaegpu was measured, or bad arguments; 3: the time budget ended
before the last case.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks import ours, results
from benchmarks.case import Case
from benchmarks.registry import SUITES, get_suite
from benchmarks.report import report, table
from benchmarks.rows import Row, failures
from benchmarks.runner import Runner, Settings

FAILED, NOT_OURS, UNFINISHED = 1, 2, 3


def select(cases: list[Case], only: str, shard: tuple[int, int]) -> list[Case]:
    """The cases whose id holds `only`, dealt out to `shard` = (which, of how many), from 1."""
    which, count = shard
    return [case for case in cases if only in case.id][which - 1 :: count]


def parse_shard(text: str) -> tuple[int, int]:
    """ "2/3" as (2, 3)."""
    try:
        which, count = (int(part) for part in text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected I/N such as 1/2, got {text!r}") from None
    if not 1 <= which <= count:
        raise argparse.ArgumentTypeError(f"expected 1 <= I <= N, got {text!r}")
    return which, count


def measure(runner: Runner, cases: list[Case], budget_s: float, path: Path) -> tuple[list[Row], int]:
    """All rows, and how many cases the time budget left out."""
    rows: list[Row] = []
    began = time.monotonic()
    for done, case in enumerate(cases):
        if time.monotonic() - began > budget_s:
            return rows, len(cases) - done
        print(f"[{done + 1}/{len(cases)}] {case.id}", file=sys.stderr, flush=True)
        rows += runner.run(case)
        save(path, rows, runner, left=len(cases) - done - 1)
    return rows, 0


def save(path: Path, rows: list[Row], runner: Runner, left: int) -> None:
    """SUITE.json and, beside it, SUITE.md."""
    run = {
        "settings": asdict(runner.settings),
        "copy_gbs": runner.copy_gbs,
        "missing_backends": ours.missing(runner.settings.device, runner.suite.name),
        "cases_left": left,
    }
    results.write(path, rows, run)
    results.write_text(path.with_suffix(".md"), report(rows, everything=True))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--suite", choices=sorted(SUITES), default="vae_loss")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    made.add_argument("--size", choices=("full", "tiny"), default="full")
    made.add_argument("--only", default="", metavar="TEXT", help="only cases whose name holds TEXT")
    made.add_argument("--shard", type=parse_shard, default=(1, 1), metavar="I/N", help="every N-th case from the I-th")
    made.add_argument("--budget", type=float, default=float("inf"), metavar="SECONDS", help="start no case after this")
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
    made.add_argument("--list", action="store_true", help="print the cases and stop")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    command = parser()
    options = command.parse_args(arguments)
    suite = get_suite(options.suite)
    cases = select(suite.cases(options.device, options.size), options.only, options.shard)
    if options.list:
        print("\n".join(case.id for case in cases))
        return 0
    if not cases:
        command.error(f"no case holds {options.only!r} in this shard; --list shows them")
    if options.device == "cuda" and not torch.cuda.is_available():
        command.error("--device cuda: torch sees no CUDA device here")
    settings = Settings(
        device=options.device,
        rounds=options.rounds,
        samples=options.samples,
        threads=options.threads,
        seed=options.seed,
        compiled=not options.no_compile,
        retries=options.retries,
        malloc=options.malloc,
    )
    runner = Runner(suite, settings)
    which, count = options.shard
    path = options.out / (f"{suite.name}.json" if count == 1 else f"{suite.name}-{which}of{count}.json")
    rows, left = measure(runner, cases, options.budget, path)
    return _summary(rows, left, path)


def _summary(rows: list[Row], left: int, path: Path) -> int:
    ours_rows = [row for row in rows if row["role"] == "ours"]
    print(table(ours_rows))
    print(f"\n{path} and {path.with_suffix('.md').name}: {len(rows)} rows, copy {_copy(rows)}")
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
