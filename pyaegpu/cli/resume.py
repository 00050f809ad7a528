"""--resume: is the saved run the one that the arguments describe?"""

from pathlib import Path
from typing import Any

from pyaegpu.cli.errors import UsageError
from pyaegpu.training import SavedState, load_state

# These may change; a data set is compared by its content.
_FREE = ("epochs", "limit", "input_dim", "image_shape", "output")


def saved_run(path: Path, config: dict[str, Any]) -> SavedState | None:
    """The state saved in `path`, None where there is none. One of another run than `config`'s: UsageError."""
    if not path.exists():
        return None
    saved = load_state(path)
    _compare_models(path, saved.config, config)
    _compare_data(saved.config["data"], config["data"])
    _compare_options(_options(saved.config), _options(config))
    epochs = config["training"]["epochs"]
    if epochs < saved.epoch:
        raise UsageError(f"--resume: the saved run has finished epoch {saved.epoch}, but --epochs is {epochs}")
    return saved


def _compare_models(path: Path, saved: dict[str, Any], given: dict[str, Any]) -> None:
    names = [config["model"]["name"] for config in (saved, given)]
    if names[0] != names[1]:
        raise UsageError(f"--resume: {path} is the state of a {names[0]}, not of a {names[1]}")


def _compare_data(saved: dict[str, Any], given: dict[str, Any]) -> None:
    if saved | {"name": None} != given | {"name": None}:
        raise UsageError(
            f"--resume: the saved run has another data set: it had {_describe(saved)}; now it is {_describe(given)}"
        )


def _describe(described: dict[str, Any]) -> str:
    train, test = described["samples"]
    shape = "x".join(map(str, described["image_shape"]))
    return f"{described['name']}, {train} + {test} images of {shape}, checksum {described['checksum']}"


def _options(config: dict[str, Any]) -> dict[str, Any]:
    options = config["model"]["kwargs"] | config["training"]
    return {name: value for name, value in options.items() if name not in _FREE}


def _compare_options(saved: dict[str, Any], given: dict[str, Any]) -> None:
    for name, value in given.items():
        before = saved.get(name, False)  # a switch that older runs did not have was off
        if before != value:
            raise UsageError(
                f"--resume: --{name.replace('_', '-')} was {_text(before)} in the saved run and is {_text(value)} now;"
                " give the same, or leave out --resume to start anew"
            )


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
