"""Checkpoints."""

import pytest
import torch
from safetensors.torch import save_file

from pyaegpu import models
from pyaegpu.training import CheckpointError, load_checkpoint, save_checkpoint

KWARGS = {"input_dim": 12, "hidden": 7, "latent": 3, "output": "sigmoid"}
CONFIG = {"model": {"name": "vae", "kwargs": KWARGS}, "training": {"lr": 1e-3, "limit": None}}


def test_round_trip(tmp_path):
    model = models.create("vae", **KWARGS)
    path = save_checkpoint(tmp_path / "model.safetensors", model, CONFIG)
    loaded, config = load_checkpoint(path, fused=False)
    assert config == CONFIG
    assert (loaded.fused, loaded.output) == (False, "sigmoid")
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
    x = torch.rand(4, 12)
    assert torch.equal(loaded.encode(x)[0], model.encode(x)[0])


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"absent\.safetensors"):
        load_checkpoint(tmp_path / "absent.safetensors")


def test_truncated_file(tmp_path):
    path = save_checkpoint(tmp_path / "model.safetensors", models.create("vae", **KWARGS), CONFIG)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"config": "{"},
        {"config": "[]"},
        {"config": '{"model": {"name": "gan", "kwargs": {}}}'},
        {"config": '{"model": {"name": "vae", "kwargs": {"width": 3}}}'},
        {"config": '{"model": {"name": "vae", "kwargs": {}}}'},
    ],
    ids=["none", "no JSON", "wrong JSON", "other model", "other keyword", "other sizes"],
)
def test_file_of_another_kind(tmp_path, metadata):
    path = tmp_path / "model.safetensors"
    save_file(models.create("vae", **KWARGS).state_dict(), path, metadata)
    with pytest.raises(CheckpointError, match="not a checkpoint of pyaegpu"):
        load_checkpoint(path)
