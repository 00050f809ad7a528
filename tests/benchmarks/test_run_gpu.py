"""The script of a session on a GPU, with stand-ins for what it calls."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from benchmarks import smoke
from benchmarks.registry import SUITES

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/run_gpu.sh"
# A python3 that sees a GPU and, asked to measure, writes a result; the others' words it notes.
PYTHON = """#!/bin/sh
[ "$1" = -c ] && exit 0
echo "$@" >>"$WORDS"
case "$*" in
*"-m benchmarks.run "*--out*) mkdir -p "$PYAEGPU_GPU_WORK/results"; echo {} >"$PYAEGPU_GPU_WORK/results/corrupt.json" ;;
esac
"""


def call(tmp_path: Path, *arguments: str, python: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """The script with the stand-in `python`, or where none is given with this Python and no GPU."""
    folder = tmp_path / "bin"
    if python:
        folder.mkdir()
        (folder / "python3").write_text(python)
        (folder / "python3").chmod(0o755)
    path = f"{folder if python else Path(sys.executable).parent}:{os.environ['PATH']}"
    given = {"CUDA_VISIBLE_DEVICES": "", "PYAEGPU_GPU_WORK": str(tmp_path / "work"), "WORDS": str(tmp_path / "words")}
    command = ["bash", str(SCRIPT), *arguments]
    every = {**os.environ, **given, **environment, "PATH": path}
    return subprocess.run(command, env=every, capture_output=True, text=True, check=False, cwd=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--help"], 0, "usage:"),
        (["--stage", "fly"], 2, "unknown stage: fly"),
        (["--stage", "build,fly"], 2, "unknown stage: fly"),
        (["--stage"], 2, "--stage needs a value"),
        (["--limit", "soon"], 2, "--limit must be seconds"),
        (["--bogus"], 2, "unknown argument: --bogus"),
        (["--", "x"], 2, "arguments after -- are for test or for bench"),
    ],
)
def test_it_answers_for_its_arguments(arguments: list[str], code: int, text: str, tmp_path: Path) -> None:
    done = call(tmp_path, *arguments)
    assert done.returncode == code and text in done.stdout + done.stderr


def test_it_profiles_every_suite() -> None:
    assert {smoke.family_of(name) for name in smoke.LARGE} == SUITES.keys()
    for name in smoke.LARGE:
        assert f" {name}:triton" in SCRIPT.read_text()


def test_it_says_that_there_is_no_gpu(tmp_path: Path) -> None:
    done = call(tmp_path, "--stage", "test,warm,bench", "--out", str(tmp_path / "out"))
    assert done.returncode == 77 and done.stdout.count("no GPU: stage skipped") == 3


def test_a_call_measures_a_shard_and_leaves_one_bundle(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = call(tmp_path, "--stage", "warm,bench", "--out", str(out), "--", "--shard", "1/2", python=PYTHON)
    assert done.returncode == 0, done.stdout + done.stderr
    warm, bench, *tables = (tmp_path / "words").read_text().splitlines()
    assert all("--tier first" in each and "--shard 1/2" in each for each in (warm, bench))
    assert "--warm --jobs" in warm and "--lean" in bench and "--rounds 5" in bench
    assert [words.split()[1] for words in tables] == ["benchmarks.rules", "benchmarks.report"]
    assert sorted(path.name for path in out.iterdir()) == ["gpu.tar.gz", "summary.txt"]
    with tarfile.open(out / "gpu.tar.gz") as bundle:
        assert {"./logs/warm.log", "./results/corrupt.json", "./results/rules.txt"} <= set(bundle.getnames())
    assert "bench     rc 0" in (out / "summary.txt").read_text()


def test_a_measurement_that_a_kernel_ended_goes_on(tmp_path: Path) -> None:
    faulty = PYTHON + 'case "$*" in *--out*--resume*|*--resume*--out*) exit 0 ;; *--out*) exit 4 ;; esac\n'
    done = call(tmp_path, "--stage", "bench", "--out", str(tmp_path / "out"), python=faulty)
    runs = [words for words in (tmp_path / "words").read_text().splitlines() if "benchmarks.run" in words]
    assert done.returncode == 0 and ["--resume" in words for words in runs] == [False, True]


def test_a_call_ends_within_its_limit(tmp_path: Path) -> None:
    slow = PYTHON + 'case "$*" in *--out*) sleep 60 ;; esac\n'
    began = time.monotonic()
    done = call(tmp_path, "--stage", "bench,test", "--limit", "19", "--out", str(tmp_path / "out"), python=slow)
    assert done.returncode == 1 and time.monotonic() - began < 19
    assert "rc 124" in (tmp_path / "out/summary.txt").read_text()
    assert "no time left" in (tmp_path / "work/logs/test.log").read_text()


def test_a_stage_of_tests_shows_what_its_plugin_saw(tmp_path: Path) -> None:
    seen = PYTHON + 'mkdir -p "$PYAEGPU_GPU_WORK/logs"; echo "all 3 passed" >"$PYAEGPU_GPU_WORK/logs/outcomes.txt"\n'
    done = call(tmp_path, "--stage", "test", "--out", str(tmp_path / "out"), "--", "tests/ops", python=seen)
    (words,) = (tmp_path / "words").read_text().splitlines()
    assert done.returncode == 0 and "all 3 passed" in done.stdout
    assert words.endswith("tests/ops") and "-n " in words and "--dist worksteal" in words and "--timeout 120" in words
