"""Image data sets, whole in memory."""

from pathlib import Path
from typing import Any

from pyaegpu.data import from_torchvision
from pyaegpu.data.arrays import SUFFIXES as ARRAY_SUFFIXES
from pyaegpu.data.arrays import load_arrays
from pyaegpu.data.dataset import DataError, Dataset, Split, as_unit
from pyaegpu.data.digits import load_digits
from pyaegpu.data.folder import load_folder
from pyaegpu.data.from_torchvision import load_cifar10
from pyaegpu.data.mnist import FOLDERS, load_mnist

__all__ = [
    "FOLDERS",
    "NAMES",
    "WITH_ROOT",
    "DataError",
    "Dataset",
    "Split",
    "as_unit",
    "from_torchvision",
    "load",
    "load_arrays",
    "load_cifar10",
    "load_digits",
    "load_folder",
    "load_mnist",
]

# Those whose files lie below a root folder.
WITH_ROOT = (*FOLDERS, "cifar10")
NAMES = ("digits", *WITH_ROOT)


def load(source: str | Path, root: str | Path | None = None, **folder_options: Any) -> Dataset:
    """The data set of the name `source`, or of the image folder, .npy or .npz file there.

    `root` is the folder of the files, for the names of WITH_ROOT only; `folder_options` are those of `load_folder`, for
    an image folder only. Errors: DataError.
    """
    if source in WITH_ROOT:
        if root is None:
            raise DataError(f"the {source} data set needs the folder that holds its files")
        return load_cifar10(root) if source == "cifar10" else load_mnist(root, str(source))
    if root is not None:
        raise DataError(f"{source} takes no data folder; {', '.join(WITH_ROOT)} do")
    return load_digits() if source == "digits" else _load_path(Path(source), folder_options)


def _load_path(path: Path, folder_options: dict[str, Any]) -> Dataset:
    if path.is_dir():
        return load_folder(path, **folder_options)
    if path.suffix.lower() in ARRAY_SUFFIXES:
        return load_arrays(path)
    state = "is no image folder and no .npy or .npz file" if path.exists() else "does not exist"
    raise DataError(f"{path} {state}; data sets with a name are {', '.join(NAMES)}")
