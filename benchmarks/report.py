"""Result files as a markdown table: ``python -m benchmarks.report FILE... [--all | --means] [--out FILE.md]``."""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks import results
from benchmarks.rows import Row, failures
from benchmarks.stats import geometric_mean

HEADER = (
    "case",
    "candidate",
    "median µs (p20 to p80)",
    "vs eager [95 %]",
    "vs best stock",
    "GB/s",
    "of copy",
    "TFLOP/s",
    "of matmul",
    "wall µs (vs eager)",
    "host µs",
    "peak MB",
    "status",
)


def report(rows: Sequence[Row], *, everything: bool = False) -> str:
    """Where and with what it was measured, the table, geometric means, failures."""
    parts = [_provenance(rows), table(rows, everything=everything), geometric_means(rows)]
    failed = failures(rows)
    if failed:
        parts.append("\n".join(["Failed:", *(f"- {line}" for line in failed)]))
    return "\n\n".join(part for part in parts if part) + "\n"


def table(rows: Iterable[Row], *, everything: bool = False) -> str:
    """One line per row; without `everything`, informational candidates are left out."""
    shown = [row for row in rows if everything or row["role"] != "info" or row["status"] != "ok"]
    return markdown(HEADER, [_cells(row) for row in shown])


def geometric_means(rows: Iterable[Row]) -> str:
    """Per op, mode and pyaegpu backend, over its timed rows: speed vs eager and vs the best stock."""
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row["role"] == "ours" and "median_us" in row:
            groups[row["op"], row["mode"], row["candidate"]].append(row)
    header = ("op", "mode", "candidate", "rows", "vs eager", "vs best stock")
    lines = [
        (*key, str(len(group)), _mean(group, "vs_eager"), _mean(group, "vs_best"))
        for key, group in sorted(groups.items())
    ]
    return "Geometric means:\n\n" + markdown(header, lines) if lines else ""


def _mean(group: Sequence[Row], field: str) -> str:
    return f"{geometric_mean(row[field]['value'] for row in group):.2f}x"


def _cells(row: Row) -> tuple[str, ...]:
    if "median_us" not in row:
        reason = row["reason"].replace("|", "/").replace("\n", " ")[:120]
        return (row["case"], row["candidate"], *["-"] * (len(HEADER) - 3), f"{row['status']}: {reason}")
    ratio, wall = row["vs_eager"], row["wall_vs_eager"]
    best = f"{row['vs_best']['value']:.2f}x" + ("" if row["best"] == "eager" else f" ({row['best']})")
    return (
        row["case"],
        _candidate(row),
        f"{_number(row['median_us'])} ({_number(row['p20_us'])} to {_number(row['p80_us'])})",
        f"{ratio['value']:.2f}x [{ratio['low']:.2f}, {ratio['high']:.2f}]",
        best,
        _number(row["gbs"]),
        _percent(row["copy_share"]),
        "-" if row.get("matmul_share") is None else f"{row['gflops'] / 1e3:.3g}",
        _percent(row.get("matmul_share")),  # files of before this column have none
        f"{_number(row['wall_us'])} ({wall['value']:.2f}x)",
        _number(row["host_us"]),
        "-" if row["peak_mb"] is None else _number(row["peak_mb"]),
        row["status"] + (" (noisy)" if row["noisy"] else ""),
    )


def _candidate(row: Row) -> str:
    """The name; `pyaegpu:auto` with the backend that it took."""
    chosen = row["role"] == "ours" and not row["candidate"].endswith(f":{row['served_by']}")
    return f"{row['candidate']} ({row['served_by']})" if chosen else row["candidate"]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0 or not math.isfinite(value):
        return str(value)
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(decimals, 3)}f}"


def _provenance(rows: Sequence[Row]) -> str:
    seen: dict[str, None] = {}
    for row in rows:
        dirty = " (modified)" if row["dirty"] else ""
        versions = f"torch {row['torch']}, triton {row['triton']}, CUDA {row['cuda']}, cuDNN {row['cudnn']}"
        machine = f"{row['card']}, {row['threads']} threads, malloc {row['malloc']}"
        seen[f"{machine}; {versions}; commit {row['commit'][:12]}{dirty}; {row['date']}"] = None
    return "\n\n".join(seen)


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table of those cells."""
    body = ["| " + " | ".join(cells) + " |" for cells in lines]
    return "\n".join(["| " + " | ".join(header) + " |", "|" + "---|" * len(header), *body])


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the report, or writes it to --out."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="result files of benchmarks.run")
    parser.add_argument("--all", action="store_true", help="also informational candidates and the A/A control")
    parser.add_argument("--means", action="store_true", help="only the geometric means")
    parser.add_argument("--out", type=Path, help="write the markdown here instead of printing it")
    options = parser.parse_args(arguments)
    try:
        rows = results.read(options.files)
    except ValueError as error:
        parser.error(str(error))
    text = f"{geometric_means(rows)}\n" if options.means else report(rows, everything=options.all)
    if options.out:
        results.write_text(options.out, text)
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
