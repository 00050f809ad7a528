"""`pyaegpu train` on the user's own images, and on named data sets that torchvision brings."""

import json

import numpy as np
import pytest
from PIL import Image

from pyaegpu.cli import datasets
from pyaegpu.cli.main import main
from pyaegpu.data import from_torchvision
from pyaegpu.training import load_checkpoint

RNG = np.random.default_rng(0)
SMALL = ["--epochs", "1", "--latent", "2", "--device", "cpu"]
CONV = ["conv_vae", *SMALL, "--channels", "3,2"]
MLP = ["vae", *SMALL, "--hidden", "4"]


def put_images(folder, size=(7, 5), count=12):
    folder.mkdir()
    for i in range(count):
        Image.fromarray(RNG.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def error_line(capsys, *argv):
    assert main(["train", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("pyaegpu: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("model", [CONV, MLP], ids=["conv_vae", "vae"])
def test_image_folder(tmp_path, capsys, monkeypatch, model):
    put_images(tmp_path / "shapes")
    monkeypatch.chdir(tmp_path)
    assert main(["train", *model, "--data", "shapes"]) == 0
    captured = capsys.readouterr()
    assert "on shapes, 11 training and 1 test images" in captured.out.splitlines()[0]
    assert captured.err == ""
    _, config = load_checkpoint(tmp_path / f"runs/{model[0]}-shapes/model.safetensors")
    assert config["data"]["image_shape"] == [3, 7, 5]
    samples = np.asarray(Image.open(tmp_path / f"runs/{model[0]}-shapes/samples.png"))
    assert samples.ndim == 3


@pytest.mark.parametrize("shape", [(20, 6), (20, 9, 7), (20, 9, 7, 3)], ids=str)
@pytest.mark.parametrize("model", [CONV, MLP], ids=["conv_vae", "vae"])
def test_array_file(tmp_path, model, shape):
    np.savez(tmp_path / "waves.npz", x_train=RNG.random(shape), x_test=RNG.random((3, *shape[1:])))
    out = tmp_path / "run"
    assert main(["train", *model, "--data", str(tmp_path / "waves.npz"), "--out", str(out), "--kind", "mse"]) == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert np.isfinite(rows[0]["test_negative_elbo"])


def test_image_size(tmp_path, capsys):
    folder = put_images(tmp_path / "a")
    Image.fromarray(RNG.integers(0, 256, (9, 4), dtype=np.uint8)).save(folder / "other.png")
    line = error_line(capsys, *CONV, "--data", str(folder), "--out", str(tmp_path / "run"))
    assert "other.png: 4x9 pixels" in line
    assert "--image-size N" in line
    argv = ["--data", str(folder), "--image-size", "6", "--out", str(tmp_path / "run")]
    assert main(["train", *CONV, *argv]) == 0
    assert "conv_vae 3x6x6-3-2-2 on a" in capsys.readouterr().out


def test_broken_image(tmp_path, capsys):
    folder = put_images(tmp_path / "a")
    (folder / "5.png").write_bytes((folder / "5.png").read_bytes()[:60])
    line = error_line(capsys, *CONV, "--data", str(folder), "--out", str(tmp_path / "run"))
    assert f"{folder / '5.png'}: not a readable image" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("option", "shown"), [("--progress", True), ("--no-progress", False), ("--quiet", False)])
def test_bar_while_reading(tmp_path, capsys, monkeypatch, option, shown):
    monkeypatch.setattr("pyaegpu.cli.report._SECONDS_WITHOUT_BAR", 0)
    folder = put_images(tmp_path / "a")
    assert main(["train", *CONV, "--data", str(folder), "--out", str(tmp_path / "run"), option]) == 0
    assert ("reading images" in capsys.readouterr().err) is shown


def test_wrong_scale(tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.full((9, 4, 4), 255.0))
    line = error_line(capsys, *MLP, "--data", str(tmp_path / "x.npy"))
    assert "values from 255 to 255; scale them to [0, 1]" in line


@pytest.mark.parametrize("argv", [["mnist", "--download"], ["fashion_mnist", "--download"], ["cifar10"]])
def test_without_torchvision(tmp_path, capsys, monkeypatch, argv):
    monkeypatch.setattr(from_torchvision, "available", lambda: False)
    line = error_line(capsys, *MLP, "--data", *argv, "--data-root", str(tmp_path / "data"))
    assert f"{argv[1] if argv[1:] else '--data cifar10'} needs torchvision, which cannot be imported" in line
    assert "pip install torchvision, or " in line


def test_download_goes_before_reading(tmp_path, capsys, monkeypatch):
    done = []
    monkeypatch.setattr(from_torchvision, "available", lambda: True)
    monkeypatch.setattr(datasets.from_torchvision, "download", lambda *args: done.append(args))
    line = error_line(capsys, *MLP, "--data", "mnist", "--download", "--data-root", str(tmp_path))
    assert done == [("mnist", str(tmp_path))]
    assert "no MNIST files in" in line
