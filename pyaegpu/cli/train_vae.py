"""The work of `pyaegpu train vae`."""

import argparse
import json
import os
from pathlib import Path
from typing import Any, cast

import torch

from pyaegpu import backends, data, models
from pyaegpu.cli.errors import UsageError
from pyaegpu.cli.options import pick_device, require
from pyaegpu.cli.report import Report
from pyaegpu.training import (
    OUTPUT_OF_KIND,
    EpochMetrics,
    Schedule,
    atomic_write,
    fit,
    make_loss,
    save_checkpoint,
)
from pyaegpu.training.pictures import loss_curve_png, reconstruction_png, sample_png

CHECKPOINT = "model.safetensors"
METRICS = "metrics.jsonl"

_PACKAGES = {"safetensors": "safetensors", "matplotlib": "matplotlib", "PIL": "pillow", "tqdm": "tqdm"}


def run_vae(arguments: argparse.Namespace) -> None:
    """Trains, writing checkpoint and metrics after each epoch and the pictures at the end."""
    require(_PACKAGES | ({"sklearn": "scikit-learn"} if arguments.data == "digits" else {}))
    device = pick_device(arguments.device)
    if not arguments.stock:
        backends.choose("vae_loss", device)  # a backend that cannot serve is told before the training starts
    dataset = _load(arguments)
    out = _writable_folder(Path(arguments.out or f"runs/vae-{arguments.data}"))
    config = _config(arguments, dataset)
    model = _create(config["model"], not arguments.stock, arguments.seed).to(device)
    report = Report(arguments)
    report.start(_summary(arguments, dataset, device))
    history = _train(arguments, model, dataset, config, out, report)
    pictures = {
        "reconstruction.png": reconstruction_png(model, dataset.test.images.to(device)),
        "samples.png": sample_png(model, dataset.image_shape, arguments.seed),
        "loss.png": loss_curve_png(history),
    }
    written = [atomic_write(out / name, content) for name, content in pictures.items()]
    report.files([out / CHECKPOINT, out / METRICS, *written])


def _load(arguments: argparse.Namespace) -> data.Dataset:
    if arguments.data == "mnist" and arguments.data_root is None:
        raise UsageError("--data mnist needs --data-root DIR, the folder that holds MNIST/raw")
    if arguments.data != "mnist" and arguments.data_root is not None:
        raise UsageError("--data-root goes with --data mnist; the digits come with scikit-learn")
    dataset = data.load(arguments.data, arguments.data_root)
    return dataset.limited(arguments.limit) if arguments.limit else dataset


def _writable_folder(path: Path) -> Path:
    """`path`, checked but not made: nothing is left behind when training fails in its first epoch."""
    nearest = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise UsageError(f"--out {path}: {nearest} is a file; name a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(f"--out {path}: {nearest} is not writable; name another folder")
    return path


def _config(arguments: argparse.Namespace, dataset: data.Dataset) -> dict[str, Any]:
    """What the checkpoint says of its origin; "model" is what `models.create` takes."""
    kwargs = {
        "input_dim": dataset.train.images[0].numel(),
        "hidden": arguments.hidden,
        "latent": arguments.latent,
        "output": OUTPUT_OF_KIND[arguments.kind],
    }
    names = ("epochs", "batch_size", "lr", "beta", "kind", "seed", "stock", "limit")
    return {
        "model": {"name": "vae", "kwargs": kwargs},
        "data": {"name": dataset.name, "image_shape": list(dataset.image_shape)},
        "training": {name: getattr(arguments, name) for name in names},
    }


def _create(spec: dict[str, Any], fused: bool, seed: int) -> models.VAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cast(models.VAE, models.create(spec["name"], fused=fused, **spec["kwargs"]))


def _summary(arguments: argparse.Namespace, dataset: data.Dataset, device: torch.device) -> str:
    sizes = f"{dataset.train.images[0].numel()}-{arguments.hidden}-{arguments.latent}"
    ops = "stock" if arguments.stock else "fused"
    counts = f"{len(dataset.train):,} training and {len(dataset.test):,} test images"
    return f"vae {sizes} on {dataset.name}, {counts}; {device}, {ops} ops; losses in nats per sample"


def _train(
    arguments: argparse.Namespace,
    model: models.VAE,
    dataset: data.Dataset,
    config: dict[str, Any],
    out: Path,
    report: Report,
) -> list[EpochMetrics]:
    device = next(model.parameters()).device
    loss = make_loss(arguments.kind, arguments.beta, fused=model.fused)
    schedule = Schedule(arguments.epochs, arguments.batch_size, arguments.lr, arguments.seed)
    train, test = (split.images.to(device) for split in (dataset.train, dataset.test))
    history: list[EpochMetrics] = []
    lines: list[str] = []
    try:
        with report.bar(-(-len(train) // schedule.batch_size)) as progress:
            for metrics in fit(model, loss, train, test, schedule, progress):
                history.append(metrics)
                save_checkpoint(out / CHECKPOINT, model, config | {"metrics": metrics.as_dict()})
                lines.append(json.dumps(metrics.as_dict()) + "\n")
                atomic_write(out / METRICS, "".join(lines).encode())
                report.epoch(metrics)
    except KeyboardInterrupt:
        kept = f"{out / CHECKPOINT} holds epoch {history[-1].epoch}" if history else "no epoch was finished"
        raise KeyboardInterrupt(kept) from None
    return history
