"""Options of the data set, and its loading."""

import argparse
from pathlib import Path

from pyaegpu import data
from pyaegpu.cli.errors import UsageError
from pyaegpu.cli.options import MAX_COUNT, whole
from pyaegpu.data import from_torchvision
from pyaegpu.data.folder import Progress

_MAX_PIXELS = 2**14


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """--data, --data-root, --download, --image-size."""
    parser.add_argument(
        "--data",
        type=_source,
        metavar="NAME|PATH",
        default="digits",
        help=f"{', '.join(data.NAMES)}, an image folder, or a .npy or .npz file; default: digits (bundled with"
        " scikit-learn)",
    )
    parser.add_argument(
        "--data-root",
        metavar="DIR",
        help="where a data set with a name has its files, as torchvision lays them out: DIR/MNIST/raw, DIR/raw or DIR",
    )
    parser.add_argument("--download", action="store_true", help="fetch the files into --data-root with torchvision")
    parser.add_argument(
        "--image-size",
        type=whole(1, _MAX_PIXELS),
        metavar="N",
        help="bring the images of a folder to N x N: resize the short side, cut out the centre",
    )
    parser.add_argument("--limit", type=whole(1, MAX_COUNT), help=argparse.SUPPRESS)


def load_dataset(arguments: argparse.Namespace, progress: Progress) -> data.Dataset:
    """The data set of the options, which are checked against one another: UsageError."""
    name, root = arguments.data, arguments.data_root
    named = name in data.WITH_ROOT
    if named and root is None:
        raise UsageError(f"--data {name} needs --data-root DIR, the folder that holds its files")
    for option, given in (("--data-root", root is not None), ("--download", arguments.download)):
        if given and not named:
            raise UsageError(f"{option} goes with --data {', '.join(data.WITH_ROOT)}; {name} needs none")
    is_folder = name not in data.NAMES and Path(name).is_dir()
    if arguments.image_size is not None and not is_folder:
        raise UsageError(f"--image-size goes with an image folder; {name} is none")
    if named and (arguments.download or name not in data.FOLDERS):
        _with_torchvision(arguments)
    options = {"image_size": arguments.image_size, "progress": progress} if is_folder else {}
    dataset = data.load(name, root, **options)
    return dataset.limited(arguments.limit) if arguments.limit else dataset


def _source(text: str) -> str:
    if text not in data.NAMES and not Path(text).exists():
        raise argparse.ArgumentTypeError(f"{text!r} is neither one of {', '.join(data.NAMES)} nor a path that exists")
    return text


def _with_torchvision(arguments: argparse.Namespace) -> None:
    if not from_torchvision.available():
        option = "--download" if arguments.download else f"--data {arguments.data}"
        remedy = from_torchvision.what_to_do_without(arguments.data, arguments.data_root)
        raise UsageError(f"{option} needs torchvision, which cannot be imported: {remedy}")
    if arguments.download:
        from_torchvision.download(arguments.data, arguments.data_root)
