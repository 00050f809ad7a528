"""Result files: JSON, written under a temporary name and renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.rows import Row

SCHEMA = 1


def write_text(path: Path, text: str) -> None:
    """Writes the whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def write(path: Path, rows: list[Row], run: dict[str, Any]) -> None:
    """`{"schema", "run": how it was measured, "rows"}`."""
    content = {"schema": SCHEMA, "run": run, "rows": rows}
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read(paths: Iterable[Path]) -> list[Row]:
    """The rows of several result files; ValueError for a file that is not one."""
    rows: list[Row] = []
    for path in paths:
        try:
            content = json.loads(path.read_text())
            if content["schema"] != SCHEMA:
                raise ValueError(f"schema {content['schema']}, expected {SCHEMA}")
            rows += content["rows"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a benchmark result: {error}") from error
    return rows
