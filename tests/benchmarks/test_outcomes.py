"""What a pass over many tests says of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.outcomes import MOST_FAILURES, SHOWN, Outcomes, group_of, kind_of, share_of

ROOT = Path(__file__).resolve().parents[2]
TESTS = """
import time
import pytest

@pytest.mark.parametrize("x", range(9))
@pytest.mark.parametrize("gpu", ["cuda", "triton"])
def test_kernel(gpu, x):
    assert gpu == "cuda", f"element {x} is wrong"

@pytest.fixture
def broken():
    raise RuntimeError("no device")

def test_setup(broken):
    pass

def test_slow():
    time.sleep(SECONDS)
"""


def run(tmp_path: Path, seconds: float, *arguments: str) -> tuple[str, str]:
    """What such a run prints, and what it writes."""
    (tmp_path / "test_it.py").write_text(TESTS.replace("SECONDS", str(seconds)))
    written = tmp_path / "outcomes"
    command = [sys.executable, "-m", "pytest", str(tmp_path), "-p", "benchmarks.outcomes", "-p", "no:cacheprovider"]
    command += ["-q", "-rN", "-c", "/dev/null", f"--rootdir={tmp_path}", f"--outcomes={written}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr, written.read_text() if written.exists() else ""


def test_one_broken_kernel_does_not_hide_the_rest(tmp_path: Path) -> None:
    printed, written = run(tmp_path, 0)
    lines = written.splitlines()
    assert lines[0] == f"{MOST_FAILURES} x test_it.py::test_kernel[triton-0]" and "element 0 is wrong" in lines[1]
    assert "1 x test_it.py::test_setup" in lines
    assert lines[-1].split() == ["all", "10", str(MOST_FAILURES), "1", str(9 - MOST_FAILURES)]
    assert written.strip() in printed


def test_a_run_that_is_stopped_says_what_it_has_seen(tmp_path: Path) -> None:
    printed, written = run(tmp_path, 60, "--within", "8")
    assert "the time is up" in printed
    left = next(int(line.split()[0]) for line in written.splitlines() if "of 20 tests were not run" in line)
    assert left >= 1 and sum(map(int, written.splitlines()[-1].split()[1:])) == 20 - left


def test_a_file_that_cannot_be_imported_is_an_error_beside_the_others(tmp_path: Path) -> None:
    (tmp_path / "test_broken.py").write_text("import nowhere_to_be_found")
    _, written = run(tmp_path, 0, "--continue-on-collection-errors")
    assert "1 x test_broken.py" in written and "ModuleNotFoundError: No module named 'nowhere_to_be_found'" in written
    assert written.splitlines()[-1].split()[:4] == ["all", "10", str(MOST_FAILURES), "2"]


def test_what_is_heard_of_a_test_after_its_failure_counts_no_more() -> None:
    seen = Outcomes()
    seen.add("a.py::test[cuda]", "failed", "AssertionError: 3 elements")
    seen.add("a.py::test[cuda]", "error", "worker 'gw1' crashed")
    seen.add("b.py::test", "passed")
    assert seen.table()[-1].split() == ["all", "1", "1", "0", "0"]
    assert seen.table()[1].split()[-5:] == ["failure", "1", "0", "0", "0"]


def test_equal_failures_are_one_kind_in_each_file() -> None:
    seen = Outcomes()
    for file in "ab":
        for x in range(3):
            seen.add(f"{file}.py::test[{x}]", "failed", f"AssertionError: {x}.5 of 0x{x}f\nmore")
    assert [line for line in seen.digest() if " x " in line] == ["3 x a.py::test[0]", "3 x b.py::test[0]"]
    for x in range(2 * SHOWN):
        seen.add(f"c.py::test[{x}]", "failed", "of its own kind" + "!" * x)
    assert seen.digest()[-1] == f"and {SHOWN + 2} kinds more"


@pytest.mark.parametrize(
    ("nodeid", "group"),
    [
        ("a.py::test[triton-2x3]", "a.py::test triton"),
        ("a.py::test[float32-cuda-reference-x]", "a.py::test cuda-reference"),
        ("a.py::test", "a.py::test "),
    ],
)
def test_a_group_is_a_function_and_its_backend(nodeid: str, group: str) -> None:
    assert group_of(nodeid) == group


def test_numbers_make_no_kind() -> None:
    assert kind_of("error 1.5e-3 at 0xff12\nsecond") == kind_of("error 2 at 0x0")


def test_shares_have_every_case_once_and_the_first_one_of_each_function() -> None:
    cases = [f"test_a.py::test_{name}[triton-{i}]" for name in ("one", "two") for i in range(7)] + [
        "test_a.py::test_three"
    ]
    shares = [share_of(cases, which, 3) for which in (1, 2, 3)]
    assert sorted(case for share in shares for case in share) == sorted(cases)
    assert {group_of(case) for case in shares[0]} == {group_of(case) for case in cases}
    assert max(map(len, shares)) <= 7
    assert [int(case[-2]) for case in shares[0] if "one" in case] not in ([0, 3, 6], [1, 4], [2, 5])


def test_a_share_of_a_run(tmp_path: Path) -> None:
    _, written = run(tmp_path, 0, "--share", "1/3")
    assert written.splitlines()[-1].split()[:3] == ["all", "4", "3"]
