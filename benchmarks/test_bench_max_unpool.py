"""Max-pooling and max-unpooling against stock: ``pytest benchmarks --benchmark-json FILE``."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.case import Case
from benchmarks.published import benchmark_case
from benchmarks.runner import Runner

SUITE = "max_unpool"


def test_max_unpool(case: Case, runner: Runner, benchmark: BenchmarkFixture) -> None:
    benchmark_case(case, runner, benchmark)
