"""Puts the results of several calls together: ``python -m benchmarks.collect BUNDLE... --out benchmarks/results/h200``.

A bundle is the gpu.tar.gz of `run_gpu.sh`, or a folder of result files. Of a case that is in several, the last counts.
Writes SUITE.json and SUITE.md of every suite; results that are in --out already are the first bundle.
"""

from __future__ import annotations

import argparse
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from benchmarks import results
from benchmarks.registry import SUITES
from benchmarks.report import report
from benchmarks.rows import Row

Content = dict[str, Any]


def suite_of(name: str) -> str:
    """The suite of SUITE.json or of SUITE-1of2.json; "" for another file."""
    path = PurePosixPath(name)
    suite = path.stem.partition("-")[0]
    return suite if path.suffix == ".json" and suite in SUITES else ""


def contents(bundle: Path) -> Iterator[tuple[str, Content]]:
    """Suite and content of every result file of a bundle; ValueError for what is none."""
    try:
        if bundle.is_dir():
            texts = [(path.name, path.read_text()) for path in sorted(bundle.glob("*.json"))]
        else:
            with tarfile.open(bundle) as tar:
                files = [(member.name, tar.extractfile(member)) for member in tar.getmembers() if member.isfile()]
                texts = [(name, file.read().decode()) for name, file in files if file and suite_of(name)]
    except (OSError, tarfile.TarError) as error:
        raise ValueError(f"{bundle} is neither a bundle nor a folder of results: {error}") from error
    for name, text in texts:
        if suite_of(name):
            yield suite_of(name), json.loads(text)


def merge(bundles: Sequence[Path]) -> dict[str, tuple[list[Row], list[Content]]]:
    """By suite the rows, and how each file was measured."""
    rows: dict[str, dict[str, list[Row]]] = {}
    runs: dict[str, list[Content]] = {}
    for bundle in bundles:
        for suite, content in contents(bundle):
            by_case: dict[str, list[Row]] = {}
            for row in content["rows"]:
                by_case.setdefault(row["case"], []).append(row)
            rows.setdefault(suite, {}).update(by_case)
            runs.setdefault(suite, []).append(content["run"])
    return {suite: ([row for case in by_case.values() for row in case], runs[suite]) for suite, by_case in rows.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the files and says how many cases they have."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.collect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder of the card's results")
    options = parser.parse_args(arguments)
    try:
        found = merge([*([options.out] if options.out.is_dir() else []), *options.bundles])
    except ValueError as error:
        parser.error(str(error))
    for suite, (rows, runs) in found.items():
        path = options.out / f"{suite}.json"
        results.write(path, rows, {"runs": [each for run in runs for each in run.get("runs", [run])]})
        results.write_text(path.with_suffix(".md"), report(rows, everything=True))
        print(f"{path}: {len({row['case'] for row in rows})} cases, {len(rows)} rows")
    return 0 if found else 1


if __name__ == "__main__":
    raise SystemExit(main())
