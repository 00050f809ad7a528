"""The commands, end to end on tiny shapes: what they write, print and return, never how fast."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import demo, ours, run, smoke
from benchmarks.demo import Line
from benchmarks.registry import SUITES
from benchmarks.runner import Runner
from benchmarks.suites.vae_loss import KINDS

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


@pytest.mark.parametrize(
    "arguments",
    [
        ["--shard", "3/2"],
        ["--shard", "x"],
        ["--only", "no such case"],
        ["--device", "tpu"],
        ["--suite", "none"],
        ["--tier", "third"],
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


def test_a_measurement_needs_a_folder() -> None:
    with pytest.raises(SystemExit) as stopped:
        run.main(FAST)
    assert stopped.value.code == 2


def test_a_run_goes_on_where_another_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases that have rows are left alone, and the one that ended the process gets a row without a speed."""
    arguments = [*FAST, "--no-compile", "--only", "fwd+bwd-kind=bce", "--out", str(tmp_path)]
    run.main(arguments)
    path = tmp_path / "vae_loss.json"
    content = json.loads(path.read_text())
    first, second = dict.fromkeys(row["case"] for row in content["rows"])
    content["rows"] = [row for row in content["rows"] if row["case"] == first]
    path.write_text(json.dumps(content))
    path.with_suffix(".begun").write_text(second)
    monkeypatch.setattr(Runner, "run", lambda *arguments: pytest.fail("nothing is left to measure"))
    assert run.main([*arguments, "--resume"]) == run.FAILED
    rows = json.loads(path.read_text())["rows"]
    assert rows[:-1] == content["rows"] and not path.with_suffix(".begun").exists()
    assert (rows[-1]["case"], rows[-1]["status"], rows[-1]["reason"]) == (second, "error", "the process ended")


def test_a_case_that_cannot_be_timed_does_not_end_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Runner, "_time", broken)
    arguments = [*FAST, "--no-compile", "--only", "fwd+bwd-kind=bce", "--out", str(tmp_path)]
    assert run.main(arguments) == run.FAILED
    rows = json.loads((tmp_path / "vae_loss.json").read_text())["rows"]
    assert [row["reason"] for row in rows] == ["RuntimeError: out of memory"] * 2


def test_a_case_that_hangs_ends_its_process() -> None:
    code = "import time; from benchmarks import run\nwith run._ended_after(0.2): time.sleep(60)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == run.LOST and "time.sleep" not in done.stdout


def test_a_lean_run_leaves_out_what_is_stock(tmp_path: Path) -> None:
    run.main([*FAST, "--no-compile", "--lean", "--only", "fwd+bwd-kind=bce-", "--out", str(tmp_path)])
    names = {row["candidate"] for row in json.loads((tmp_path / "vae_loss.json").read_text())["rows"]}
    assert names == {"eager", "eager again (A/A)", "pyaegpu:auto", "pyaegpu:cpu"}
