"""Batches, and where the images lie."""

import pytest
import torch

from pyaegpu.training import Images, place
from pyaegpu.training import images as module

BYTES = torch.arange(7 * 6, dtype=torch.uint8).reshape(7, 1, 2, 3)


@pytest.mark.parametrize("values", [BYTES, BYTES / 255], ids=["bytes", "floats"])
def test_batches(values):
    images, order = Images(values), torch.tensor([6, 2, 0, 1, 5, 4, 3])
    for batches, expected in ((images.batches(3), BYTES), (images.batches(3, order), BYTES[order])):
        batches = list(batches)
        assert [len(batch) for batch in batches] == [3, 3, 1]
        torch.testing.assert_close(torch.cat(batches), expected / 255, rtol=0, atol=0)
        assert batches[0].dtype == torch.float32


def test_the_data_are_not_converted_as_a_whole():
    seen = []
    original = module.as_unit
    module.as_unit = lambda batch: seen.append(batch.numel()) or original(batch)
    try:
        list(Images(BYTES).batches(2))
    finally:
        module.as_unit = original
    assert seen == [12, 12, 12, 6]


def test_on_the_cpu_nothing_is_copied():
    train, test = place(BYTES, BYTES[:2], torch.device("cpu"))
    assert train.resident and test.resident
    assert train.values is BYTES


@pytest.mark.parametrize(("free", "fits"), [(2 * (42 + 12), False), (2 * (42 + 12) + 1, True)])
def test_half_of_the_free_memory(monkeypatch, free, fits):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**12))
    assert module._fits(BYTES.nbytes + BYTES[:2].nbytes, torch.device("cuda")) is fits


@pytest.mark.gpu
@pytest.mark.parametrize("fits", [True, False])
def test_on_a_gpu(monkeypatch, fits):
    monkeypatch.setattr(module, "_fits", lambda size, device: fits)
    train, _ = place(BYTES, BYTES, torch.device("cuda"))
    assert train.resident is fits
    order = torch.randperm(7)
    for _ in range(20):
        torch.testing.assert_close(torch.cat(list(train.batches(2, order))).cpu(), BYTES[order] / 255)
    torch.testing.assert_close(torch.cat(list(train.batches(4))).cpu(), BYTES / 255)
