"""Result files and the tables made of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import report, results
from benchmarks.rows import Row, failures

FACTS = {
    "card": "Some CPU",
    "threads": 2,
    "malloc": "keep",
    "torch": "2.13.0",
    "triton": "3.7.1",
    "cuda": None,
    "cudnn": None,
    "commit": "0123456789abcdef",
    "dirty": True,
    "date": "2026-01-02T03:04:05Z",
}


def row(candidate: str, speed: float, **changes: object) -> Row:
    ratio = {"value": speed, "low": 0.9 * speed, "high": 1.1 * speed}
    role = "ours" if candidate.startswith("pyaegpu") else "stock"
    made = {
        "case": "vae_loss-8x8-mse",
        "op": "vae_loss",
        "mode": "fwd+bwd",
        "candidate": candidate,
        "role": role,
        "status": "ok",
        "reason": "",
        "median_us": 1234.5 / speed,
        "p20_us": 1200.0 / speed,
        "p80_us": 1300.0 / speed,
        "host_us": 45.6,
        "wall_us": 0.789,
        "vs_eager": ratio,
        "wall_vs_eager": ratio,
        "vs_best": {**ratio, "value": speed / 2},
        "best": "compile",
        "noisy": False,
        "gbs": 12.34,
        "copy_share": 0.876,
        "gflops": 123.4,
        "matmul_share": None,
        "peak_mb": None,
        "served_by": "cpu",
    }
    return {**made, **FACTS, **changes}


def refused(candidate: str) -> Row:
    head = {"case": "c", "op": "vae_loss", "mode": "fwd", "candidate": candidate, "role": "ours"}
    return {**head, "status": "wrong", "reason": "output 1: error | 0.5", **FACTS}


def test_a_timed_row_shows_both_ratios() -> None:
    line = report.table([row("pyaegpu:auto", 4.0)]).splitlines()[-1]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == [
        "vae_loss-8x8-mse",
        "pyaegpu:auto (cpu)",
        "309 (300 to 325)",
        "4.00x [3.60, 4.40]",
        "2.00x (compile)",
        "12.3",
        "88 %",
        "-",
        "-",
        "0.789 (4.00x)",
        "45.6",
        "-",
        "ok",
    ]


def test_a_row_of_matrix_products_shows_their_rate() -> None:
    products = row("pyaegpu:auto", 4.0, matmul_share=0.512)
    assert "| 0.123 | 51 % |" in report.table([products])
    before = {key: value for key, value in row("eager", 1.0).items() if key != "matmul_share"}
    assert "| 88 % | - | - |" in report.table([before])


def test_a_refused_row_shows_its_reason_and_no_figure() -> None:
    line = report.table([refused("pyaegpu:cpu")]).splitlines()[-1]
    assert "wrong: output 1: error / 0.5" in line
    assert line.count("| - ") == len(report.HEADER) - 3


def test_every_line_has_as_many_cells_as_the_header() -> None:
    rows = [
        row("eager", 1.0),
        row("pyaegpu:cpu", 2.0, noisy=True, copy_share=None, peak_mb=3.0),
        refused("x"),
    ]
    counts = {line.count("|") for line in report.table(rows).splitlines()}
    assert counts == {len(report.HEADER) + 1}


def test_a_failure_takes_one_line() -> None:
    assert failures([{**refused("eager"), "reason": "no kernel\nregistered: none"}]) == ["c [eager]: wrong no kernel"]


def test_informational_rows_show_only_when_asked_for() -> None:
    rows = [row("eager", 1.0), row("eager again (A/A)", 1.0, role="info")]
    assert "A/A" not in report.table(rows)
    assert "A/A" in report.table(rows, everything=True)


def test_geometric_means_per_op_mode_and_backend() -> None:
    rows = [row("pyaegpu:auto", 2.0), row("pyaegpu:auto", 8.0), row("eager", 1.0), refused("pyaegpu:auto")]
    assert "| vae_loss | fwd+bwd | pyaegpu:auto | 2 | 4.00x | 2.00x |" in report.geometric_means(rows)
    assert report.geometric_means([row("eager", 1.0)]) == ""


def test_the_report_names_what_it_was_measured_on_and_what_failed() -> None:
    text = report.report([row("pyaegpu:auto", 0.5, status="slow", reason="slower than eager"), refused("pyaegpu:cpu")])
    assert "Some CPU, 2 threads, malloc keep; torch 2.13.0" in text
    assert "commit 0123456789ab (modified)" in text
    assert text.count("\n- ") == 2 and "slow slower than eager" in text


def test_what_fails_a_run() -> None:
    assert not failures([row("pyaegpu:auto", 2.0), row("pyaegpu:triton", 0.5, status="loss")])
    assert failures([row("pyaegpu:auto", 0.5, status="slow")])
    assert failures([refused("pyaegpu:auto")])
    assert not failures([{**refused("compile"), "role": "stock"}])
    assert failures([{**refused("eager"), "role": "stock"}])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.01234, "0.012"), (0.789, "0.789"), (12.34, "12.3"), (123.4, "123"), (54321, "54321")],
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert report._number(value) == text


def test_results_are_written_whole_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "suite.json"
    results.write(path, [row("eager", 1.0)], {"copy_gbs": 10})
    assert [entry.name for entry in path.parent.iterdir()] == ["suite.json"]
    assert results.read([path, path]) == [row("eager", 1.0)] * 2
    with pytest.raises(ValueError):
        results.write(path, [{"median_us": float("nan")}], {})
    assert results.read([path]) == [row("eager", 1.0)]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 99, "rows": []}'])
def test_another_file_is_refused_by_name(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(SystemExit) as stopped:
        report.main([str(path)])
    assert stopped.value.code == 2 and "other.json is not a benchmark result" in capsys.readouterr().err


def test_the_report_command_writes_markdown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "a.json", tmp_path / "a.md"
    results.write(source, [row("pyaegpu:auto", 2.0)], {})
    assert report.main([str(source), "--out", str(target)]) == 0
    assert report.main([str(source)]) == 0
    assert capsys.readouterr().out == target.read_text()
    assert json.loads(source.read_text())["schema"] == results.SCHEMA
