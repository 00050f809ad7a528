"""Winners per size, and results of several calls put together."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks import collect, results, rules
from benchmarks.rows import Row

FACTS = {"card": "NVIDIA X", "threads": 2, "malloc": "keep", "torch": "2", "triton": "3", "cuda": "13", "cudnn": 9}
FACTS |= {"commit": "c" * 40, "dirty": False, "date": "2026-01-01"}


def row(candidate: str, value: float, *, high: float | None = None, wall: float | None = None, **changes: Any) -> Row:
    ratio, walls = value if high is None else high, value if wall is None else wall
    made = {
        "case": "op-8x4x2x2", "op": "max_unpool2d", "shape": [8, 4, 2, 2], "dtype": "bfloat16", "layout": "contiguous",
        "mode": "fwd", "graph": False, "options": {"kernel": 2, "indices": "codes", "bytes": 12}, "noisy": False,
        "candidate": candidate, "role": "ours" if candidate.startswith("pyaegpu") else "stock", "median_us": 1.0,
        "served_by": candidate.partition(":")[2], "bytes": 384.0, "status": "ok", "published": False,
        "vs_eager": {"value": value, "low": value, "high": ratio},
        "wall_vs_eager": {"value": walls, "low": walls, "high": walls},
    }  # fmt: skip
    return {**made, **FACTS, **changes}


def test_the_fastest_that_may_serve_wins() -> None:
    stock = [row("eager", 1.0), row("compile", 1.9)]
    assert rules.winner([*stock, row("pyaegpu:cuda", 1.5), row("pyaegpu:triton", 1.6)]) == "triton"
    assert rules.winner([*stock, row("pyaegpu:cuda", 1.5), row("pyaegpu:triton", 1.6, wall=0.5)]) == "cuda"
    assert rules.winner([*stock, row("pyaegpu:cuda", 0.9, high=0.96)]) == "eager"
    assert rules.winner([*stock, row("pyaegpu:cuda", 0.99), row("pyaegpu:auto", 2.0)]) == "eager"


def test_a_line_has_what_a_rule_can_name() -> None:
    rows = [row("eager", 1.0), row("compile", 1.2), row("pyaegpu:cuda", 0.9, high=0.95), row("pyaegpu:triton", 1.6)]
    rows += [row("pyaegpu:triton", 2.0, case="large", shape=[80, 4, 2, 2], bytes=3840.0)]
    group, small, large = rules.lines([*rows, {"case": "wrong", "status": "wrong"}])
    assert group == "NVIDIA X max_unpool2d contiguous bfloat16 fwd"
    assert small.split(":")[0].split() == ["triton", "elements=32", "channels=4"]  # of the pooled side
    assert "(cuda 0.90x [0.90, 0.95], wall 0.90x), triton 1.60x [1.60, 1.60], compile 1.20x; 8x4x2x2" in small
    assert "elements=320 " in large


def test_a_convolution_has_the_channels_of_its_result() -> None:
    made = row("eager", 1.0, op="conv_transpose2d", options={"out": 3, "kernel": 4, "layer": "g5"})
    assert rules.size_of(made) == "elements=128 channels=4 outputs=3"


def test_the_command_names_a_bad_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(SystemExit):
        rules.main([str(tmp_path / "x.json")])
    assert "x.json is not a benchmark result" in capsys.readouterr().err


def timed(case: str, speed: float) -> Row:
    own = row("pyaegpu:triton", speed, case=case, best="eager", gbs=1.0, copy_share=None, wall_us=1.0, host_us=1.0)
    return {**own, "p20_us": 1.0, "p80_us": 1.0, "peak_mb": None, "vs_best": own["vs_eager"]}


def test_later_results_of_a_case_replace_earlier_ones(tmp_path: Path) -> None:
    first, second, out = tmp_path / "first", tmp_path / "second", tmp_path / "h200"
    results.write(first / "max_unpool-1of2.json", [timed("a", 1.0), timed("b", 1.0)], {"copy_gbs": 1})
    results.write(second / "max_unpool-2of2.json", [timed("b", 2.0), timed("c", 2.0)], {"copy_gbs": 2})
    (first / "rules.txt").write_text("no result")
    with tarfile.open(tmp_path / "gpu.tar.gz", "w:gz") as bundle:
        bundle.add(second, "./results")
    for _ in range(2):  # what is there already counts first
        assert collect.main([str(first), str(tmp_path / "gpu.tar.gz"), "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["max_unpool.json", "max_unpool.md"]
    found = results.read([out / "max_unpool.json"])
    assert {each["case"]: each["vs_eager"]["value"] for each in found} == {"a": 1.0, "b": 2.0, "c": 2.0}
    assert {"copy_gbs": 1} in json.loads((out / "max_unpool.json").read_text())["run"]["runs"]


def test_what_is_no_bundle_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(SystemExit):
        collect.main([str(tmp_path / "notes.txt"), "--out", str(tmp_path / "out")])
    assert "notes.txt is neither a bundle nor a folder" in capsys.readouterr().err
