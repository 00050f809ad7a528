"""What a run has measured of one suite, kept in a file after every case, so that another process can go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.case import Candidate, Case
from benchmarks.report import report
from benchmarks.rows import Row, failed_row

NOBODY = Candidate("every candidate", "ours", lambda: lambda inputs: ())


class Record:
    """The rows in `path`, SUITE.json; with `resume` those of an earlier process come first."""

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        self.path = path
        self.rows: list[Row] = []
        self._begun = path.with_suffix(".begun")  # names the case that is being measured
        if not resume:
            self._begun.unlink(missing_ok=True)
        elif path.exists():
            self.rows = results.read([path])

    def has(self, case: Case) -> bool:
        """Whether there are rows of the case."""
        return any(row["case"] == case.id for row in self.rows)

    def ended_in(self, case: Case) -> bool:
        """Whether an earlier process ended while it measured the case."""
        return self._begun.exists() and self._begun.read_text() == case.id

    def begin(self, case: Case) -> None:
        """Notes that the case is being measured."""
        results.write_text(self._begun, case.id)

    def add(self, rows: list[Row], run: dict[str, Any]) -> None:
        """Rows of a case that is finished."""
        every = [*self.rows, *rows]
        results.write(self.path, every, run)  # refuses rows that hold no numbers, which are not kept then
        self.rows = every
        self._begun.unlink(missing_ok=True)

    def give_up(self, case: Case, facts: dict[str, Any], run: dict[str, Any], reason: str) -> None:
        """A row without a speed for a case that ended a process."""
        self.add([failed_row(case, NOBODY, facts, "error", reason)], run)

    def write_table(self) -> None:
        """SUITE.md beside the file."""
        results.write_text(self.path.with_suffix(".md"), report(self.rows, everything=True))
