"""MNIST's folder layouts, the digits, and what `load` refuses."""

from pathlib import Path

import pytest
import torch

from pyaegpu import data
from pyaegpu.data import DataError, as_unit

REAL_ROOT = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("below", ["MNIST/raw", "raw", "."])
def test_mnist_layouts(tmp_path, write_mnist, below, zipped):
    write_mnist(tmp_path / below, zipped)
    mnist = data.load("mnist", tmp_path)
    assert mnist.image_shape == (1, 4, 2)
    assert (len(mnist.train), len(mnist.test)) == (5, 3)
    expected = torch.arange(40, dtype=torch.uint8).reshape(5, 1, 4, 2)
    torch.testing.assert_close(mnist.train.images, expected, rtol=0, atol=0)
    torch.testing.assert_close(as_unit(mnist.train.images), expected / 255, rtol=0, atol=0)
    assert mnist.train.labels.tolist() == [0, 1, 2, 3, 4]
    assert mnist.train.labels.dtype == torch.int64


def test_plain_file_is_taken_before_a_zipped_one(tmp_path, write_mnist):
    write_mnist(tmp_path)
    for path in list(tmp_path.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(b"never read")
    assert len(data.load("mnist", str(tmp_path)).train) == 5


def test_fashion_mnist_has_a_folder_of_its_own(tmp_path, write_mnist):
    write_mnist(tmp_path / "FashionMNIST" / "raw")
    fashion = data.load("fashion_mnist", tmp_path)
    assert (fashion.name, len(fashion.train), len(fashion.test)) == ("fashion_mnist", 5, 3)
    with pytest.raises(DataError, match="no MNIST files"):
        data.load("mnist", tmp_path)


def test_as_unit_leaves_floats_and_scales_bytes():
    floats = torch.rand(3, 1, 2, 2)
    assert as_unit(floats) is floats
    assert as_unit(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])


def test_missing_folder_says_what_should_be_there(tmp_path):
    with pytest.raises(DataError, match=r"nowhere does not exist.*MNIST/raw/train-images-idx3-ubyte"):
        data.load("mnist", tmp_path / "nowhere")


def test_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file is not a folder"):
        data.load("mnist", tmp_path / "file")


def test_empty_folder_says_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match="looked for") as caught:
        data.load("mnist", tmp_path)
    for wanted in ("MNIST/raw", f"{tmp_path / 'raw'}", "t10k-labels-idx1-ubyte"):
        assert wanted in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ],
)
def test_one_missing_file_is_named(tmp_path, write_mnist, name):
    (write_mnist(tmp_path / "MNIST" / "raw") / name).unlink()
    with pytest.raises(DataError, match=rf"MNIST/raw/{name}\[\.gz\] is missing"):
        data.load("mnist", tmp_path)


def test_count_mismatch_names_both_files(tmp_path, write_mnist, make_idx):
    (write_mnist(tmp_path) / "train-labels-idx1-ubyte").write_bytes(make_idx(range(4), (4,)))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte holds 5 images but .*train-labels.* 4 labels"):
        data.load("mnist", tmp_path)


def test_image_size_mismatch(tmp_path, write_mnist, make_idx):
    (write_mnist(tmp_path) / "t10k-images-idx3-ubyte").write_bytes(make_idx(range(27), (3, 3, 3)))
    with pytest.raises(DataError, match=r"training images are 1x4x2 .*, test images 1x3x3"):
        data.load("mnist", tmp_path)


def test_labels_in_place_of_images(tmp_path, write_mnist):
    folder = write_mnist(tmp_path)
    labels = (folder / "t10k-labels-idx1-ubyte").read_bytes()
    (folder / "t10k-images-idx3-ubyte").write_bytes(labels)
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte: wrong magic number 0x00000801"):
        data.load("mnist", tmp_path)


@pytest.mark.parametrize(
    ("name", "root", "message"),
    [
        ("cifar", None, "cifar does not exist; .* digits, mnist, fashion_mnist, cifar10"),
        ("mnist", None, "needs the folder"),
        ("cifar10", None, "needs the folder"),
        ("digits", "x", "no data folder"),
    ],
)
def test_load_refuses(name, root, message):
    with pytest.raises(DataError, match=message):
        data.load(name, root)


def test_digits_split():
    digits = data.load("digits")
    assert digits.train.images.shape == (1500, 1, 8, 8)
    assert digits.test.images.shape == (297, 1, 8, 8)
    assert digits.train.images.dtype == torch.float32
    assert digits.train.images.min() == 0
    assert digits.train.images.max() == 1
    assert digits.test.labels.unique().tolist() == list(range(10))
    every = torch.cat((digits.train.images, digits.test.images)).mul(16)
    assert torch.equal(every, every.round())


def test_digits_split_is_a_partition_that_follows_its_seed():
    from sklearn.datasets import load_digits

    digits, again, other = data.load_digits(), data.load_digits(), data.load_digits(split_seed=1)
    assert torch.equal(digits.test.images, again.test.images)
    assert not torch.equal(digits.test.images, other.test.images)

    def rows(images):
        return sorted(map(tuple, images.reshape(-1, 64).mul(16).int().tolist()))

    every = torch.cat((digits.train.images, digits.test.images))
    assert rows(every) == rows(torch.as_tensor(load_digits().images / 16))


def test_limited_keeps_the_first():
    digits = data.load("digits")
    few = digits.limited(7)
    assert torch.equal(few.train.images, digits.train.images[:7])
    assert torch.equal(few.test.labels, digits.test.labels[:7])


@pytest.mark.skipif(not (REAL_ROOT / "MNIST").is_dir(), reason=f"no MNIST files under {REAL_ROOT}")
def test_real_mnist():
    mnist = data.load("mnist", REAL_ROOT)
    assert mnist.train.images.shape == (60_000, 1, 28, 28)
    assert mnist.test.images.shape == (10_000, 1, 28, 28)
    assert mnist.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert mnist.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    pixels = as_unit(mnist.train.images)
    assert pixels.mean().item() == pytest.approx(0.1307, abs=1e-4)
    assert pixels.std().item() == pytest.approx(0.3081, abs=1e-4)
