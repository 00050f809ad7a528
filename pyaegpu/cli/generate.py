"""`pyaegpu generate CHECKPOINT`."""

import argparse
import io
from pathlib import Path
from typing import Any, cast

import torch

from pyaegpu.cli.errors import UsageError
from pyaegpu.cli.options import MAX_COUNT, add_output_options, add_run_options, pick_device, real, require, whole
from pyaegpu.cli.report import print_files
from pyaegpu.cli.train_vae import CHECKPOINT
from pyaegpu.models import BaseVAE
from pyaegpu.training import CheckpointError, atomic_write, load_checkpoint
from pyaegpu.training.pictures import draw, grid_png

PICTURE = "generated.png"

_PACKAGES = {"safetensors": "safetensors", "PIL": "pillow"}


def add_parser(commands: Any) -> None:
    """Adds the sub-command."""
    parser = commands.add_parser(
        "generate",
        help="decode random codes of a trained VAE",
        description="Decodes z ~ N(0, I) with a trained VAE into a grid of pictures, or an array.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=f"the file, or the folder of a run with {CHECKPOINT}")
    parser.add_argument("--count", type=whole(1, MAX_COUNT), metavar="N", default=80, help="images; default: 80")
    parser.add_argument("--columns", type=whole(1, MAX_COUNT), metavar="N", default=10, help="of the grid; default: 10")
    parser.add_argument(
        "--temperature",
        type=real(0, inclusive=True),
        metavar="X",
        default=1.0,
        help="standard deviation of z; default: 1",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help=f".png: the grid; .npy: float32 [N, C, H, W] in [0, 1]; default: {PICTURE} beside the checkpoint",
    )
    add_run_options(parser, "of z, which is the same on every device")
    add_output_options(parser, progress=False)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Draws, decodes and writes one file."""
    require(_PACKAGES)
    path = Path(arguments.checkpoint)
    path = path / CHECKPOINT if path.is_dir() else path
    out = _writable_file(Path(arguments.out) if arguments.out else path.parent / PICTURE)
    device = pick_device(arguments.device)
    model, config = load_checkpoint(path, fused=not arguments.stock, device=device)
    shape = _image_shape(path, config, cast(BaseVAE, model), device)
    if not arguments.json and not arguments.quiet:
        print(f"{config['model']['name']} of {path}: {arguments.count:,} images of {'x'.join(map(str, shape))}")
    images = draw(cast(BaseVAE, model), shape, arguments.count, arguments.seed, arguments.temperature)
    content = grid_png(images, min(arguments.columns, arguments.count)) if out.suffix == ".png" else _npy(images)
    print_files([atomic_write(out, content)], arguments.json)


def _writable_file(path: Path) -> Path:
    if path.suffix not in (".png", ".npy"):
        raise UsageError(f"--out {path}: the name must end in .png or .npy")
    if path.is_dir():
        raise UsageError(f"--out {path} is a folder; name a file")
    return path


def _image_shape(path: Path, config: dict[str, Any], model: BaseVAE, device: torch.device) -> tuple[int, ...]:
    """[C, H, W] as the checkpoint has it, if it fits what the decoder gives."""
    with torch.no_grad():
        decoded = model.generate(torch.zeros(1, model.latent, device=device))
    try:
        shape = tuple(config["data"]["image_shape"])
        decoded.reshape(1, *shape)
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: does not tell the shape of its images") from error
    return shape


def _npy(images: torch.Tensor) -> bytes:
    import numpy as np

    file = io.BytesIO()
    np.save(file, images.numpy())
    return file.getvalue()
