"""MNIST, and data sets in its format, from IDX files in torchvision's folder layout."""

from pathlib import Path

import torch

from pyaegpu.data.dataset import DataError, Dataset, Split
from pyaegpu.data.idx import read_idx

# The folder of each data set below the root, as torchvision names it.
FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
_PARTS = ("train", "t10k")
_STEMS = ("images-idx3-ubyte", "labels-idx1-ubyte")


def load_mnist(root: str | Path, name: str = "mnist") -> Dataset:
    """Training and test images of the four IDX files under `root`, as bytes; `name` is a key of FOLDERS.

    The files (plain or .gz) are looked for in root/MNIST/raw (or root/FashionMNIST/raw), root/raw and root itself.
    Missing, damaged or mismatched files: DataError.
    """
    folder = _find_folder(Path(root), FOLDERS[name])
    train, test = (_read_split(folder, part) for part in _PARTS)
    return Dataset(name, train, test)


def file_names() -> list[str]:
    """What the four files are called; each may end in .gz."""
    return [f"{part}-{stem}" for part in _PARTS for stem in _STEMS]


def _find_folder(root: Path, name: str) -> Path:
    if not root.is_dir():
        state = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"data folder {root} {state}; it should hold {name}/raw/{file_names()[0]}[.gz]")
    places = (root / name / "raw", root / "raw", root)
    for place in places:
        if any(_candidates(place, file) for file in file_names()):
            return place
    raise DataError(
        f"no {name} files in {', '.join(map(str, places))}; looked for "
        + ", ".join(f"{file}[.gz]" for file in file_names())
    )


def _candidates(folder: Path, name: str) -> list[Path]:
    return [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]


def _read_split(folder: Path, part: str) -> Split:
    images_path, labels_path = (_find_file(folder, f"{part}-{stem}") for stem in _STEMS)
    images, labels = read_idx(images_path, ndim=3), read_idx(labels_path, ndim=1)
    if len(images) != len(labels):
        raise DataError(f"{images_path} holds {len(images)} images but {labels_path} {len(labels)} labels")
    return Split(images.unsqueeze(1), labels.to(torch.int64))


def _find_file(folder: Path, name: str) -> Path:
    found = _candidates(folder, name)
    if not found:
        raise DataError(f"{folder / name}[.gz] is missing")
    return found[0]
