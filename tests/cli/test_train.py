"""`pyaegpu train vae` on a few digits."""

import gzip
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from pyaegpu import data
from pyaegpu.cli import options, train_vae
from pyaegpu.cli.main import main
from pyaegpu.training import Images, evaluate, load_checkpoint, make_loss

FILES = ["model.safetensors", "metrics.jsonl", "reconstruction.png", "samples.png", "loss.png"]
STATE = "training.safetensors"
COMMON = ["--epochs", "2", "--limit", "120", "--latent", "4", "--device", "cpu"]
SMALL = [*COMMON, "--hidden", "32"]


def train(out, *argv):
    assert main(["train", "vae", "--out", str(out), *SMALL, *argv]) == 0
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def error_line(capsys, *argv):
    assert main(["train", "vae", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("pyaegpu: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_files_and_text(tmp_path, capsys):
    out = tmp_path / "new" / "run"
    train(out)
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].startswith(
        "vae 64-32-4 on digits, 120 training and 120 test images; cpu, float32, fused ops, data on"
    )
    assert [line.split()[:2] for line in lines[1:3]] == [["epoch", "1/2"], ["epoch", "2/2"]]
    assert lines[3:] == ["wrote:", *(str(out / name) for name in FILES)]
    assert captured.err == ""
    assert sorted(os.listdir(out)) == sorted([*FILES, STATE])
    for name in FILES[2:]:
        assert np.asarray(Image.open(out / name)).std() > 5


def test_json_lines(tmp_path, capsys):
    rows = train(tmp_path, "--json")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[:-1] == rows
    assert lines[-1] == {"files": [str(tmp_path / name) for name in FILES]}
    assert [row["epoch"] for row in rows] == [1, 2]
    for row in rows:
        for part in ("train", "test"):
            parts = row[f"{part}_reconstruction"] + row[f"{part}_kl"]
            assert row[f"{part}_negative_elbo"] == pytest.approx(parts)
        assert row["samples_per_second"] == pytest.approx(120 / row["seconds"])


def test_checkpoint_is_the_last_epoch(tmp_path):
    rows = train(tmp_path, "--seed", "3")
    model, config = load_checkpoint(tmp_path / "model.safetensors")
    test = data.load("digits").limited(120).test.images
    elbo = evaluate(model, make_loss("bce_logits"), Images(test), seed=3)
    assert elbo.negative == pytest.approx(rows[-1]["test_negative_elbo"], rel=1e-6)
    assert config["metrics"] == rows[-1]
    checksum = config["data"].pop("checksum")
    assert config["data"] == {"name": "digits", "image_shape": [1, 8, 8], "samples": [120, 120]}
    assert len(checksum) == 8
    assert (config["training"]["seed"], config["training"]["dtype"]) == (3, "float32")


@pytest.mark.parametrize("kind", ["bce", "bce_logits", "mse"])
def test_fused_and_stock_agree(tmp_path, kind):
    """Up to their noise, which comes from different generators."""
    fused = train(tmp_path / "fused", "--kind", kind)
    stock = train(tmp_path / "stock", "--kind", kind, "--stock")
    for row, other in zip(fused, stock, strict=True):
        for name in ("train_negative_elbo", "test_negative_elbo", "test_reconstruction"):
            assert row[name] == pytest.approx(other[name], rel=0.02)
        assert row["test_kl"] == pytest.approx(other["test_kl"], rel=0.2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "fp16"])
def test_conv_vae(tmp_path, capsys, dtype):
    argv = ["train", "conv_vae", *COMMON, "--channels", "4,6,5", "--epochs", "3", "--dtype", dtype]
    assert main([*argv, "--out", str(tmp_path)]) == 0
    name = {"bfloat16": "bf16"}.get(dtype, dtype)
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith(f"conv_vae 1x8x8-4-6-5-4 on digits, 120 training and 120 test images; cpu, {name}, fused")
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["train_negative_elbo"] < rows[0]["train_negative_elbo"]
    model, config = load_checkpoint(tmp_path / "model.safetensors")
    assert config["model"]["kwargs"]["channels"] == [4, 6, 5]
    assert config["training"]["dtype"] == name
    test = data.load("digits").limited(120).test.images
    elbo = evaluate(model, make_loss("bce_logits"), Images(test), seed=0)
    assert elbo.negative == pytest.approx(rows[-1]["test_negative_elbo"], rel=1e-6 if dtype == "float32" else 1e-2)


def test_batch_norm(tmp_path, train, small):
    """The option reaches the model, whose running statistics are in the checkpoint."""
    train(tmp_path, small["batch_norm"], 1)
    model, config = load_checkpoint(tmp_path / "model.safetensors")
    assert config["model"]["kwargs"]["batch_norm"] is True
    means = [value for name, value in model.named_buffers() if name.endswith("running_mean")]
    assert len(means) == 3 and all(mean.abs().sum() > 0 for mean in means)


def test_batch_norm_of_single_pixels_in_a_last_batch_of_one(tmp_path, capsys, train, small):
    argv = [*small["batch_norm"], "--channels", "2,2,2", "--batch-size", "99"]
    assert train(tmp_path, argv, 1) == 2
    assert "--batch-size 99 leaves a last batch of one sample" in capsys.readouterr().err


def test_bce_and_bce_logits_report_the_same_likelihood(tmp_path):
    values = [train(tmp_path / kind, "--kind", kind)[-1] for kind in ("bce", "bce_logits")]
    assert values[0]["test_negative_elbo"] == pytest.approx(values[1]["test_negative_elbo"], rel=1e-3)


def test_same_seed_same_run(tmp_path):
    def results(name, *argv):
        rows = train(tmp_path / name, *argv)
        timeless = [{k: v for k, v in row.items() if not k.startswith("s")} for row in rows]
        model, _ = load_checkpoint(tmp_path / name / "model.safetensors")
        return timeless, model.state_dict(), (tmp_path / name / "samples.png").read_bytes()

    first, again, other = results("a"), results("b"), results("c", "--seed", "1")
    assert first[0] == again[0]
    assert all(torch.equal(first[1][key], again[1][key]) for key in first[1])
    assert first[2] == again[2]
    assert first[0] != other[0]
    assert first[2] != other[2]


def test_the_global_generator_is_left_alone(tmp_path):
    before = torch.get_rng_state()
    train(tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def test_beta_lowers_the_kl(tmp_path):
    options = ("--epochs", "30", "--lr", "1e-2")
    low, high = (train(tmp_path / b, "--beta", b, *options)[-1] for b in ("0.1", "10"))
    assert high["test_kl"] < 0.2 < low["test_kl"]
    assert high["test_reconstruction"] > low["test_reconstruction"]


def test_quiet_prints_the_files_only(tmp_path, capsys):
    train(tmp_path, "--quiet")
    captured = capsys.readouterr()
    assert captured.out.splitlines() == ["wrote:", *(str(tmp_path / name) for name in FILES)]
    assert captured.err == ""


def test_progress_bar_on_request(tmp_path, capsys):
    train(tmp_path, "--progress", "--json")
    captured = capsys.readouterr()
    assert "epoch 1/2" in captured.err
    assert all(json.loads(line) for line in captured.out.splitlines())


def test_long_runs_print_some_twenty_lines_and_keep_every_epoch(tmp_path, capsys):
    rows = train(tmp_path, "--epochs", "50", "--limit", "10")
    shown = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert len(rows) == 50
    assert shown == ["1/50", *(f"{epoch}/50" for epoch in range(3, 50, 3)), "50/50"]


def test_interrupt_keeps_the_last_finished_epoch(tmp_path, capsys, monkeypatch):
    fit = train_vae.fit

    def interrupted(*arguments):
        yield next(fit(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(train_vae, "fit", interrupted)
    assert main(["train", "vae", "--out", str(tmp_path), *SMALL]) == 130
    assert sorted(os.listdir(tmp_path)) == ["metrics.jsonl", "model.safetensors", STATE]
    _, config = load_checkpoint(tmp_path / "model.safetensors")
    assert config["metrics"]["epoch"] == 1
    expected = f"pyaegpu: interrupted; {tmp_path / 'model.safetensors'} holds epoch 1\n"
    assert capsys.readouterr().err == expected


def test_divergence_writes_nothing(tmp_path, capsys):
    line = error_line(capsys, *SMALL, "--lr", "1e30", "--out", str(tmp_path / "run"))
    assert "epoch 1: the loss is not a finite number; try a smaller learning rate or beta" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_missing_cuda_device(tmp_path, capsys):
    line = error_line(capsys, "--device", "cuda", "--out", str(tmp_path / "run"))
    assert "no CUDA device" in line
    assert "--device cpu" in line
    assert not list(tmp_path.iterdir())


def test_missing_package(capsys, monkeypatch):
    monkeypatch.setattr(options, "find_spec", lambda name: None if name == "sklearn" else object())
    assert "pip install scikit-learn" in error_line(capsys)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--data", "mnist"], "--data mnist needs --data-root DIR"),
        (["--data", "cifar10"], "--data cifar10 needs --data-root DIR"),
        (["--data-root", "."], "--data-root goes with --data mnist"),
        (["--download"], "--download goes with --data mnist, fashion_mnist, cifar10; digits needs none"),
        (["--image-size", "8"], "--image-size goes with an image folder; digits is none"),
        (["--data", "mnist", "--data-root", "/nowhere"], "data folder /nowhere does not exist"),
        (["--data", "/nowhere"], "'/nowhere' is neither one of digits, mnist, fashion_mnist, cifar10 nor a path"),
        (["--data", __file__], "is no image folder and no .npy or .npz file"),
    ],
)
def test_bad_data_options(capsys, argv, message):
    assert message in error_line(capsys, *argv)


def test_damaged_data_file(tmp_path, capsys):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    path = raw / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(bytes(100))[:-9])
    (raw / "train-labels-idx1-ubyte").touch()
    out = tmp_path / "run"
    line = error_line(capsys, "--data", "mnist", "--data-root", str(tmp_path), "--out", str(out))
    assert str(path) in line
    assert not out.exists()


def test_out_is_a_file(tmp_path, capsys):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert "is a file; name a folder" in error_line(capsys, *SMALL, "--out", str(out))


def test_out_is_not_writable(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    assert "is not writable" in error_line(capsys, *SMALL, "--out", str(tmp_path / "run"))
    assert not list(tmp_path.iterdir())
