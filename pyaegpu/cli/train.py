"""`pyaegpu train MODEL`: the options; `run_vae` does the work."""

import argparse
from dataclasses import dataclass
from typing import Any

from pyaegpu.cli.datasets import add_data_options
from pyaegpu.cli.options import MAX_COUNT, add_dtype_option, add_output_options, add_run_options, real, whole, wholes
from pyaegpu.cli.train_vae import run_vae
from pyaegpu.training import OUTPUT_OF_KIND

MAX_WIDTH = 2**24


@dataclass(frozen=True)
class Defaults:
    """Sizes and schedule that suit a data set."""

    epochs: int
    batch_size: int
    lr: float
    hidden: int
    channels: tuple[int, ...]
    latent: int


_MNIST = Defaults(epochs=10, batch_size=128, lr=2e-3, hidden=400, channels=(32, 64), latent=20)
DEFAULTS = {
    "digits": Defaults(epochs=200, batch_size=64, lr=3e-3, hidden=256, channels=(32, 64), latent=10),
    "mnist": _MNIST,
    "fashion_mnist": _MNIST,
    "cifar10": Defaults(epochs=20, batch_size=128, lr=1e-3, hidden=1024, channels=(64, 128, 256), latent=128),
}
OTHER_DATA = Defaults(epochs=20, batch_size=128, lr=1e-3, hidden=512, channels=(32, 64, 128), latent=32)

# Option: the type of its value, its metavar, what it is.
_SHARED_SIZES: dict[str, tuple[Any, str, str]] = {
    "epochs": (whole(1, MAX_COUNT), "N", "passes over the training samples"),
    "batch_size": (whole(1, MAX_COUNT), "N", "samples per step"),
    "lr": (real(0, inclusive=False), "X", "learning rate of Adam"),
    "latent": (whole(1, MAX_WIDTH), "N", "number of latent variables"),
}
_WIDTHS: dict[str, dict[str, tuple[Any, str, str]]] = {
    "vae": {"hidden": (whole(1, MAX_WIDTH), "N", "width of the hidden layers")},
    "conv_vae": {
        "channels": (wholes(1, MAX_WIDTH), "N,N,...", "widths of the convolutions, each of which halves the image")
    },
}
_HELP = {
    "vae": "variational autoencoder of fully connected layers",
    "conv_vae": "variational autoencoder of strided and transposed convolutions",
}


def add_parser(commands: Any) -> None:
    """Adds the sub-command with one sub-command per model."""
    parser = commands.add_parser("train", help="train a model", description="Trains a model.")
    models = parser.add_subparsers(dest="model", required=True, metavar="MODEL")
    for name in _HELP:
        _add_model(models, name)


def _add_model(models: Any, name: str) -> None:
    parser = models.add_parser(
        name,
        help=_HELP[name],
        description=f"Trains a {_HELP[name]} and writes a checkpoint, the metrics and pictures.",
        epilog="Losses are in nats per sample. Grey values count as Bernoulli means (mse: Gaussian means).",
    )
    add_data_options(parser)
    for size, (kind, metavar, text) in (_SHARED_SIZES | _WIDTHS[name]).items():
        option = f"--{size.replace('_', '-')}"
        parser.add_argument(option, type=kind, metavar=metavar, help=f"{text}; default: {_defaults_text(size)}")
    if name == "conv_vae":
        parser.add_argument("--batch-norm", action="store_true", help="batch normalisation after the convolutions")
    parser.add_argument(
        "--beta",
        type=real(0, inclusive=True),
        metavar="X",
        default=1.0,
        help="weight of the KL part; default: 1",
    )
    parser.add_argument(
        "--kind",
        choices=tuple(OUTPUT_OF_KIND),
        default="bce_logits",
        help="reconstruction loss; default: bce_logits",
    )
    add_run_options(parser, "of the weights, the order of the samples and the noise")
    add_dtype_option(parser)
    parser.add_argument("--out", metavar="DIR", help=f"folder of the files; default: runs/{name}-<data>")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --out after its last finished epoch; give the same arguments (--epochs may grow)",
    )
    add_output_options(parser)
    parser.set_defaults(run=_run)


def _defaults_text(size: str) -> str:
    values = [f"{_text(getattr(row, size))} for {name}" for name, row in DEFAULTS.items()]
    return ", ".join([*values, f"else {_text(getattr(OTHER_DATA, size))}"])


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"


def _run(arguments: argparse.Namespace) -> None:
    defaults = DEFAULTS.get(arguments.data, OTHER_DATA)
    for size in _SHARED_SIZES | _WIDTHS[arguments.model]:
        if getattr(arguments, size) is None:
            setattr(arguments, size, getattr(defaults, size))
    run_vae(arguments)
