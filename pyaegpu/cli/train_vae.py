"""The work of `pyaegpu train vae` and `pyaegpu train conv_vae`."""

import argparse
import json
import os
from pathlib import Path
from typing import Any, cast

import torch

from pyaegpu import backends, data, models
from pyaegpu.cli.datasets import load_dataset
from pyaegpu.cli.errors import UsageError
from pyaegpu.cli.options import pick_device, require
from pyaegpu.cli.report import Report
from pyaegpu.cli.resume import saved_run
from pyaegpu.training import (
    DTYPES,
    OUTPUT_OF_KIND,
    Images,
    Run,
    Schedule,
    atomic_write,
    checksum,
    fit,
    make_loss,
    place,
    remove_leftovers,
    restore,
    save_checkpoint,
    save_state,
)
from pyaegpu.training.pictures import loss_curve_png, reconstruction_png, sample_png

CHECKPOINT = "model.safetensors"
STATE = "training.safetensors"
METRICS = "metrics.jsonl"
PICTURES = ("reconstruction.png", "samples.png", "loss.png")

_PACKAGES = {"safetensors": "safetensors", "matplotlib": "matplotlib", "PIL": "pillow", "tqdm": "tqdm"}
_OPS = ("vae_loss", "reparameterize")


def run_vae(arguments: argparse.Namespace) -> None:
    """Trains, writing checkpoint and metrics after each epoch and the pictures at the end."""
    require(_PACKAGES | ({"sklearn": "scikit-learn"} if arguments.data == "digits" else {}))
    device = pick_device(arguments.device)
    if not arguments.stock:
        for op in (*_OPS, "norm_act") if getattr(arguments, "batch_norm", False) else _OPS:
            backends.choose(op, device)  # a backend that cannot serve is told before the training starts
    report = Report(arguments)
    dataset = load_dataset(arguments, report.reading)
    out = _writable_folder(Path(arguments.out or f"runs/{arguments.model}-{dataset.name}"))
    config = _config(arguments, dataset)
    saved = saved_run(out / STATE, config) if arguments.resume else None
    run = _make_run(arguments, config["model"], device)
    if saved is not None:
        restore(run, saved)
    train, test = place(dataset.train.images, dataset.test.images, device)
    report.start(_summary(arguments, config, train))
    if arguments.resume:
        report.resumed(run.epoch, out)
    remove_leftovers(out, (CHECKPOINT, STATE, METRICS, *PICTURES))
    _train(run, train, test, config, out, report)
    written = _write_pictures(run, test, dataset.image_shape, out)
    report.files([out / CHECKPOINT, out / METRICS, *written])


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
    shape = list(dataset.image_shape)
    sizes: dict[str, Any] = {"latent": arguments.latent, "output": OUTPUT_OF_KIND[arguments.kind]}
    if arguments.model == "vae":
        sizes |= {"input_dim": dataset.train.images[0].numel(), "hidden": arguments.hidden}
    else:
        sizes |= {"image_shape": shape, "channels": list(arguments.channels), "batch_norm": arguments.batch_norm}
    names = ("epochs", "batch_size", "lr", "beta", "kind", "seed", "stock", "dtype", "limit")
    return {
        "model": {"name": arguments.model, "kwargs": sizes},
        "data": {
            "name": dataset.name,
            "image_shape": shape,
            "samples": [len(dataset.train), len(dataset.test)],
            "checksum": checksum((dataset.train.images, dataset.test.images)),
        },
        "training": {name: getattr(arguments, name) for name in names},
    }


def _make_run(arguments: argparse.Namespace, spec: dict[str, Any], device: torch.device) -> Run:
    fused = not arguments.stock
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(arguments.seed)
        model = models.create(spec["name"], fused=fused, **spec["kwargs"]).to(device)
    loss = make_loss(arguments.kind, arguments.beta, fused=fused)
    schedule = Schedule(arguments.epochs, arguments.batch_size, arguments.lr, arguments.seed)
    return Run(model, loss, schedule, DTYPES[arguments.dtype])


def _summary(arguments: argparse.Namespace, config: dict[str, Any], train: Images) -> str:
    kwargs, described = config["model"]["kwargs"], config["data"]
    widths = [kwargs["input_dim"], kwargs["hidden"]] if "hidden" in kwargs else _conv_sizes(kwargs)
    sizes = "-".join(map(str, [*widths, kwargs["latent"]]))
    counts = "{:,} training and {:,} test images".format(*described["samples"])
    place = "on the device" if train.resident else "in the host's memory"
    how = f"{train.device}, {arguments.dtype}, {'stock' if arguments.stock else 'fused'} ops, data {place}"
    model = f"{arguments.model} {sizes}{_normalised(kwargs)}"
    return f"{model} on {described['name']}, {counts}; {how}; losses in nats per sample"


def _conv_sizes(kwargs: dict[str, Any]) -> list[Any]:
    return ["x".join(map(str, kwargs["image_shape"])), *kwargs["channels"]]


def _normalised(kwargs: dict[str, Any]) -> str:
    return " with batch normalisation" if kwargs.get("batch_norm") else ""


def _train(run: Run, train: Images, test: Images, config: dict[str, Any], out: Path, report: Report) -> None:
    kept = 0
    try:
        if run.history:  # a kill may have left these two behind the state
            _write_results(run, config, out)
            kept = run.epoch
        with report.bar(-(-len(train) // run.schedule.batch_size), run.epoch) as progress:
            for metrics in fit(run, train, test, progress):
                save_state(out / STATE, run, config)
                _write_results(run, config, out)
                kept = metrics.epoch
                report.epoch(metrics)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UsageError(
            f"--batch-size {run.schedule.batch_size} leaves a last batch of one sample, whose single pixels batch "
            "normalisation cannot normalise; choose another"
        ) from None
    except KeyboardInterrupt:
        state = f"{out / CHECKPOINT} holds epoch {kept}" if kept else "no epoch was finished"
        raise KeyboardInterrupt(state) from None


def _write_results(run: Run, config: dict[str, Any], out: Path) -> None:
    rows = [row.as_dict() for row in run.history]
    save_checkpoint(out / CHECKPOINT, run.model, config | {"metrics": rows[-1]})
    atomic_write(out / METRICS, "".join(f"{json.dumps(row)}\n" for row in rows).encode())


def _write_pictures(run: Run, test: Images, image_shape: tuple[int, ...], out: Path) -> list[Path]:
    model = cast(models.BaseVAE, run.model)
    contents = (
        reconstruction_png(model, test),
        sample_png(model, image_shape, run.schedule.seed),
        loss_curve_png(run.history),
    )
    return [atomic_write(out / name, content) for name, content in zip(PICTURES, contents, strict=True)]
