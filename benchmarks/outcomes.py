"""A pytest plugin for one pass over the tests on a GPU, ``pytest -p benchmarks.outcomes -n 12``.

It prints what passed and failed per file and each distinct failure once, and keeps one broken kernel from hiding the
rest.
"""

from __future__ import annotations

import os
import re
import signal
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from benchmarks import timing
from benchmarks.run import parse_shard

KEPT = ("passed", "failed", "error", "skipped")
MOST_FAILURES = 4  # of one test function with one backend, in each process: its other cases are skipped
SHOWN, LINES = 15, 3  # kinds of failure, lines of each
GRACE_S = 12  # for the tests that are running when the time is up
SHARED = "PYAEGPU_OUTCOMES"  # names a folder to the processes of a run
_BACKEND = re.compile(r"\b(cuda-reference|cuda|triton|reference|cpu)\b")
_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+(\.\d+)?(e[-+]?\d+)?")


class Outcomes:
    """What the controlling process hears of every test."""

    def __init__(self) -> None:
        self.by_file: dict[str, Counter[str]] = defaultdict(Counter)
        self.failures: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(
            list
        )  # test and text, by file and kind
        self.collected = 0
        self._seen: set[str] = set()
        self._heard: set[str] = set()

    def add(self, nodeid: str, outcome: str, text: str = "") -> None:
        """One outcome; what is heard of a test after its failure, the end of its process say, counts no more."""
        if nodeid in self._seen:
            return
        self._heard.add(nodeid)
        file = nodeid.partition("::")[0]
        if outcome in ("failed", "error"):
            self._seen.add(nodeid)
            self.failures[file, kind_of(text)].append((nodeid, text))
        self.by_file[file][outcome] += 1

    def lines(self) -> list[str]:
        """The failures, how many tests were not run, and the table, which looks complete without them."""
        missing = self.collected - sum("::" in nodeid for nodeid in self._heard)
        left = [f"{missing} of {self.collected} tests were not run"] if missing > 0 else []
        return [*self.digest(), *left, *self.table()]

    def table(self) -> list[str]:
        """Counts of every file with failures, of the other files together, and of all."""
        groups: dict[str, Counter[str]] = {}
        clean = [counts for counts in self.by_file.values() if not _bad(counts)]
        groups[f"{len(clean)} files without a failure"] = sum(clean, Counter())
        groups |= {name: counts for name, counts in sorted(self.by_file.items()) if _bad(counts)}
        groups["all"] = sum(self.by_file.values(), Counter())
        head = f"{'':52}" + "".join(f"{kept:>9}" for kept in KEPT)
        return [
            head,
            *(f"{name[-52:]:52}" + "".join(f"{counts[kept]:>9}" for kept in KEPT) for name, counts in groups.items()),
        ]

    def digest(self) -> list[str]:
        """Each kind of failure: how many tests it has, one of them, and what it says."""
        kinds = sorted(self.failures.values(), key=len, reverse=True)
        lines = []
        for found in kinds[:SHOWN]:
            nodeid, text = found[0]
            said = [line for line in text.splitlines() if line.strip()]
            lines += [f"{len(found)} x {nodeid}", *(f"    {line[:160]}" for line in said[:LINES])]
        return lines + ([f"and {len(kinds) - SHOWN} kinds more"] if len(kinds) > SHOWN else [])


def kind_of(text: str) -> str:
    """The first line of an exception without its numbers, by which equal failures are found."""
    return _NUMBERS.sub("#", text.partition("\n")[0])[:200]


def group_of(nodeid: str) -> str:
    """Function and backend of a test."""
    name, _, parameters = nodeid.partition("[")
    return name + " " + " ".join(_BACKEND.findall(parameters))


def share_of(nodeids: Sequence[str], which: int, count: int) -> list[str]:
    """Part `which`, from 1, of `count` of the cases of each test function and backend; the first has one of each."""
    groups: dict[str, list[str]] = defaultdict(list)
    for nodeid in nodeids:
        groups[group_of(nodeid)].append(nodeid)
    kept = []
    for name, cases in groups.items():
        Random(name).shuffle(cases)  # in their order every third could always be of one dtype
        kept += cases[which - 1 :: count]
    return kept


