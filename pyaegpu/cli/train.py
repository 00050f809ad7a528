"""`pyaegpu train MODEL`: the options; `run_vae` does the work."""

import argparse
from dataclasses import dataclass
from typing import Any

from pyaegpu import data
from pyaegpu.cli.options import add_output_options, add_run_options, real, whole
from pyaegpu.cli.train_vae import run_vae
from pyaegpu.training import OUTPUT_OF_KIND

MAX_COUNT = 2**31 - 1
MAX_WIDTH = 2**24


@dataclass(frozen=True)
class Defaults:
    """Sizes and schedule that suit a data set."""

    epochs: int
    batch_size: int
    lr: float
    hidden: int
    latent: int


VAE_DEFAULTS = {
    "digits": Defaults(epochs=200, batch_size=64, lr=3e-3, hidden=256, latent=10),
    "mnist": Defaults(epochs=10, batch_size=128, lr=2e-3, hidden=400, latent=20),
}


def add_parser(commands: Any) -> None:
    """Adds the sub-command with one sub-command per model."""
    parser = commands.add_parser("train", help="train a model", description="Trains a model.")
    models = parser.add_subparsers(dest="model", required=True, metavar="MODEL")
    _add_vae(models)


def _add_vae(models: Any) -> None:
    parser = models.add_parser(
        "vae",
        help="variational autoencoder of fully connected layers",
        description="Trains a variational autoencoder and writes a checkpoint, the metrics and pictures.",
        epilog="Losses are in nats per sample. Grey values count as Bernoulli means (mse: Gaussian means).",
    )
    _add_data_options(parser)
    for name, kind, metavar, text in (
        ("epochs", whole(1, MAX_COUNT), "N", "passes over the training samples"),
        ("batch_size", whole(1, MAX_COUNT), "N", "samples per step"),
        ("lr", real(0, inclusive=False), "X", "learning rate of Adam"),
        ("hidden", whole(1, MAX_WIDTH), "N", "width of the hidden layers"),
        ("latent", whole(1, MAX_WIDTH), "N", "number of latent variables"),
    ):
        values = ", ".join(f"{getattr(row, name):g} for {key}" for key, row in VAE_DEFAULTS.items())
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=kind, metavar=metavar, help=f"{text}; default: {values}")
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
    add_run_options(parser)
    parser.add_argument("--out", metavar="DIR", help="folder of the files; default: runs/vae-<data>")
    add_output_options(parser)
    parser.set_defaults(run=_run_vae)


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", choices=data.NAMES, default="digits", help="default: digits (bundled with scikit-learn)"
    )
    parser.add_argument(
        "--data-root",
        metavar="DIR",
        help="where --data mnist has its IDX files: DIR/MNIST/raw, DIR/raw or DIR",
    )
    parser.add_argument("--limit", type=whole(1), help=argparse.SUPPRESS)


def _run_vae(arguments: argparse.Namespace) -> None:
    for name, value in vars(VAE_DEFAULTS[arguments.data]).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    run_vae(arguments)
