"""Images from a folder."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from pyaegpu import data
from pyaegpu.data import DataError
from pyaegpu.data.folder import SUFFIXES

RNG = np.random.default_rng(0)


def pixels(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def put(path, array=None, **options):
    """Saves [H, W] or [H, W, 3] of bytes, random unless given, and returns it."""
    array = pixels(6, 5) if array is None else array
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return array


def test_flat_folder_in_the_order_of_the_names(tmp_path):
    arrays = [put(tmp_path / f"{name}.png") for name in "cab"]
    dataset = data.load(tmp_path)
    assert dataset.name == tmp_path.name
    assert (dataset.image_shape, len(dataset.train), len(dataset.test)) == ((1, 6, 5), 2, 1)
    assert dataset.train.images.dtype == torch.uint8
    found = sorted(map(tuple, torch.cat((dataset.train.images, dataset.test.images)).flatten(1).tolist()))
    assert found == sorted(tuple(array.reshape(-1).tolist()) for array in arrays)
    assert dataset.train.labels.tolist() == [-1, -1]


@pytest.mark.parametrize("test", ["test", "val"])
def test_parts_and_classes(tmp_path, test):
    first = put(tmp_path / "train" / "b" / "1.png")
    put(tmp_path / "train" / "a" / "9.png")
    put(tmp_path / "train" / "a" / "deeper" / "1.png")
    last = put(tmp_path / "train" / "loose.png")
    only = put(tmp_path / test / "c" / "1.png")
    put(tmp_path / "neither.png")
    dataset = data.load(tmp_path)
    assert sorted(dataset.train.labels.tolist()) == [-1, 0, 0, 1]
    assert dataset.test.labels.tolist() == [2]
    by_label = dict(zip(dataset.train.labels.tolist(), dataset.train.images, strict=True))
    assert np.array_equal(by_label[1][0], first)
    assert np.array_equal(by_label[-1][0], last)
    assert np.array_equal(dataset.test.images[0, 0], only)


def test_a_tenth_is_held_out_always_the_same(tmp_path):
    for name in ("x", "y"):
        for i in range(10):
            put(tmp_path / name / f"{i}.png", np.full((2, 2), i + (100 if name == "y" else 0), dtype=np.uint8))
    dataset, again = data.load(tmp_path), data.load(tmp_path)
    assert (len(dataset.train), len(dataset.test)) == (18, 2)
    assert torch.equal(dataset.test.images, again.test.images)
    for split in (dataset.train, dataset.test):
        assert split.labels.tolist() == (split.images[:, 0, 0, 0] >= 100).int().tolist()


def test_train_alone_is_the_training_part_and_among_others_a_class(tmp_path):
    for i in range(2):
        put(tmp_path / "train" / "a" / f"{i}.png")
    assert data.load(tmp_path).train.labels.tolist() == [0]
    put(tmp_path / "bus" / "1.png")
    labels = torch.cat([split.labels for split in (data.load(tmp_path).train, data.load(tmp_path).test)])
    assert sorted(labels.tolist()) == [0, 1, 1]


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".PNG"])
def test_every_format(tmp_path, suffix):
    colour = suffix != ".pgm"
    shape = (6, 5, 3) if colour else (6, 5)
    options = {"quality": 95} if suffix in (".jpg", ".jpeg", ".webp") else {}
    arrays = [put(tmp_path / f"{i}{suffix}", np.full(shape, 40 + 90 * i, dtype=np.uint8), **options) for i in range(2)]
    dataset = data.load(tmp_path)
    assert dataset.image_shape == (3 if colour else 1, 6, 5)
    values = sorted(split.images.float().mean().item() for split in (dataset.train, dataset.test))
    assert values == pytest.approx([array.mean() for array in arrays], abs=3)


def test_one_coloured_image_makes_all_coloured(tmp_path):
    grey = put(tmp_path / "train" / "1.png")
    colour = put(tmp_path / "test" / "1.png", pixels(6, 5, 3))
    dataset = data.load(tmp_path)
    assert np.array_equal(dataset.train.images[0], np.stack([grey] * 3))
    assert np.array_equal(dataset.test.images[0].permute(1, 2, 0), colour)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_sixteen_bits_are_scaled_not_cut(tmp_path, suffix):
    array = np.arange(0, 65536, 2185, dtype=np.uint16).reshape(6, 5)
    for i in range(2):
        put(tmp_path / f"{i}{suffix}", array)
    dataset = data.load(tmp_path)
    assert np.array_equal(dataset.train.images[0, 0], array // 256)


def test_photographs_are_turned_upright(tmp_path):
    array = np.zeros((4, 6), dtype=np.uint8)
    array[:, :3] = 255
    turned = Image.fromarray(array)
    exif = turned.getexif()
    exif[0x0112] = 6  # the top is at the right
    for i in range(2):
        turned.save(tmp_path / f"{i}.png", exif=exif)
    image = data.load(tmp_path).train.images[0, 0]
    assert image.shape == (6, 4)
    assert image.float().mean(1).tolist() == [255] * 3 + [0] * 3


def test_different_sizes_name_the_first_and_the_way_out(tmp_path):
    put(tmp_path / "1.png")
    put(tmp_path / "2.png")
    put(tmp_path / "3.png", pixels(5, 6))
    put(tmp_path / "4.png", pixels(9, 9))
    expected = r"3\.png: 6x5 pixels \(width x height\), but .*1\.png has 5x6; --image-size N"
    with pytest.raises(DataError, match=expected):
        data.load(tmp_path)


def test_image_size_keeps_the_centre(tmp_path):
    array = np.full((8, 24), 200, dtype=np.uint8)
    array[:, :4] = array[:, 20:] = 0  # far enough from the centre for the filter
    put(tmp_path / "wide.png", array)
    put(tmp_path / "high.png", array.T.copy())
    put(tmp_path / "small.png", np.full((2, 3), 200, dtype=np.uint8))
    dataset = data.load(tmp_path, image_size=4)
    assert dataset.image_shape == (1, 4, 4)
    for image in torch.cat((dataset.train.images, dataset.test.images)):
        assert bool((image == 200).all())


def test_hidden_and_other_files_are_skipped(tmp_path):
    for name in ("1.png", "2.png"):
        put(tmp_path / name)
    put(tmp_path / ".thumbnails" / "1.png", pixels(3, 3))
    (tmp_path / "._1.png").write_bytes(b"resource fork")
    (tmp_path / "notes.txt").write_text("no image")
    dataset = data.load(tmp_path)
    assert len(dataset.train) + len(dataset.test) == 2


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".bmp", ".tif", ".webp", ".ppm"])
def test_truncated_images_are_named(tmp_path, suffix):
    put(tmp_path / f"1{suffix}", pixels(60, 60, 3))
    content = (tmp_path / f"1{suffix}").read_bytes()
    for kept in (0, 5, len(content) // 2):
        (tmp_path / f"2{suffix}").write_bytes(content[:kept])
        with pytest.raises(DataError, match=rf"2\{suffix}: not a readable image"):
            data.load(tmp_path)


def test_files_of_another_kind_are_not_given_to_other_decoders(tmp_path):
    put(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 5\n")
    with pytest.raises(DataError, match=r"2\.png: not a readable image"):
        data.load(tmp_path)


def test_more_than_sixteen_bits(tmp_path):
    for i in range(2):
        put(tmp_path / f"{i}.tif", np.full((3, 3), 70000, dtype=np.int32))
    with pytest.raises(DataError, match="more than 16 bits"):
        data.load(tmp_path)


def test_empty_folders(tmp_path):
    with pytest.raises(DataError, match=r"holds no images; looked for \.bmp"):
        data.load(tmp_path)
    put(tmp_path / "train" / "1.png")
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match=f"{tmp_path / 'test'}: holds no images"):
        data.load(tmp_path)


def test_a_single_image(tmp_path):
    put(tmp_path / "1.png")
    with pytest.raises(DataError, match="1 sample; at least 2"):
        data.load(tmp_path)


def test_folder_that_cannot_be_read(tmp_path, monkeypatch):
    put(tmp_path / "1.png")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=f"{tmp_path}: cannot be read"):
        data.load(tmp_path)


def test_progress_sees_every_file_twice(tmp_path):
    for i in range(3):
        put(tmp_path / f"{i}.png")
    seen = []

    def progress(paths, text):
        seen.append((text, [path.name for path in paths]))
        return paths

    data.load(tmp_path, progress=progress)
    names = ["0.png", "1.png", "2.png"]
    assert seen == [("looking at images", names), ("reading images", names)]


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_pixels_without_a_scale_are_refused(tmp_path, dtype):
    for index in range(3):
        Image.fromarray(np.full((4, 4), 0.5 if dtype == "float32" else 200, dtype)).save(tmp_path / f"{index}.tif")
    with pytest.raises(DataError, match=r"0\.tif.*more than 16 bits"):
        data.load(tmp_path)
