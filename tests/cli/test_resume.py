"""--resume: a run that was stopped anywhere ends as the one that was not."""

import json
import os

import numpy as np
import pytest

from pyaegpu.cli import train_vae
from pyaegpu.training import load_checkpoint

STATE = "training.safetensors"


class Killed(BaseException):
    """Nothing of ours may catch it."""


@pytest.fixture
def error_line(capsys, train):
    """The error of a run with --resume, which must be one line."""

    def error_line(out, argv, epochs, *more):
        assert train(out, argv, epochs, "--resume", *more) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("pyaegpu: error: ")
        assert captured.err.count("\n") == 1
        return captured.err

    return error_line


@pytest.fixture(scope="module")
def whole(tmp_path_factory, train, small):
    """The folder of a run of two epochs that nobody stopped."""
    out = tmp_path_factory.mktemp("whole")
    assert train(out, small["vae"], 2) == 0
    return out


def kill_at(monkeypatch, number, before):
    """From now on the write with that number ends the program, before or after its renaming."""
    replace, count = os.replace, iter(range(1000))

    def kill(source, target):
        last = next(count) == number
        if last and before:
            with open(f"{target}.copy", "wb") as file:  # what a kill leaves and nobody may read
                file.write(b"half")
            os.rename(f"{target}.copy", os.path.join(os.path.dirname(target), f".{os.path.basename(target)}.1.tmp"))
            raise Killed
        replace(source, target)
        if last:
            raise Killed

    monkeypatch.setattr(os, "replace", kill)


@pytest.mark.parametrize("dtype", ["float32", "bf16", "fp16"])
@pytest.mark.parametrize("model", ["vae", "conv_vae", "batch_norm"])
def test_resumed_equals_uninterrupted(tmp_path, model, dtype, train, result, small):
    argv = [*small[model], "--dtype", dtype]
    assert train(tmp_path / "whole", argv, 4) == 0
    assert train(tmp_path / "parts", argv, 1) == 0
    assert train(tmp_path / "parts", argv, 3, "--resume") == 0
    assert train(tmp_path / "parts", argv, 4, "--resume") == 0
    assert result(tmp_path / "parts") == result(tmp_path / "whole")


@pytest.mark.parametrize("before", [True, False], ids=["before the rename", "after it"])
@pytest.mark.parametrize("number", range(9))
def test_killed_between_the_writes(whole, tmp_path, monkeypatch, number, before, train, result, small):
    """Two epochs write state, checkpoint and metrics each, then there are three pictures."""
    parts = tmp_path / "parts"
    with monkeypatch.context() as patch:
        kill_at(patch, number, before)
        with pytest.raises(Killed):
            train(parts, small["vae"], 2)
    if (parts / "model.safetensors").exists():
        load_checkpoint(parts / "model.safetensors")
    assert train(parts, small["vae"], 2, "--resume") == 0
    assert result(parts) == result(whole)
    assert sorted(os.listdir(parts)) == sorted(os.listdir(whole))


def test_finished_run(tmp_path, capsys, monkeypatch, train, result, small):
    train(tmp_path, small["vae"], 2)
    before = result(tmp_path)
    (tmp_path / "samples.png").unlink()
    capsys.readouterr()
    monkeypatch.setattr(train_vae, "save_state", None)
    assert train(tmp_path, small["vae"], 2, "--resume") == 0
    assert "resuming after epoch 2 of 2" in capsys.readouterr().out
    assert result(tmp_path) == before


def test_batch_norm_is_told_of_by_its_switch(tmp_path, capsys, train, small):
    for first, then, text in (
        ("batch_norm", "conv_vae", "--batch-norm was on in the saved run and is off now"),
        ("conv_vae", "batch_norm", "--batch-norm was off in the saved run and is on now"),
    ):
        assert train(tmp_path / first, small[first], 1) == 0
        assert train(tmp_path / first, small[then], 2, "--resume") == 2
        assert text in capsys.readouterr().err


def test_nothing_to_resume(tmp_path, capsys, train, small):
    assert train(tmp_path / "new", small["vae"], 1, "--resume") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"no saved state in {tmp_path / 'new'}: starting at epoch 1"
    assert lines[2].startswith("epoch 1/1")


