"""Options of ``pytest benchmarks``: one test per case, its rows in pytest-benchmark's extra_info."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parent.parent))  # last: an installed pyaegpu comes first

from benchmarks import machine
from benchmarks.registry import get_suite
from benchmarks.runner import Runner, Settings


def pytest_addoption(parser: pytest.Parser) -> None:
    """The same choices as ``python -m benchmarks.run``."""
    group = parser.getgroup("pyaegpu benchmarks")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    group.addoption("--bench-device", choices=("cpu", "cuda"), default=device)
    group.addoption("--bench-size", choices=("full", "tiny"), default="full")
    group.addoption("--bench-rounds", type=int, default=7)
    group.addoption("--bench-samples", type=int, default=5)
    group.addoption("--bench-retries", type=int, default=1)
    group.addoption("--bench-threads", type=int, default=2)
    group.addoption("--bench-no-compile", action="store_true")


def settings_of(config: pytest.Config) -> Settings:
    """The run's settings from the command line."""
    get = config.getoption
    return Settings(
        device=get("--bench-device"),
        rounds=get("--bench-rounds"),
        samples=get("--bench-samples"),
        threads=get("--bench-threads"),
        retries=get("--bench-retries"),
        compiled=not get("--bench-no-compile"),
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every case of the suite that the test module names in SUITE."""
    if "case" in metafunc.fixturenames:
        device, size = (metafunc.config.getoption(f"--bench-{name}") for name in ("device", "size"))
        cases = get_suite(metafunc.module.SUITE).cases(device, size)
        metafunc.parametrize("case", cases, ids=[case.id for case in cases])


@pytest.fixture(scope="module")
def runner(request: pytest.FixtureRequest) -> Runner:
    """One runner per suite: the copy bandwidth is measured once."""
    return Runner(get_suite(request.module.SUITE), settings_of(request.config))


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """The facts that our rows carry, also in pytest-benchmark's own header."""
    machine_info.update(machine.facts(config.getoption("--bench-device")))
