"""Images from .npy and .npz files."""

import numpy as np
import pytest
import torch

from pyaegpu import data
from pyaegpu.data import DataError

RNG = np.random.default_rng(0)


def pixels(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def saved(tmp_path):
    def save(*args, **arrays):
        path = tmp_path / ("some.npy" if args else "some.npz")
        np.save(path, args[0]) if args else np.savez_compressed(path, **arrays)
        return path

    return save


def every_image(dataset):
    """Rows of both splits, sorted."""
    return sorted(map(tuple, torch.cat((dataset.train.images, dataset.test.images)).flatten(1).tolist()))


@pytest.mark.parametrize(
    ("shape", "image_shape", "axes"),
    [
        ((11, 5, 4), (1, 5, 4), (0, 1, 2)),
        ((11, 3, 5, 4), (3, 5, 4), (0, 1, 2, 3)),
        ((11, 1, 5, 3), (1, 5, 3), (0, 1, 2, 3)),
        ((11, 5, 4, 3), (3, 5, 4), (0, 3, 1, 2)),
        ((11, 5, 4, 1), (1, 5, 4), (0, 3, 1, 2)),
        ((11, 7), (1, 1, 7), (0, 1)),
    ],
)
def test_shapes(saved, shape, image_shape, axes):
    array = pixels(*shape)
    dataset = data.load(saved(array))
    assert (dataset.name, dataset.image_shape) == ("some", image_shape)
    assert (len(dataset.train), len(dataset.test)) == (10, 1)
    assert dataset.train.images.dtype == torch.uint8
    assert dataset.train.images.is_contiguous()
    assert every_image(dataset) == sorted(map(tuple, array.transpose(axes).reshape(11, -1).tolist()))
    assert dataset.train.labels.tolist() == [-1] * 10


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_floats_become_float32(saved, dtype):
    array = np.linspace(0, 1, 60).astype(dtype).reshape(5, 4, 3)
    dataset = data.load(saved(np.asfortranarray(array)))
    assert dataset.train.images.dtype == torch.float32
    assert every_image(dataset) == sorted(map(tuple, array.astype("float32").reshape(5, -1).tolist()))


def test_bools_are_black_and_white(saved):
    dataset = data.load(saved(np.eye(4, dtype=bool)[None].repeat(3, 0)))
    assert torch.equal(dataset.test.images[0, 0], 255 * torch.eye(4, dtype=torch.uint8))


@pytest.mark.parametrize("names", [("x_train", "x_test"), ("train", "test")])
def test_parts_of_an_npz_file(saved, names):
    arrays = {names[0]: pixels(7, 4, 4), names[1]: pixels(3, 4, 4), "other": pixels(2)}
    dataset = data.load(saved(**arrays))
    assert np.array_equal(dataset.train.images[:, 0], arrays[names[0]])
    assert np.array_equal(dataset.test.images[:, 0], arrays[names[1]])


def test_labels_of_an_npz_file(saved):
    arrays = {"x_train": pixels(7, 4), "x_test": pixels(3, 4), "y_train": np.arange(7)[:, None], "y_test": [2, 1, 0]}
    dataset = data.load(saved(**arrays))
    assert dataset.train.labels.tolist() == list(range(7))
    assert dataset.test.labels.tolist() == [2, 1, 0]


def test_labels_go_with_their_images_when_a_tenth_is_held_out(saved):
    numbers = np.arange(20, dtype=np.uint8)
    path = saved(images=np.stack([numbers, numbers], 1), labels=numbers)
    dataset = data.load(path)
    assert len(dataset.test) == 2
    for split in (dataset.train, dataset.test):
        assert split.labels.tolist() == split.images[:, 0, 0, 0].tolist()
    assert torch.equal(dataset.test.labels, data.load(path).test.labels)
    assert dataset.test.labels.tolist() != [0, 1]


def test_a_single_array_of_any_name(saved):
    array = pixels(4, 3, 3)
    assert every_image(data.load(saved(labels=array))) == sorted(map(tuple, array.reshape(4, -1).tolist()))


def test_bytes_are_not_copied_to_floats(saved, monkeypatch):
    """What a large data set costs is its bytes, once or twice; a float copy would be four times that."""
    path = saved(x_train=pixels(50, 9, 9), x_test=pixels(5, 9, 9))
    seen = []
    to = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *args: seen.append(args) or to(self, *args))
    dataset = data.load(path)
    assert torch.float32 not in [arg for args in seen for arg in args]
    assert dataset.train.images.nbytes == 50 * 81


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((4, 3, 3), 7.5), r"values from 7.5 to 7.5; scale them to \[0, 1\]"),
        (np.full((4, 3, 3), -0.1), "values from -0.1 to -0.1"),
        (np.array([[0.5, np.nan]] * 3), "values from nan"),
        (np.array([[0.5, np.inf]] * 3), "to inf"),
        (np.arange(36).reshape(4, 3, 3), "dtype int64; allowed are uint8, bool, and floats"),
        (np.array(["a", "b"]), "dtype <U1"),
        (pixels(4, 2, 5, 5), r"shape \[4, 2, 5, 5\]; allowed are \[N, H, W\]"),
        (pixels(4), r"shape \[4\]; allowed"),
        (pixels(4, 1, 1, 1, 1), "allowed are"),
        (pixels(0, 3, 3), r"shape \[0, 3, 3\] holds no samples"),
        (pixels(1, 3, 3), "1 sample; at least 2"),
        (np.uint8(3), "shape"),
    ],
    ids=str,
)
def test_arrays_that_are_no_images(saved, array, message):
    path = saved(array)
    with pytest.raises(DataError, match=message) as caught:
        data.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": pixels(3), "b": pixels(3)}, "none of the arrays x_train, train, images, and is not a single array"),
        ({"labels": pixels(3), "b": pixels(3)}, "none of the arrays"),
        ({"images": pixels(3, 2), "labels": np.arange(4)}, r"labels of shape \[4\] and dtype int64 for 3 images"),
        ({"images": pixels(3, 2), "labels": np.ones(3)}, "dtype float64"),
        ({"images": pixels(3, 2), "labels": np.ones((3, 2), int)}, r"labels of shape \[3, 2\]"),
        ({"train": pixels(3, 4, 4), "test": pixels(3, 4, 5)}, "training images are 1x4x4 .*, test images 1x4x5"),
        ({"train": pixels(3, 4), "test": np.ones((3, 4)) * 2}, "array test: values from 2 to 2"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_npz_files_without_a_data_set(saved, arrays, message):
    with pytest.raises(DataError, match=message):
        data.load(saved(**arrays))


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("content", [b"", b"no array", b"PK\x03\x04 and no more", b"\x93NUMPY\x01\x00\x10\x00{'de"])
def test_other_files(tmp_path, suffix, content):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path}: not a NumPy file of plain arrays"):
        data.load(path)


def test_pickles_are_not_run(saved):
    for path in (saved(np.array([{}, {}])), saved(images=np.array([{}, {}]), labels=pixels(2))):
        with pytest.raises(DataError, match="not a NumPy file of plain arrays"):
            data.load(path)


def test_truncated_files(saved):
    for path in (saved(pixels(9, 9, 9)), saved(images=pixels(9, 9, 9))):
        path.write_bytes(path.read_bytes()[:-60])
        with pytest.raises(DataError, match=str(path)):
            data.load(path)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"absent\.npy: cannot be read|absent\.npy does not exist"):
        data.load_arrays(tmp_path / "absent.npy")
