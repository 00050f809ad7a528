"""Image data sets, whole in memory."""

from pathlib import Path

from pyaegpu.data.dataset import DataError, Dataset, Split
from pyaegpu.data.digits import load_digits
from pyaegpu.data.mnist import load_mnist

__all__ = ["NAMES", "DataError", "Dataset", "Split", "load", "load_digits", "load_mnist"]

NAMES = ("digits", "mnist")


def load(name: str, root: str | Path | None = None) -> Dataset:
    """The data set `name`; `root` is the folder of the files, for "mnist" only. Errors: DataError."""
    if name not in NAMES:
        raise DataError(f"unknown data set {name!r}; available are {', '.join(NAMES)}")
    if name == "digits":
        if root is not None:
            raise DataError("the digits data set comes with scikit-learn and takes no data folder")
        return load_digits()
    if root is None:
        raise DataError("the mnist data set needs the folder that holds its files")
    return load_mnist(root)
