"""Batch normalisation with its activation against stock: ``pytest benchmarks --benchmark-json FILE``."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.case import Case
from benchmarks.published import benchmark_case
from benchmarks.runner import Runner

SUITE = "norm_act"


def test_norm_act(case: Case, runner: Runner, benchmark: BenchmarkFixture) -> None:
    benchmark_case(case, runner, benchmark)
