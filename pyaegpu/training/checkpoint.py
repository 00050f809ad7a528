"""Checkpoints: a safetensors file whose metadata hold the configuration as JSON."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyaegpu import models
from pyaegpu.training.files import atomic_write


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and what is wrong."""


def save_checkpoint(path: str | Path, model: nn.Module, config: dict[str, Any]) -> Path:
    """Writes the weights of `model` and `config`, atomically.

    `config["model"]` must be {"name": …, "kwargs": {…}}, as `models.create` takes them.
    """
    from safetensors.torch import save

    return atomic_write(path, save(on_cpu(model.state_dict()), metadata={"config": json.dumps(config)}))


def load_checkpoint(
    path: str | Path, fused: bool = True, device: str | torch.device = "cpu"
) -> tuple[nn.Module, dict[str, Any]]:
    """(model, config) of a file that `save_checkpoint` wrote. Anything else: CheckpointError."""
    tensors, metadata = read_tensors(path, device)
    try:
        config = json.loads(metadata["config"])
        with torch.random.fork_rng(devices=[]):  # the first weights are drawn, and soon overwritten
            model = models.create(config["model"]["name"], fused=fused, **config["model"]["kwargs"])
        model.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not a checkpoint of pyaegpu ({error})") from error
    return model.to(device), config


def on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as a safetensors file takes them."""
    return {key: value.detach().cpu().contiguous() for key, value in tensors.items()}


def read_tensors(path: str | Path, device: str | torch.device = "cpu") -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a safetensors file. Anything else: CheckpointError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
