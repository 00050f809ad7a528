"""What every family's module of ``pytest benchmarks`` does with a case."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.case import Case
from benchmarks.rows import failures
from benchmarks.runner import Runner


def benchmark_case(case: Case, runner: Runner, benchmark: BenchmarkFixture) -> None:
    """Measures the case against stock, and fails where a row fails."""
    rows = runner.run(case)
    benchmark.group = case.op
    benchmark.extra_info["rows"] = rows
    # pytest-benchmark's own column: wall time of the published candidate; the comparison is in the rows
    benchmark.pedantic(runner.published_call(case), rounds=runner.settings.rounds, warmup_rounds=1)
    assert any(row["role"] == "ours" for row in rows), "pyaegpu cannot be imported: nothing of it was measured"
    failed = failures(rows)
    assert not failed, failed
