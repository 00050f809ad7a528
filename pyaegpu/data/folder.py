"""Images from a folder."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from pyaegpu.data.dataset import NO_LABEL, DataError, Dataset, Split, hold_out_tenth

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
Progress = Callable[[Sequence[Path], str], Iterable[Path]]

# The decoders of these suffixes only: some others of Pillow's start programs.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L")
_ORIENTATION_TAG, _TURNED = 0x0112, (5, 6, 7, 8)
_16_BITS = 2**16


def _no_progress(paths: Sequence[Path], text: str) -> Iterable[Path]:
    return paths


def load_folder(root: str | Path, image_size: int | None = None, progress: Progress = _no_progress) -> Dataset:
    """The images below `root`, as bytes: one channel where every file is grey, else red, green, blue.

    With root/train and root/test (or root/val) these are the two parts, else a tenth is held out. The folders in a
    part, in alphabetical order, are the classes 0, 1, ...; a file outside of them has the label -1. Hidden files and
    folders are skipped. All images must be of one size, or `image_size` is given: then the short side is resized to it
    and the centre is cut out. `progress(paths, text)` may wrap the files while they are read. No image, a file that is
    not one, and different sizes: DataError.
    """
    root = Path(root)
    parts = [_list(part) for part in _parts(root)]
    every = [path for part in parts for path, _ in part]
    mode, size = _survey(progress(every, "looking at images"), image_size)
    classes = sorted({name for part in parts for _, name in part if name is not None})
    splits = [_read(part, classes, mode, size, image_size is not None, progress) for part in parts]
    return Dataset(root.resolve().name, *(splits if len(splits) == 2 else hold_out_tenth(splits[0], root)))


def _parts(root: Path) -> list[Path]:
    train, test = root / "train", next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if train.is_dir() and test is not None:
        return [train, test]
    # Alone it is the training part; among other folders, a class of that name.
    alone = [path.name for path in root.iterdir() if not path.name.startswith(".")] == ["train"]
    return [train if alone and train.is_dir() else root]


def _list(part: Path) -> list[tuple[Path, str | None]]:
    """Each image file with the name of its class, in a fixed order."""
    found = []
    for folder, below, files in os.walk(part, onerror=_unreadable):
        below[:] = sorted(name for name in below if not name.startswith("."))
        inside = Path(folder).relative_to(part).parts
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                found.append((Path(folder) / name, inside[0] if inside else None))
    if not found:
        raise DataError(f"{part}: holds no images; looked for {', '.join(SUFFIXES)}")
    return found


def _unreadable(error: OSError) -> NoReturn:
    raise DataError(f"{error.filename}: cannot be read ({error.strerror})")


def _survey(paths: Iterable[Path], image_size: int | None) -> tuple[str, tuple[int, int]]:
    """The mode and the (width, height) that all images will have, from their headers."""
    grey, first, size = True, None, (image_size or 0, image_size or 0)
    for path in paths:
        with _opened(path) as image:
            grey = grey and image.mode in _GREY_MODES
            found = _upright_size(image)
        if image_size is None and first is not None and found != size:
            raise DataError(
                f"{path}: {found[0]}x{found[1]} pixels (width x height), but {first} has {size[0]}x{size[1]};"
                " --image-size N brings all images to N x N"
            )
        if first is None:
            first, size = path, size if image_size else found
    return "L" if grey else "RGB", size


def _upright_size(image: Any) -> tuple[int, int]:
    width, height = image.size
    return (height, width) if image.getexif().get(_ORIENTATION_TAG) in _TURNED else (width, height)


def _read(
    part: Sequence[tuple[Path, str | None]],
    classes: Sequence[str],
    mode: str,
    size: tuple[int, int],
    fit: bool,
    progress: Progress,
) -> Split:
    width, height = size
    images = torch.empty((len(part), len(mode), height, width), dtype=torch.uint8)
    for index, path in enumerate(progress([path for path, _ in part], "reading images")):
        images[index] = torch.from_numpy(_pixels(path, mode, size, fit)).permute(2, 0, 1)
    number = {name: index for index, name in enumerate(classes)}
    labels = [NO_LABEL if name is None else number[name] for _, name in part]
    return Split(images, torch.tensor(labels, dtype=torch.int64))


def _pixels(path: Path, mode: str, size: tuple[int, int], fit: bool) -> np.ndarray:
    """[H, W, C] of bytes."""
    from PIL import ImageOps

    with _opened(path) as image:
        _refuse_wide(image)
        upright = _eight_bits(ImageOps.exif_transpose(image)).convert(mode)
        pixels = np.array(ImageOps.fit(upright, size) if fit else upright)
    return pixels.reshape(size[1], size[0], len(mode))


def _refuse_wide(image: Any) -> None:
    """Nothing tells the scale of floating-point or 32-bit pixels."""
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise ValueError("more than 16 bits a pixel; save it with 8 or 16")


def _eight_bits(image: Any) -> Any:
    """Pillow's own conversion of 16 bits cuts off instead of scaling."""
    from PIL import Image

    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    if values.min() < 0 or values.max() >= _16_BITS:
        raise ValueError("more than 16 bits a pixel")
    return Image.fromarray((values // 256).astype(np.uint8))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from PIL import Image

    try:
        with Image.open(path, formats=_FORMATS) as image:
            yield image
    except MemoryError:
        raise
    except Exception as error:  # on a damaged file Pillow's decoders raise nearly anything
        raise DataError(f"{path}: not a readable image ({error})") from error
