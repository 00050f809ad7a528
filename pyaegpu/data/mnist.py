"""MNIST, and data sets in its format, from IDX files in torchvision's folder layout."""

from pathlib import Path

import torch
from torch import Tensor

from pyaegpu.data.dataset import DataError, Dataset, Split
from pyaegpu.data.idx import read_idx

_PARTS = ("train", "t10k")
_STEMS = ("images-idx3-ubyte", "labels-idx1-ubyte")


def load_mnist(root: str | Path) -> Dataset:
    """Training and test images of the four IDX files under `root`, values divided by 255.

    The files (plain or .gz) are looked for in root/MNIST/raw, root/raw and root itself. Missing, damaged
    or mismatched files: DataError.
    """
    folder = _find_folder(Path(root))
    train, test = (_read_split(folder, part) for part in _PARTS)
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(f"{folder}: training images are {_size(train)} pixels, test images {_size(test)}")
    return Dataset("mnist", train, test)


def _find_folder(root: Path) -> Path:
    if not root.is_dir():
        state = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"data folder {root} {state}; it should hold MNIST/raw/{_file_names()[0]}[.gz]")
    places = (root / "MNIST" / "raw", root / "raw", root)
    for place in places:
        if any(_candidates(place, name) for name in _file_names()):
            return place
    raise DataError(
        f"no MNIST files in {', '.join(map(str, places))}; looked for "
        + ", ".join(f"{name}[.gz]" for name in _file_names())
    )


def _file_names() -> list[str]:
    return [f"{part}-{stem}" for part in _PARTS for stem in _STEMS]


def _candidates(folder: Path, name: str) -> list[Path]:
    return [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]


def _read_split(folder: Path, part: str) -> Split:
    images_path, labels_path = (_find_file(folder, f"{part}-{stem}") for stem in _STEMS)
    images, labels = read_idx(images_path, ndim=3), read_idx(labels_path, ndim=1)
    if len(images) != len(labels):
        raise DataError(f"{images_path} holds {len(images)} images but {labels_path} {len(labels)} labels")
    return Split(_to_unit(images).unsqueeze(1), labels.to(torch.int64))


def _find_file(folder: Path, name: str) -> Path:
    found = _candidates(folder, name)
    if not found:
        raise DataError(f"{folder / name}[.gz] is missing")
    return found[0]


def _to_unit(images: Tensor) -> Tensor:
    return images.to(torch.float32).div_(255)


def _size(split: Split) -> str:
    return "x".join(str(size) for size in split.images.shape[2:])
