"""`pyaegpu generate`."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from pyaegpu.cli.main import main
from pyaegpu.training import load_checkpoint, save_checkpoint

SMALL = ["--epochs", "1", "--limit", "50", "--latent", "3", "--device", "cpu", "--quiet"]
WIDTHS = {"vae": ["--hidden", "8"], "conv_vae": ["--channels", "3"]}


@pytest.fixture(scope="module", params=WIDTHS)
def run(request, tmp_path_factory):
    """The folder of a trained model."""
    out = tmp_path_factory.mktemp(request.param)
    assert main(["train", request.param, *SMALL, *WIDTHS[request.param], "--out", str(out)]) == 0
    return out


def error_line(capsys, *argv):
    assert main(["generate", *map(str, argv)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pyaegpu: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def array(run, tmp_path, *argv):
    out = tmp_path / "x.npy"
    assert main(["generate", str(run), "--out", str(out), *argv]) == 0
    return np.load(out)


def test_picture_beside_the_checkpoint(run, capsys):
    capsys.readouterr()
    assert main(["generate", str(run)]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.endswith(f"of {run / 'model.safetensors'}: 80 images of 1x8x8")
    assert rest == ["wrote:", str(run / "generated.png")]
    # The same z as in the samples of the training.
    assert (run / "generated.png").read_bytes() == (run / "samples.png").read_bytes()


def test_array_is_what_the_decoder_gives(run, tmp_path):
    images = array(run / "model.safetensors", tmp_path, "--count", "7", "--seed", "5", "--temperature", "0.5")
    assert (images.shape, images.dtype) == ((7, 1, 8, 8), np.float32)
    model, _ = load_checkpoint(run / "model.safetensors")
    z = 0.5 * torch.randn(7, 3, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        np.testing.assert_allclose(images, model.generate(z).view(7, 1, 8, 8).numpy(), rtol=1e-5)


def test_seed_and_stock(run, tmp_path):
    first = array(run, tmp_path)
    assert np.array_equal(first, array(run, tmp_path, "--seed", "0", "--stock"))
    assert not np.array_equal(first, array(run, tmp_path, "--seed", "1"))
    before = torch.get_rng_state()
    array(run, tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def test_grid(run, tmp_path):
    out = tmp_path / "new" / "grid.png"
    assert main(["generate", str(run), "--out", str(out), "--count", "5", "--columns", "3", "--quiet"]) == 0
    assert Image.open(out).size == (3 * 60 + 4, 2 * 60 + 4)
    assert main(["generate", str(run), "--out", str(out), "--count", "2", "--columns", "1000000", "--quiet"]) == 0
    assert Image.open(out).size == (2 * 60 + 4, 60 + 4)


def test_json_and_quiet(run, tmp_path, capsys):
    capsys.readouterr()
    out = str(tmp_path / "x.npy")
    assert main(["generate", str(run), "--out", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"files": [out]}
    assert main(["generate", str(run), "--out", out, "--quiet"]) == 0
    assert capsys.readouterr().out == f"wrote:\n{out}\n"


def test_coloured_array(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((9, 3, 5, 4)))
    argv = ["--epochs", "1", "--channels", "2", "--device", "cpu", "--out", str(tmp_path)]
    assert main(["train", "conv_vae", "--data", str(tmp_path / "x.npy"), *argv]) == 0
    assert array(tmp_path, tmp_path, "--count", "2").shape == (2, 3, 5, 4)


@pytest.mark.parametrize("out", ["x.jpg", "x", "x.PNG"])
def test_other_formats(run, tmp_path, capsys, out):
    capsys.readouterr()
    assert f"{out}: the name must end in .png or .npy" in error_line(capsys, run, "--out", tmp_path / out)


def test_folder_in_place_of_the_file(run, tmp_path, capsys):
    capsys.readouterr()
    (tmp_path / "x.png").mkdir()
    assert "x.png is a folder; name a file" in error_line(capsys, run, "--out", tmp_path / "x.png")


def test_things_that_are_no_checkpoint(run, tmp_path, capsys):
    capsys.readouterr()
    assert "absent: not a readable safetensors file" in error_line(capsys, tmp_path / "absent")
    assert f"{tmp_path / 'model.safetensors'}: not a readable" in error_line(capsys, tmp_path)
    assert "metrics.jsonl: not a readable" in error_line(capsys, run / "metrics.jsonl")
    assert "training.safetensors: not a checkpoint of pyaegpu" in error_line(capsys, run / "training.safetensors")


@pytest.mark.parametrize("described", [{}, {"data": None}, {"data": {"image_shape": [1, 3, 3]}}], ids=str)
def test_checkpoint_that_does_not_tell_the_shape(run, tmp_path, capsys, described):
    capsys.readouterr()
    model, config = load_checkpoint(run / "model.safetensors")
    path = save_checkpoint(tmp_path / "model.safetensors", model, {"model": config["model"]} | described)
    assert "does not tell the shape of its images" in error_line(capsys, path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_missing_cuda_device(run, capsys):
    capsys.readouterr()
    assert "no CUDA device" in error_line(capsys, run, "--device", "cuda")
