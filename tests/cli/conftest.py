"""Training runs, and what must not depend on where they were stopped."""

import json

import pytest
import torch
from safetensors.torch import load_file

from pyaegpu.cli.main import main
from pyaegpu.training import load_checkpoint

SMALL = ["--limit", "100", "--latent", "3", "--device", "cpu", "--batch-size", "32"]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Models this small spend their time waiting for a second one, the more so where others use the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small():
    """The arguments of a small run of each model."""
    conv_vae = ["conv_vae", *SMALL, "--channels", "4,5"]
    return {
        "vae": ["vae", *SMALL, "--hidden", "16"],
        "conv_vae": conv_vae,
        "batch_norm": [*conv_vae, "--batch-norm"],
    }


@pytest.fixture(scope="session")
def train():
    """train(out, argv, epochs, *more) runs the command and returns its exit status."""

    def train(out, argv, epochs, *more):
        return main(["train", *argv, "--out", str(out), "--epochs", str(epochs), *more])

    return train


@pytest.fixture(scope="session")
def result():
    """result(out): metrics, weights, configuration and pictures of a run."""

    def result(out):
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        weights = {key: value.numpy().tobytes() for key, value in load_file(out / "model.safetensors").items()}
        _, config = load_checkpoint(out / "model.safetensors")
        assert config.pop("metrics") == rows[-1]
        timeless = [{key: value for key, value in row.items() if not key.startswith("s")} for row in rows]
        return timeless, weights, config, (out / "samples.png").read_bytes(), (out / "reconstruction.png").read_bytes()

    return result