def test_json_says_where_it_goes_on(tmp_path, capsys, train, small):
    train(tmp_path, small["vae"], 1, "--resume", "--json")
    train(tmp_path, small["vae"], 3, "--resume", "--json")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("resumed_epoch", line.get("epoch")) for line in lines] == [0, 1, None, 1, 2, 3, None]


def test_quiet(tmp_path, capsys, train, small):
    train(tmp_path, small["vae"], 1, "--resume", "--quiet")
    assert capsys.readouterr().out.startswith("wrote:\n")


def test_without_resume_a_run_starts_anew(tmp_path, train, result, small):
    train(tmp_path / "a", small["vae"], 2, "--seed", "1")
    train(tmp_path / "a", small["vae"], 1)
    train(tmp_path / "b", small["vae"], 1)
    assert result(tmp_path / "a") == result(tmp_path / "b")


def test_leftovers_go_and_other_files_stay(tmp_path, train, small):
    for name in (f".{STATE}.123.tmp", ".samples.png.5.tmp", "notes.txt", ".hidden.tmp"):
        (tmp_path / name).touch()
    train(tmp_path, small["vae"], 1)
    assert {".hidden.tmp", "notes.txt"} == {name for name in os.listdir(tmp_path) if name[0] == "." or "txt" in name}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--lr", "0.5"], "--lr was 0.003 in the saved run and is 0.5 now"),
        (["--batch-size", "7"], "--batch-size was 32"),
        (["--hidden", "17"], "--hidden was 16 in the saved run and is 17 now"),
        (["--latent", "9"], "--latent was 3"),
        (["--seed", "9"], "--seed was 0"),
        (["--beta", "2"], "--beta was 1.0"),
        (["--kind", "bce"], "--kind was bce_logits in the saved run and is bce now"),
        (["--dtype", "bf16"], "--dtype was float32"),
        (["--stock"], "--stock was off in the saved run and is on now"),
        (["--limit", "50"], "another data set: it had digits, 100 + 100 images of 1x8x8, checksum"),
        (["--epochs", "1"], "the saved run has finished epoch 2, but --epochs is 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_other_arguments_are_refused(whole, more, message, error_line, result, small):
    before = result(whole)
    assert message in error_line(whole, small["vae"], 2, *more)
    assert result(whole) == before


def test_another_model_is_refused(tmp_path, error_line, train, small):
    train(tmp_path, small["vae"], 1)
    assert f"{tmp_path / STATE} is the state of a vae, not of a conv_vae" in error_line(tmp_path, small["conv_vae"], 1)


def test_other_channels_are_refused(tmp_path, error_line, train, small):
    argv = small["conv_vae"]
    train(tmp_path, argv, 1)
    line = error_line(tmp_path, argv, 1, "--channels", "4,6")
    assert "--channels was 4,5 in the saved run and is 4,6 now" in line


def test_data_are_known_by_their_content(tmp_path, error_line, train, small):
    pixels = np.random.default_rng(0).random((30, 4, 4))
    np.save(tmp_path / "a.npy", pixels)
    out = tmp_path / "run"
    train(out, small["vae"], 1, "--data", str(tmp_path / "a.npy"))
    os.rename(tmp_path / "a.npy", tmp_path / "b.npy")
    assert train(out, small["vae"], 2, "--data", str(tmp_path / "b.npy"), "--resume") == 0
    pixels[7, 2, 1] = 0.123
    np.save(tmp_path / "b.npy", pixels)
    line = error_line(out, small["vae"], 3, "--data", str(tmp_path / "b.npy"))
    assert "the saved run has another data set: it had b, 27 + 3 images of 1x4x4, checksum" in line


def test_damaged_state(tmp_path, error_line, train, small):
    train(tmp_path, small["vae"], 1)
    (tmp_path / STATE).write_bytes((tmp_path / STATE).read_bytes()[:-1])
    line = error_line(tmp_path, small["vae"], 2)
    assert f"{tmp_path / STATE}: a damaged or other file" in line
    assert "remove it, or leave out --resume, to start at epoch 1" in line
    assert train(tmp_path, small["vae"], 2) == 0
