"""Seed and offset of a draw, where no CUDA device is needed to see them."""

import pytest
import torch

import pyaegpu
from pyaegpu.ops import random

GPU = torch.device("cuda", 0)


class Generator:
    """A CUDA generator's three numbers."""

    device = GPU

    def __init__(self, seed, offset):
        self.seed, self.offset = seed, offset

    def initial_seed(self):
        return self.seed

    def get_offset(self):
        return self.offset

    def set_offset(self, offset):
        self.offset = offset


@pytest.fixture
def eager(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)


def test_a_cuda_generator_is_read_in_philox_calls(eager):
    """curand counts words, four for each call; its own next draw is at 12 words, or call 3."""
    generator = Generator(2**64 - 5, 8)
    assert random.draw(GPU, generator) == random.Draw(None, -5, 2)
    assert generator.offset == 12
    assert random.draw(GPU, generator).offset == 3


def test_a_cpu_generator_serves_a_gpu(eager):
    seeds = [random.draw(GPU, torch.Generator().manual_seed(4)) for _ in range(2)]
    assert seeds[0] == seeds[1] and seeds[0].offset == 0


def test_a_cpu_generator_is_refused_while_a_graph_is_captured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="generator must be None or a CUDA generator"):
        random.draw(GPU, torch.Generator())


@pytest.mark.parametrize("generator", [None, torch.Generator()], ids=["default", "given"])
def test_another_default_device_does_not_matter(generator):
    x = torch.zeros(3, 4)
    with torch.device("meta"):
        assert pyaegpu.reparameterize(x, x, generator=generator).device == x.device
