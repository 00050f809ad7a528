"""Images from NumPy files."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyaegpu.data.dataset import DataError, Dataset, Split, hold_out_tenth, unlabelled

SUFFIXES = (".npy", ".npz")

# (training images, their labels, test images, their labels)
_KEYS = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train", None, "test", None),
    ("images", "labels", None, None),
)
_COLOURS = (1, 3)
_SHAPES = "[N, H, W], [N, C, H, W] or [N, H, W, C] with C 1 or 3, or [N, D]"


def load_arrays(path: str | Path) -> Dataset:
    """The images of a .npy or .npz file; without test images in it, a tenth is held out.

    Arrays are [N, H, W], [N, C, H, W], [N, H, W, C] with C 1 or 3 (where both would do: [N, C, H, W]), or [N, D], which
    becomes [N, 1, 1, D]; of uint8 or bool, or of floats in [0, 1]. A .npz file has x_train (x_test, y_train, y_test),
    train (test), images (labels), or a single array. Anything else: DataError.
    """
    path = Path(path)
    arrays = _read(path)
    if not isinstance(arrays, Mapping):
        return _dataset(path, _split(path, arrays, None, ""), None)
    images, labels, test_images, test_labels = _keys(path, arrays)
    train = _split(path, arrays[images], arrays.get(labels or ""), images)
    if test_images is None or test_images not in arrays:
        return _dataset(path, train, None)
    test = _split(path, arrays[test_images], arrays.get(test_labels or ""), test_images)
    return _dataset(path, train, test)


def _dataset(path: Path, train: Split, test: Split | None) -> Dataset:
    return Dataset(path.stem, *((train, test) if test is not None else hold_out_tenth(train, path)))


def _read(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            if len(content.files) == 1:
                return content[content.files[0]]
            wanted = {key for keys in _KEYS for key in keys}
            return {key: content[key] for key in content.files if key in wanted}
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, EOFError, KeyError, SyntaxError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not a NumPy file of plain arrays ({error})") from error


def _keys(path: Path, arrays: Mapping[str, np.ndarray]) -> tuple[str, str | None, str | None, str | None]:
    for keys in _KEYS:
        if keys[0] in arrays:
            return keys
    wanted = ", ".join(str(keys[0]) for keys in _KEYS)
    raise DataError(f"{path}: holds none of the arrays {wanted}, and is not a single array")


def _split(path: Path, array: np.ndarray, labels: np.ndarray | None, key: str) -> Split:
    where = f"{path}{f', array {key}' if key else ''}"
    images = _images(where, array)
    return Split(images, unlabelled(len(images)) if labels is None else _labels(where, labels, len(images)))


def _images(where: str, array: np.ndarray) -> Tensor:
    if array.size == 0:
        raise DataError(f"{where}: shape {list(array.shape)} holds no samples")
    images = torch.from_numpy(_values(where, array))
    if images.dim() == 2:
        return images[:, None, None, :].contiguous()
    if images.dim() == 3:
        return images[:, None].contiguous()
    if images.dim() == 4 and images.shape[1] in _COLOURS:
        return images.contiguous()
    if images.dim() == 4 and images.shape[3] in _COLOURS:
        return images.permute(0, 3, 1, 2).contiguous()
    raise DataError(f"{where}: shape {list(array.shape)}; allowed are {_SHAPES}")


def _values(where: str, array: np.ndarray) -> np.ndarray:
    """uint8 or float32."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind != "f":
        raise DataError(f"{where}: dtype {array.dtype}; allowed are uint8, bool, and floats in [0, 1]")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):  # NaN is neither
        raise DataError(
            f"{where}: values from {low:g} to {high:g}; scale them to [0, 1], as (x - min) / (max - min), or save"
            " uint8 values from 0 to 255"
        )
    return array.astype(np.float32, copy=False)


def _labels(where: str, labels: np.ndarray, count: int) -> Tensor:
    flat = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim != 1 or len(flat) != count or flat.dtype.kind not in "iub":
        raise DataError(
            f"{where}: labels of shape {list(labels.shape)} and dtype {labels.dtype} for {count} images; one whole"
            " number for each image is needed"
        )
    return torch.from_numpy(flat.astype(np.int64))
