"""What torchvision does for us where it is installed: downloads, and CIFAR-10."""

from pathlib import Path
from typing import Any

import torch

from pyaegpu.data.dataset import DataError, Dataset, Split
from pyaegpu.data.mnist import FOLDERS, file_names

_CLASSES = FOLDERS | {"cifar10": "CIFAR10"}


def available() -> bool:
    """Whether torchvision can be imported."""
    try:
        import torchvision.datasets  # noqa: F401
    except (ImportError, RuntimeError):  # one that was built for another torch
        return False
    return True


def what_to_do_without(name: str, root: str | Path) -> str:
    """How to get the data set `name` where torchvision is not installed."""
    if name not in FOLDERS:
        return "pip install torchvision, or give --data a .npz file with x_train and x_test"
    files = ", ".join(f"{file}.gz" for file in file_names())
    return f"pip install torchvision, or put {files} into {Path(root) / FOLDERS[name] / 'raw'}"


def download(name: str, root: str | Path) -> None:
    """Puts the files of the data set `name` below `root`, unless they are there. A failure: DataError."""
    for train in (True, False):
        _open(name, root, train, download=True)


def load_cifar10(root: str | Path) -> Dataset:
    """The 50,000 training and 10,000 test images of 3x32x32, as bytes, from the files below `root`.

    Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images". Missing files: DataError.
    """
    train, test = (_cifar10_split(_open("cifar10", root, train, download=False)) for train in (True, False))
    return Dataset("cifar10", train, test)


def _cifar10_split(part: Any) -> Split:
    images = torch.as_tensor(part.data).permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.as_tensor(part.targets, dtype=torch.int64))


def _open(name: str, root: str | Path, train: bool, download: bool) -> Any:
    if not available():
        raise DataError(f"{name} needs torchvision, which cannot be imported: {what_to_do_without(name, root)}")
    from torchvision import datasets

    try:
        return getattr(datasets, _CLASSES[name])(str(root), train=train, download=download)
    except (RuntimeError, OSError, EOFError) as error:
        raise DataError(f"{name} in {root}: torchvision says: {error}") from error
