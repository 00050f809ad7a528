"""Result rows: what is written per case and candidate, and when a row fails."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import stats
from benchmarks.case import Candidate, Case, Work
from benchmarks.machine import Fact
from benchmarks.timing import Sample

Row = dict[str, Any]
Measured = dict[str, list[list[Sample]]]


@dataclass(frozen=True)
class Context:
    """What the rows of one case share."""

    case: Case
    work: Work
    copy_gbs: float
    facts: dict[str, Fact]
    measured: Measured
    best: str  # the fastest right stock candidate
    control: stats.Ratio  # of eager timed a second time
    copies: int
    matmul_gflops: float | None = None  # of a large product, where the case's operations are those of products


def device_times(rounds: list[list[Sample]]) -> list[list[float]]:
    """Microseconds on the device, by round."""
    return _pick(rounds, "device")


def timed_row(context: Context, candidate: Candidate, peak_mb: float | None) -> Row:
    """The row of a candidate that passed the gate and was timed."""
    name = candidate.name
    own = context.measured[name]
    times = stats.summarize(device_times(own))
    vs_eager = stats.speed_ratio(*_pair(context, "eager", name, "device"))
    wall_vs_eager = stats.speed_ratio(*_pair(context, "eager", name, "wall"))
    vs_best = stats.speed_ratio(*_pair(context, context.best, name, "device"))
    gbs = context.work.bytes / times.median / 1e3
    gflops = context.work.flops / times.median / 1e3
    slow = stats.too_slow(vs_eager) or stats.too_slow(wall_vs_eager)
    return {
        **_head(context.case, candidate),
        "status": _status(candidate, slow),
        "reason": _slow_by(vs_eager, wall_vs_eager) if slow and candidate.role == "ours" else "",
        "median_us": times.median,
        "p20_us": times.p20,
        "p80_us": times.p80,
        "host_us": stats.summarize(_pick(own, "host")).median,
        "wall_us": stats.summarize(_pick(own, "wall")).median,
        "vs_eager": asdict(vs_eager),
        "wall_vs_eager": asdict(wall_vs_eager),
        "vs_best": asdict(vs_best),
        "best": context.best,
        "aa": asdict(context.control),
        "noisy": stats.noisy(context.control),
        "gbs": gbs,
        "copy_gbs": context.copy_gbs,
        # in the cache, or behind launch costs, a share of the memory's bandwidth means nothing
        "copy_share": gbs / context.copy_gbs if context.case.out_of_cache else None,
        "gflops": gflops,
        "matmul_gflops": context.matmul_gflops,
        "matmul_share": None if context.matmul_gflops is None else gflops / context.matmul_gflops,
        "bytes": context.work.bytes,
        "flops": context.work.flops,
        "peak_mb": peak_mb,
        "copies": context.copies,
        "rounds": len(own),
        **context.facts,
    }


def failed_row(case: Case, candidate: Candidate, facts: dict[str, Fact], status: str, reason: str) -> Row:
    """The row of a candidate that may not be timed: no speed in it."""
    return {**_head(case, candidate), "status": status, "reason": reason, **facts}


def failures(rows: Iterable[Row]) -> list[str]:
    """One line per row that makes a run fail: wrong or broken ours and eager, or slower than eager."""
    lines = []
    for row in rows:
        ours = row["role"] == "ours" or row["candidate"] == "eager"
        if row["status"] == "slow" or (ours and row["status"] in ("wrong", "error")):
            reason = row["reason"].partition("\n")[0]
            lines.append(f"{row['case']} [{row['candidate']}]: {row['status']} {reason}".rstrip())
    return lines


def _head(case: Case, candidate: Candidate) -> Row:
    return {
        "case": case.id,
        "op": case.op,
        "shape": list(case.shape),
        "dtype": case.dtype,
        "layout": case.layout,
        "mode": case.mode,
        "graph": case.graph,
        "options": dict(case.options),
        "candidate": candidate.name,
        "role": candidate.role,
        "published": candidate.published,
    }


def _slow_by(device: stats.Ratio, wall: stats.Ratio) -> str:
    pairs = (("time", device), ("wall", wall))
    parts = (f"{name} {ratio.value:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]" for name, ratio in pairs)
    return f"slower than eager: {', '.join(parts)}"


def _status(candidate: Candidate, slow: bool) -> str:
    if not slow or candidate.role != "ours":
        return "ok"
    return "slow" if candidate.published else "loss"


def _pick(rounds: list[list[Sample]], what: str) -> list[list[float]]:
    return [[getattr(sample, what) for sample in samples] for samples in rounds]


def _pair(context: Context, baseline: str, name: str, what: str) -> tuple[list[list[float]], list[list[float]]]:
    return _pick(context.measured[baseline], what), _pick(context.measured[name], what)
