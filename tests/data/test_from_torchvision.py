"""Downloads and CIFAR-10, with a torchvision that is made up."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from pyaegpu import data
from pyaegpu.data import DataError, from_torchvision

IMAGES = np.arange(5 * 32 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(5, 32, 32, 3)


@pytest.fixture
def torchvision(monkeypatch, write_mnist, tmp_path):
    """Stands in for torchvision; `calls` has what was asked of it, `errors` what it shall raise."""
    calls, errors = [], []

    def make(name):
        def dataset(root, train=True, download=False):
            calls.append((name, root, train, download))
            if errors:
                raise errors[0]
            if download and name != "CIFAR10":
                write_mnist(tmp_path / name / "raw")
            return SimpleNamespace(data=IMAGES[: 5 if train else 2], targets=[3, 1, 4, 1, 5][: 5 if train else 2])

        return dataset

    package, datasets = ModuleType("torchvision"), ModuleType("torchvision.datasets")
    for name in ("MNIST", "FashionMNIST", "CIFAR10"):
        setattr(datasets, name, make(name))
    package.datasets = datasets
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)
    return SimpleNamespace(calls=calls, errors=errors)


@pytest.fixture
def no_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)


def test_cifar10(torchvision, tmp_path):
    dataset = data.load("cifar10", tmp_path)
    assert (dataset.name, dataset.image_shape, len(dataset.train), len(dataset.test)) == ("cifar10", (3, 32, 32), 5, 2)
    assert np.array_equal(dataset.train.images.permute(0, 2, 3, 1), IMAGES)
    assert dataset.train.images.dtype == torch.uint8
    assert dataset.train.labels.tolist() == [3, 1, 4, 1, 5]
    assert torchvision.calls == [("CIFAR10", str(tmp_path), train, False) for train in (True, False)]


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_download(torchvision, tmp_path, name, folder):
    from_torchvision.download(name, tmp_path)
    assert torchvision.calls == [(folder, str(tmp_path), train, True) for train in (True, False)]
    assert len(data.load(name, tmp_path).train) == 5


@pytest.mark.parametrize("error", [RuntimeError("Dataset not found or corrupted."), OSError("no route to host")])
def test_what_torchvision_raises(torchvision, tmp_path, error):
    torchvision.errors.append(error)
    with pytest.raises(DataError, match=f"cifar10 in {tmp_path}: torchvision says: {error}"):
        data.load("cifar10", tmp_path)


def test_without_torchvision(no_torchvision, tmp_path):
    assert not from_torchvision.available()
    with pytest.raises(DataError, match=r"cifar10 needs torchvision.*pip install torchvision, or give --data a \.npz"):
        data.load("cifar10", tmp_path)
    with pytest.raises(DataError, match=f"t10k-labels-idx1-ubyte.gz into {tmp_path}/FashionMNIST/raw"):
        from_torchvision.download("fashion_mnist", tmp_path)


def test_a_torchvision_that_cannot_be_loaded(torchvision, monkeypatch):
    class Broken:
        def find_spec(self, name, *rest):
            if name == "torchvision":
                raise RuntimeError("operator torchvision::nms does not exist")

    assert from_torchvision.available()
    monkeypatch.delitem(sys.modules, "torchvision")
    monkeypatch.delitem(sys.modules, "torchvision.datasets")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert not from_torchvision.available()
