"""Saved states: what goes on from one is what would have gone on anyway."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from pyaegpu import models
from pyaegpu.training import (
    CheckpointError,
    Images,
    Run,
    Schedule,
    fit,
    load_checkpoint,
    load_state,
    make_loss,
    restore,
    save_checkpoint,
    save_state,
)

CONFIG = {"model": {"name": "vae"}, "training": {"lr": 1e-3, "limit": None}}
IMAGES = Images(torch.rand(50, 1, 3, 5, generator=torch.Generator().manual_seed(0)))
KWARGS = {"vae": {"input_dim": 15, "hidden": 8, "latent": 2}, "conv_vae": {"image_shape": (1, 3, 5), "channels": (3,)}}


def make_run(epochs=4, name="vae", dtype=torch.float32, fused=True, seed=3):
    torch.manual_seed(seed)
    model = models.create(name, fused=fused, **KWARGS[name])
    return Run(model, make_loss(fused=fused), Schedule(epochs, 16, 1e-2, seed), dtype)


def advance(run):
    list(fit(run, IMAGES, IMAGES))
    return run


def timeless(run):
    return [(row.epoch, row.train, row.test) for row in run.history]


@pytest.fixture
def saved(tmp_path):
    return save_state(tmp_path / "state", advance(make_run(2)), CONFIG)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "stock"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["vae", "conv_vae"])
def test_going_on_equals_not_stopping(tmp_path, name, dtype, fused):
    whole = advance(make_run(4, name, dtype, fused))
    path = save_state(tmp_path / "state", advance(make_run(2, name, dtype, fused)), CONFIG)
    run = make_run(4, name, dtype, fused)
    restore(run, load_state(path))
    assert run.epoch == 2
    advance(run)
    assert timeless(run) == timeless(whole)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(run.model.state_dict()[key], value), key
    assert run.scaler.state_dict() == whole.scaler.state_dict()


def test_the_scaler_is_part_of_it(tmp_path):
    run = make_run(1, dtype=torch.float16)
    run.scaler.load_state_dict(run.scaler.state_dict() | {"scale": 8.0, "_growth_tracker": 1997})
    path = save_state(tmp_path / "state", advance(run), CONFIG)
    assert run.scaler.get_scale() == 16  # four steps: it grew at the third
    again = make_run(1, dtype=torch.float16)
    restore(again, load_state(path))
    assert again.scaler.state_dict() == run.scaler.state_dict()


def test_content(saved):
    state = load_state(saved)
    assert (state.config, state.epoch) == (CONFIG, 2)
    run = make_run(2)
    restore(run, state)
    assert timeless(run) == timeless(advance(make_run(2)))


def test_another_device_gets_noise_of_its_own(saved):
    state = load_state(saved)
    state.details["device"] = "cuda"
    run = make_run(4)
    restore(run, state)
    assert timeless(advance(run))[:2] == timeless(advance(make_run(2)))
    assert timeless(run)[2:] != timeless(advance(make_run(4)))[2:]


def rewrite(path, change):
    """Applies `change(tensors, details)` to a state file."""
    state = load_state(path)
    tensors, details = dict(state.tensors), dict(state.details)
    change(tensors, details)
    save_file(tensors, path, {"state": json.dumps(details)})


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "one bit": lambda path: flip(path, -5),
    "other content": lambda path: path.write_bytes(b"no state" * 99),
    "no metadata": lambda path: save_file(load_file(path), path),
    "no history": lambda path: rewrite(path, lambda tensors, details: details.update(history=[])),
    "no checksum": lambda path: rewrite(path, lambda tensors, details: details.pop("checksum")),
    "no JSON": lambda path: save_file(load_file(path), path, {"state": "{"}),
    "JSON of another kind": lambda path: save_file(load_file(path), path, {"state": "[]"}),
    "a tensor less": lambda path: rewrite(path, lambda tensors, details: tensors.pop("model.encoder.0.bias")),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files(saved, damage):
    DAMAGES[damage](saved)
    with pytest.raises(CheckpointError, match=r"damaged or other file.*remove it, or leave out --resume") as caught:
        load_state(saved)
    assert str(caught.value).startswith(str(saved))


def test_a_checkpoint_is_no_state_and_a_state_no_checkpoint(tmp_path, saved):
    config = {"model": {"name": "vae", "kwargs": KWARGS["vae"]}}
    with pytest.raises(CheckpointError, match="not the saved state"):
        load_state(save_checkpoint(tmp_path / "model", make_run().model, config))
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_checkpoint(saved)


@pytest.mark.parametrize("key", ["history", "scaler", "device"])
def test_details_that_are_missing(saved, key):
    state = load_state(saved)
    del state.details[key]
    with pytest.raises(CheckpointError, match="not the saved state of this run"):
        restore(make_run(), state)


def test_state_of_other_sizes(saved):
    with pytest.raises(CheckpointError, match="not the saved state of this run"):
        restore(make_run(name="conv_vae"), load_state(saved))
