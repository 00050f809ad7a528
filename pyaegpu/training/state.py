"""The saved state of a run: one file with all that it needs to go on as if it had not stopped."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pyaegpu.training.checkpoint import CheckpointError, on_cpu, read_tensors
from pyaegpu.training.checksum import checksum
from pyaegpu.training.files import atomic_write
from pyaegpu.training.metrics import EpochMetrics
from pyaegpu.training.run import Run

_MODEL, _OPTIMIZER, _ORDER, _NOISE = "model.", "optimizer.", "generator.order", "generator.noise"


@dataclass(frozen=True)
class SavedState:
    """What a state file holds; `details` are the parts that are no tensors."""

    path: Path
    tensors: dict[str, Tensor]
    details: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that the run was saved with."""
        return dict(self.details["config"])

    @property
    def epoch(self) -> int:
        """The last finished epoch."""
        return int(self.details["history"][-1]["epoch"])


def save_state(path: str | Path, run: Run, config: dict[str, Any]) -> Path:
    """Writes `run` and `config`, atomically: weights, Adam's state, loss scaler, generators and history."""
    from safetensors.torch import save

    tensors = on_cpu(_tensors(run))
    details = {
        "config": config,
        "history": [row.as_dict() for row in run.history],
        "scaler": run.scaler.state_dict(),
        "device": run.device.type,
        "checksum": _checksum(tensors),
    }
    return atomic_write(path, save(tensors, metadata={"state": json.dumps(details)}))


def load_state(path: str | Path) -> SavedState:
    """The content of a file that `save_state` wrote. A damaged or other file: CheckpointError saying what to do."""
    try:
        tensors, metadata = read_tensors(path)
        saved = SavedState(Path(path), tensors, json.loads(metadata["state"]))
        if saved.details["checksum"] != _checksum(tensors):
            raise ValueError("its checksum does not fit")
        if saved.epoch < 1 or not isinstance(saved.config, dict):
            raise ValueError("it holds no finished epoch")
    except (CheckpointError, KeyError, IndexError, TypeError, ValueError) as error:
        raise _unusable(path, error) from error
    return saved


def restore(run: Run, saved: SavedState) -> None:
    """Brings `run` to where it was saved. A file that does not fit it: CheckpointError.

    On another kind of device than the run was saved on, its noise goes on from a new seed.
    """
    try:
        _restore_tensors(run, saved.tensors)
        run.scaler.load_state_dict(saved.details["scaler"])
        run.order.set_state(saved.tensors[_ORDER])
        if saved.details["device"] == run.device.type:
            run.noise.set_state(saved.tensors[_NOISE])
        else:
            run.noise.manual_seed((run.schedule.seed + 1 + saved.epoch) % 2**63)
        run.history = [EpochMetrics.from_dict(row) for row in saved.details["history"]]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _unusable(saved.path, error) from error


def _tensors(run: Run) -> dict[str, Tensor]:
    tensors = {f"{_MODEL}{key}": value for key, value in run.model.state_dict().items()}
    for index, values in run.optimizer.state_dict()["state"].items():
        tensors |= {f"{_OPTIMIZER}{index}.{name}": value for name, value in values.items()}
    return tensors | {_ORDER: run.order.get_state(), _NOISE: run.noise.get_state()}


def _restore_tensors(run: Run, tensors: dict[str, Tensor]) -> None:
    run.model.load_state_dict(_below(_MODEL, tensors))
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _below(_OPTIMIZER, tensors).items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    run.optimizer.load_state_dict({"state": state, "param_groups": run.optimizer.state_dict()["param_groups"]})


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _checksum(tensors: dict[str, Tensor]) -> str:
    return checksum(tensors[key] for key in sorted(tensors))


def _unusable(path: str | Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path}: a damaged or other file, not the saved state of this run ({error});"
        " remove it, or leave out --resume, to start at epoch 1"
    )
