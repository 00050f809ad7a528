"""The commands, end to end on tiny shapes: what they write, print and return, never how fast."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import demo, ours, run, smoke
from benchmarks.demo import Line
from benchmarks.registry import SUITES
from benchmarks.suites.vae_loss import KINDS, VaeLossSuite

ROOT = Path(__file__).resolve().parents[2]
FIELDS = {
    *("op", "shape", "dtype", "layout", "mode", "candidate", "median_us", "p20_us", "p80_us", "vs_eager"),
    *(
        "vs_best",
        "gbs",
        "copy_share",
        "host_us",
        "peak_mb",
        "torch",
        "triton",
        "cuda",
        "cudnn",
        "card",
        "date",
    ),
    *("commit", "dirty"),
}
FAST = ["--device", "cpu", "--retries", "0", "--size", "tiny", "--rounds", "2", "--samples", "1"]


def test_a_tiny_run_of_the_suite_writes_complete_rows(tmp_path: Path) -> None:
    assert run.main([*FAST, "--no-compile", "--out", str(tmp_path)]) in (0, run.FAILED)
    content = json.loads((tmp_path / "vae_loss.json").read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vae_loss.json", "vae_loss.md"]
    assert content["run"]["cases_left"] == 0
    rows = content["rows"]
    assert all(row["status"] in ("ok", "slow", "loss") for row in rows), rows
    assert all(row.keys() >= FIELDS for row in rows)
    for case in {row["case"] for row in rows}:
        names = {row["candidate"] for row in rows if row["case"] == case}
        assert names >= {"eager", "eager again (A/A)", "pyaegpu:auto"}
    assert {row["options"]["kind"] for row in rows} == set(KINDS)


@pytest.mark.parametrize("suite", sorted(SUITES.keys() - {"vae_loss"}))
def test_a_tiny_run_of_another_suite_times_every_candidate(suite: str, tmp_path: Path) -> None:
    arguments = [*FAST, "--no-compile", "--suite", suite, "--out", str(tmp_path)]
    assert run.main(arguments) in (0, run.FAILED)
    rows = json.loads((tmp_path / f"{suite}.json").read_text())["rows"]
    assert all(row["status"] in ("ok", "slow", "loss") for row in rows), rows
    for case in SUITES[suite].cases("cpu", "tiny"):
        names = {row["candidate"] for row in rows if row["case"] == case.id}
        assert names >= {"eager", "eager again (A/A)", "pyaegpu:auto"}


def test_a_run_stopped_by_its_budget_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run.main([*FAST, "--no-compile", "--budget", "0", "--out", str(tmp_path)])
    content = json.loads((tmp_path / "vae_loss.json").read_text()) if any(tmp_path.iterdir()) else None
    assert code != 0 and "UNFINISHED" in capsys.readouterr().out
    assert content is None or content["run"]["cases_left"] > 0


def test_a_run_without_pyaegpu_is_not_green(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ours, "library", lambda: None)
    code = run.main([*FAST, "--no-compile", "--only", "fwd-kind=mse", "--out", str(tmp_path)])
    assert code == run.NOT_OURS and "nothing of pyaegpu" in capsys.readouterr().out


def test_shards_deal_out_every_case_once() -> None:
    cases = VaeLossSuite().cases("cuda", "full")
    dealt = [case for which in (1, 2, 3) for case in run.select(cases, "", (which, 3))]
    assert sorted(case.id for case in dealt) == sorted(case.id for case in cases)
    assert all("bce" in case.id for case in run.select(cases, "bce", (1, 1)))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--shard", "3/2"],
        ["--shard", "x"],
        ["--only", "no such case"],
        ["--device", "tpu"],
        ["--suite", "none"],
    ],
)
def test_bad_arguments_exit_with_2(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        run.main([*FAST, "--out", str(tmp_path), *arguments])
    assert stopped.value.code == 2 and not list(tmp_path.iterdir())


def test_under_pytest_the_rows_are_in_the_benchmark_json(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    options = ["--bench-size", "tiny", "--bench-device", "cpu", "--bench-rounds", "2", "--bench-samples", "1"]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "benchmarks",
        "-q",
        "-p",
        "no:cacheprovider",
        "--bench-no-compile",
        "--bench-retries=0",
    ]
    command += [*options, f"--benchmark-json={path}", "-k", "vae_loss and bce or masking or reparameterize_kl"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert path.exists(), done.stdout + done.stderr
    found = json.loads(path.read_text())["benchmarks"]
    assert [entry["group"] for entry in found].count("vae_loss") == 2 and len(found) == 6
    for entry in found:
        assert {"eager", "pyaegpu:auto"} <= {row["candidate"] for row in entry["extra_info"]["rows"]}


def test_smoke_checks_awkward_shapes(capsys: pytest.CaptureFixture[str]) -> None:
    absent = ours.missing("cpu", "vae_loss")
    if "cpu" in absent:
        pytest.skip(f"the cpu backend is not here: {absent['cpu']}")
    assert smoke.main(["--backend", "cpu"]) == 0
    assert f"of {', '.join(SUITES)}, 0 failures" in capsys.readouterr().out


def test_smoke_fails_on_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyaegpu

    monkeypatch.setattr(smoke, "SHAPES", ((17, 29),))
    monkeypatch.setattr(pyaegpu, "corrupt", lambda x, *arguments, **options: x + 0)
    assert smoke.main(["--backend", "cpu"]) == 1


def test_smoke_leaves_out_a_family_that_the_backend_has_no_kernels_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = {"corrupt": {"cpu": "it has no kernels of corrupt"}}
    monkeypatch.setattr(smoke, "SHAPES", ((3, 7),))
    monkeypatch.setattr(ours, "missing", lambda device, family: absent.get(family, {}))
    assert smoke.main(["--backend", "cpu"]) == 0
    assert f"of {', '.join(name for name in SUITES if name != 'corrupt')}, 0 failures" in capsys.readouterr().out
    assert smoke.main(["--backend", "cpu", "--profile", "corrupt"]) == 2
    assert "it has no kernels of corrupt" in capsys.readouterr().out


def test_a_backend_without_kernels_of_a_family_is_no_candidate() -> None:
    assert "no kernels of corrupt" in ours.missing("cuda", "corrupt")["cuda"] or ours.missing("cuda", "vae_loss")
    assert not ours.missing("cpu", "corrupt").keys() - ours.missing("cpu", "vae_loss").keys()


def test_smoke_says_which_backend_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    if not ours.missing("cuda", "vae_loss").get("cuda"):
        pytest.skip("the cuda backend is here")
    assert smoke.main(["--backend", "cuda"]) == 2
    assert "backend cuda is not here" in capsys.readouterr().out


def test_the_demo_prints_both_comparisons(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(demo, "ROUNDS", 2)
    monkeypatch.setattr(demo, "SAMPLES", 1)
    assert demo.main(["--device", "cpu", "--batch", "2"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("vae_loss bce") == 2 and printed.count("training step") == 2


def test_the_demo_refuses_a_speed_for_another_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = demo.training_step

    def planted(kind, fused, images):
        step = real(kind, fused, images)
        return (lambda: step() * 1.01) if fused else step

    monkeypatch.setattr(demo, "training_step", planted)
    monkeypatch.setattr(demo, "compare_loss", lambda *arguments: [])
    assert demo.main(["--device", "cpu"]) == 1
    assert "no speed is shown" in capsys.readouterr().out


def test_the_demos_table_lines_up() -> None:
    lines = demo.render([Line("a", 1.0, 0.5, 2.0, False), Line("longer", 1.0, 0.5, 2.0, True)], "cpu").splitlines()
    assert lines[2].index("2.00x") == lines[3].index("2.00x") and lines[3].endswith("(noisy)")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--help"], 0, "usage:"),
        (["--stage", "fly"], 2, "unknown stage: fly"),
        (["--stage", "bench-fly"], 2, "unknown stage: bench-fly"),
        (["--stage", "bench-fly-1of2"], 2, "unknown stage: bench-fly-1of2"),
        (["--stage"], 2, "--stage needs a value"),
        (["--bogus"], 2, "unknown argument: --bogus"),
        (["--", "x"], 2, "arguments after -- need one --stage"),
    ],
)
def test_run_gpu_answers_for_its_arguments(arguments: list[str], code: int, text: str) -> None:
    command = ["bash", str(ROOT / "benchmarks/run_gpu.sh"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code and text in done.stdout + done.stderr


def test_run_gpu_measures_every_suite() -> None:
    script = (ROOT / "benchmarks/run_gpu.sh").read_text()
    assert f"readonly SUITES=({' '.join(SUITES)})" in script
    assert {smoke.family_of(name) for name in smoke.LARGE} == SUITES.keys()
    for name in smoke.LARGE:
        assert f" {name}:triton" in script


def run_gpu(stage: str, out: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """One stage with the commands of `folder` before all others."""
    command = ["bash", str(ROOT / "benchmarks/run_gpu.sh"), "--stage", stage, "--out", str(out)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("stage", ["test", "bench", "bench-corrupt", "bench-conv_transpose-2of3"])
def test_run_gpu_says_that_there_is_no_gpu(stage: str, tmp_path: Path) -> None:
    done = run_gpu(stage, tmp_path, Path(sys.executable).parent)
    assert done.returncode == 77 and "no GPU: stage skipped" in done.stdout


def test_run_gpu_deals_a_large_suite_to_several_stages(tmp_path: Path) -> None:
    folder, out = tmp_path / "bin", tmp_path / "out"
    folder.mkdir()
    (folder / "python3").write_text('#!/bin/sh\n[ "$1" = -c ] || echo "$@"\n')  # a GPU is there, and nothing is run
    (folder / "python3").chmod(0o755)
    done = run_gpu("bench", out, folder)
    asked = [line.split() for line in done.stdout.splitlines() if line.startswith("-m benchmarks.run")]
    shards = [(words[words.index("--suite") + 1], words[words.index("--shard") + 1]) for words in asked]
    parts = {"conv_transpose": 10, "norm_act": 5, "conv_transpose_loss": 2, "max_unpool": 6}
    expected = [(suite, f"{i + 1}/{parts.get(suite, 1)}") for suite in SUITES for i in range(parts.get(suite, 1))]
    assert done.returncode == 0, done.stdout + done.stderr
    assert shards == expected
    assert (out / "bench-conv_transpose-10of10.log").exists()
