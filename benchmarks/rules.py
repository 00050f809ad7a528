"""Who is the fastest at what: ``python -m benchmarks.rules FILE...``, from which `pyaegpu.measured` is written.

A line for each op, memory format, dtype and mode, and below it one per size: the winner, what a rule can name, how fast
each backend of pyaegpu and the best stock candidate are against eager. A backend whose 95 % upper bound is under 0.97,
in device or in wall time, may not be chosen: it is in parentheses.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks import results
from benchmarks.rows import Row
from benchmarks.stats import SLOWEST

BACKENDS = ("cuda", "triton", "cpu")
TOLD = ("layer", "kind", "indices", "activation", "statistics", "kernel", "g")  # options that tell a case from others
OF_POOLED = ("max_unpool2d", "nearest_unpool2d", "bed_of_nails2d")  # ops that are given the small side of their shape
Group = tuple[str, ...]


def group_of(row: Row) -> Group:
    """Card, op, memory format, dtype and mode."""
    return (row["card"], row["op"], row["layout"], row["dtype"], row["mode"], *["graph"] * row["graph"])


def size_of(row: Row) -> str:
    """What a rule bounds: elements and channels of the first tensor, channels of a convolution's result."""
    shape, options = row["shape"], row["options"]
    elements = round(row["bytes"] / options["bytes"]) if row["op"] in OF_POOLED else math.prod(shape)
    outputs = f" outputs={options['out']}" if "out" in options else ""
    return f"elements={elements} channels={shape[1]}{outputs}"


def may_serve(row: Row) -> bool:
    """Whether the backend's row is one that could be published."""
    return bool(row["vs_eager"]["high"] >= SLOWEST and row["wall_vs_eager"]["high"] >= SLOWEST)


def winner(rows: Sequence[Row]) -> str:
    """The fastest of those that may serve, on the device; "eager" where none is faster."""
    ours = {row["candidate"].partition(":")[2]: row for row in rows if _is_backend(row) and may_serve(row)}
    fastest = max(ours, key=lambda name: ours[name]["vs_eager"]["value"], default="eager")
    return fastest if fastest != "eager" and ours[fastest]["vs_eager"]["value"] > 1 else "eager"


def lines(rows: Iterable[Row]) -> Iterator[str]:
    """The groups and their sizes, the smallest first."""
    cases: dict[Group, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if "median_us" in row:
            cases[group_of(row)][row["case"]].append(row)
    for group, by_case in sorted(cases.items()):
        yield " ".join(group)
        for found in sorted(by_case.values(), key=lambda each: (each[0]["bytes"], each[0]["case"])):
            yield "  " + _line(found)


def _line(rows: Sequence[Row]) -> str:
    first = rows[0]
    told = [f"{key}={first['options'][key]}" for key in TOLD if key in first["options"]]
    stock = max(rows, key=lambda row: row["vs_eager"]["value"] if row["role"] == "stock" else 0)
    parts = [_ratio(row) for row in rows if _is_backend(row)]
    if stock["candidate"] != "eager":
        parts.append(f"{stock['candidate']} {stock['vs_eager']['value']:.2f}x")
    noisy = " (noisy)" if first["noisy"] else ""
    case = " ".join(["x".join(map(str, first["shape"])), *told])
    return f"{winner(rows):7} {size_of(first)}: {', '.join(parts)}; {case}{noisy}"


def _ratio(row: Row) -> str:
    ratio, name = row["vs_eager"], row["candidate"].partition(":")[2]
    served = "" if row["served_by"] == name else f" ({row['served_by']})"
    text = f"{name}{served} {ratio['value']:.2f}x [{ratio['low']:.2f}, {ratio['high']:.2f}]"
    return text if may_serve(row) else f"({text}, wall {row['wall_vs_eager']['value']:.2f}x)"


def _is_backend(row: Row) -> bool:
    return row["role"] == "ours" and row["candidate"].partition(":")[2] in BACKENDS


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the groups."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rules", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="result files of benchmarks.run")
    options = parser.parse_args(arguments)
    try:
        rows = results.read(options.files)
    except ValueError as error:
        parser.error(str(error))
    print("\n".join(lines(rows)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