def _bad(counts: Counter[str]) -> int:
    return counts["failed"] + counts["error"]


def _message(report: Any) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        return str(crash.message)
    text = str(report.longrepr)
    said = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
    return "\n".join(said) or text


_outcomes = Outcomes()
_failures: Counter[str] = Counter()  # of this process, by group


def _fatal() -> Path:
    """The file of the groups that ended a process, which every process of a run reads."""
    return Path(os.environ[SHARED]) / "fatal"


def pytest_addoption(parser: pytest.Parser) -> None:
    """A limit of the whole run, at which it says what it has seen; an interrupt may be ignored where no terminal is."""
    parser.addoption("--outcomes", type=Path, metavar="FILE", help="writes what passed and failed to that file, too")
    parser.addoption("--within", type=int, default=0, metavar="SECONDS", help="stop the run after this")
    parser.addoption(
        "--share", type=parse_shard, default=(1, 1), metavar="I/N", help="the I-th of N parts of the cases"
    )


@pytest.hookimpl(trylast=True)  # of what marks and names have left
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects the other shares: on a fresh machine nearly every case compiles kernels of its own, and all of them
    take longer than a call. A run whose time may end before the last test takes them in another order, so that what is
    left out is some of each function, not all of some."""
    kept = set(share_of([item.nodeid for item in items], *config.getoption("--share")))
    left_out = [item for item in items if item.nodeid not in kept]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item.nodeid in kept]
    if config.getoption("--within"):
        Random(0).shuffle(items)


def pytest_configure(config: pytest.Config) -> None:
    """Makes what the processes share, and sets the alarm of the controlling one."""
    if SHARED not in os.environ:
        os.environ[SHARED] = tempfile.mkdtemp(prefix="pyaegpu-outcomes-")
    if not config.getoption("--within") or "PYTEST_XDIST_WORKER" in os.environ:
        return

    def stop(number: int, frame: object) -> None:
        session = config.pluginmanager.getplugin("dsession")  # xdist's
        if session is None or session.shouldstop:
            raise KeyboardInterrupt("the time is up")
        session.shouldstop = "the time is up"  # the workers end their tests
        signal.alarm(GRACE_S)

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(config.getoption("--within"))


@pytest.hookimpl(trylast=True)
def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Counts a file that cannot be imported: its tests are in no other count."""
    if report.failed:
        _outcomes.add(report.nodeid, "error", _message(report))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leaves out what has failed often enough."""
    group = group_of(item.nodeid)
    if _failures[group] >= MOST_FAILURES:
        pytest.skip(f"{MOST_FAILURES} cases of it have failed in this process")
    if _fatal().exists() and group in _fatal().read_text().splitlines():
        pytest.skip("another case of it ended a process")


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Counts; ends a process whose device a kernel's fault took away, as every test after it would fail."""
    if report.failed or report.when == "call" or (report.when == "setup" and report.skipped):
        outcome = "error" if report.failed and report.when != "call" else report.outcome
        _outcomes.add(report.nodeid, outcome, _message(report) if report.failed else "")
    if not report.failed:
        return
    group = group_of(report.nodeid)
    _failures[group] += 1
    if hasattr(report, "node"):  # heard from a worker
        if report.when not in ("setup", "call", "teardown"):  # that is no more
            with _fatal().open("a") as file:
                file.write(f"{group}\n")
        return
    if not timing.answers("cuda" if torch.cuda.is_available() else "cpu"):
        if "PYTEST_XDIST_WORKER" in os.environ:
            os._exit(1)  # xdist starts another in its place
        pytest.exit("the device no longer answers", returncode=1)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Writes the file before xdist takes its time to end the workers."""
    signal.alarm(0)
    _outcomes.collected = session.testscollected
    path = session.config.getoption("--outcomes")
    if path is not None and "PYTEST_XDIST_WORKER" not in os.environ:
        path.write_text("\n".join(_outcomes.lines()) + "\n")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The failures, then the table: the end of the output is what is always seen."""
    terminalreporter.section("outcomes")
    terminalreporter.write_line("\n".join(_outcomes.lines()))
