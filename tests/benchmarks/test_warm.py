"""Filling the compilers' caches: every case once, whoever takes it, whatever fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import run, warm
from benchmarks.case import Candidate, Case
from benchmarks.registry import SUITES
from benchmarks.suites import norm_act_shapes
from benchmarks.suites.corrupt import CorruptSuite

CASES = [("corrupt", case) for case in SUITES["corrupt"].cases("cpu", "tiny")]


def test_every_candidate_runs_and_failures_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def candidate(name: str, error: str = "") -> Candidate:
        def step(inputs: object) -> tuple[()]:
            seen.append(name)
            if error:
                raise RuntimeError(error)
            return ()

        return Candidate(name, "stock", lambda: step)

    some = [candidate("eager", "no room"), candidate("compile")]
    monkeypatch.setattr(CorruptSuite, "candidates", lambda *arguments: some)
    assert warm.warm_case(*CASES[0], "cpu", compiled=False) == ["eager: RuntimeError: no room"]
    assert seen == ["eager", "compile"]


def test_a_case_is_for_the_process_that_claims_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Case] = []
    monkeypatch.setattr(warm, "warm_case", lambda name, case, device, compiled: taken.append(case) or [])
    (tmp_path / "1").touch()
    for _ in range(2):
        warm.warm(CASES[:3], "cpu", False, 60, tmp_path)
    assert taken == [CASES[0][1], CASES[2][1]]
    assert sorted(path.name for path in tmp_path.glob("*.done")) == ["0.done", "2.done"]


def test_nothing_begins_after_the_budget(tmp_path: Path) -> None:
    warm.warm(CASES, "cpu", False, -1, tmp_path)
    assert not list(tmp_path.iterdir())


def test_processes_share_the_cases(capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--warm", "--jobs", "2", "--device", "cpu", "--size", "tiny", "--suite", "corrupt", "--no-compile"]
    assert run.main(arguments) == 0
    assert f"warmed {len(CASES)} cases" in capfd.readouterr().out


def test_only_a_process_that_fell_is_replaced() -> None:
    codes = {0: False, 1: False, warm.LOST: True}
    workers = {code: subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"]) for code in codes}
    killed = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    assert not warm._fell(killed)
    killed.kill()
    for worker in (killed, *workers.values()):
        worker.wait()
    assert {code: warm._fell(worker) for code, worker in workers.items()} == codes and warm._fell(killed)


def test_a_choice_among_templates_is_not_kept() -> None:
    from torch._inductor import config

    best, default = (Candidate(name, "stock", lambda: None) for name in ("compile_max", "compile"))
    (down, *_), (norm, *_) = norm_act_shapes.dcgan_down_blocks(), norm_act_shapes.cuda_cases()
    block = norm_act_shapes.block_case(down, 2)
    kept = {}
    for case, candidate in ((block, best), (block, default), (norm, best)):
        with warm._graph_cache(case, candidate):
            kept[case.op, candidate.name] = config.fx_graph_cache
    assert [value == config.fx_graph_cache for value in kept.values()] == [not config.fx_graph_cache, True, True]
