"""What the memory and race checkers' processes say, and what becomes of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import ours, sanitize
from benchmarks.registry import SUITES
from benchmarks.sanitize import CLEAN, Task
from benchmarks.smoke import DTYPES

CLEAN_RUN = "========= COMPUTE-SANITIZER\ntriton: 3 cases of corrupt, 0 failures\n========= ERROR SUMMARY: 0 errors\n"
TASK = Task("memcheck", "triton", "corrupt", "float32")


@pytest.mark.parametrize(
    ("returncode", "output", "said"),
    [
        (0, CLEAN_RUN, CLEAN),
        (0, "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n", CLEAN),
        (9, "========= Invalid __global__ write\n========= ERROR SUMMARY: 12 errors\n", "12 found"),
        (0, "========= RACECHECK SUMMARY: 2 hazards displayed (0 errors, 2 warnings)\n", "2 found"),
        (1, CLEAN_RUN, "exit code 1"),
        (1, "========= Error: Device not supported. Please refer\n", "refused: ========= Error: Device not supported."),
        (139, "", "exit code 139"),
    ],
)
def test_the_verdict_of_a_process(returncode: int, output: str, said: str) -> None:
    assert sanitize.verdict(returncode, output).startswith(said)


def test_races_are_looked_for_where_memory_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {"corrupt": {"cuda": "it has no kernels of corrupt"}}
    monkeypatch.setattr(ours, "missing", lambda device, family: absent.get(family, {}))
    every = sanitize.tasks()
    memory = {(task.backend, task.family) for task in every if task.tool == "memcheck"}
    assert memory == {(backend, family) for backend in ("cuda", "triton") for family in SUITES} - {("cuda", "corrupt")}
    races = {(task.backend, task.family) for task in every if task.tool == "racecheck"}
    assert {family for backend, family in races if backend == "cuda"} == SUITES.keys() - {"corrupt"}
    assert ("triton", "conv_transpose") in races and ("triton", "corrupt") not in races
    assert len(set(every)) == len(every)
    assert [task.dtype for task in every] == sorted((task.dtype for task in every), key=DTYPES.index)


def test_the_table_has_a_line_per_tool_backend_and_family() -> None:
    other = Task("memcheck", "triton", "corrupt", "float16")
    (line,) = sanitize.table([(TASK, CLEAN), (other, "2 found")])
    assert line.split() == [*("memcheck", "triton", "corrupt", "clean", "(float32);", "float16:", "2", "found")]


def run_with(tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The command with a stand-in for the tool, on two processes."""
    (tmp_path / "compute-sanitizer").write_text(f"#!/bin/sh\n{tool}\n")
    (tmp_path / "compute-sanitizer").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(sanitize, "tasks", lambda: [TASK, Task("racecheck", "cuda", "vae_loss", "float32")])
    return sanitize.main(["--log", str(tmp_path / "log"), *arguments])


def test_a_fault_fails_and_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = "echo '========= Invalid __global__ read of size 4'; echo '========= ERROR SUMMARY: 1 error'; exit 9"
    assert run_with(fault, tmp_path, monkeypatch) == 1
    printed = capsys.readouterr().out
    assert "Invalid __global__ read" in printed and "1 found" in printed.splitlines()[-1]
    assert "Invalid __global__ read" in (tmp_path / "log").read_text()


def test_a_wrong_result_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = "echo 'mse: output 0 is wrong'; echo '========= ERROR SUMMARY: 0 errors'; exit 1"
    assert run_with(wrong, tmp_path, monkeypatch) == 1
    assert "output 0 is wrong" in capsys.readouterr().out


def test_a_tool_that_refuses_the_device_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_with("echo '========= Error: Device not supported'; exit 1", tmp_path, monkeypatch) == sanitize.SKIPPED
    assert "Device not supported" in capsys.readouterr().out


def test_what_there_was_no_time_for_is_not_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_with("exit 0", tmp_path, monkeypatch, "--budget", "0") == 1
    assert capsys.readouterr().out.count("no time left") == 2
