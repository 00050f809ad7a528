"""Where the tests of the ops run: each backend on the devices it serves."""

import os
import sys
from pathlib import Path

import pytest
import torch

import pyaegpu
from pyaegpu import backends

# pytest's importlib mode leaves the tests' own helpers off the path.
sys.path.append(str(Path(__file__).parent))

PLACES = [
    pytest.param(("cpu", "reference"), id="reference"),
    pytest.param(("cpu", "cpu"), id="cpu"),
    pytest.param(("cuda", "cuda"), id="cuda", marks=pytest.mark.gpu),
    pytest.param(("cuda", "triton"), id="triton", marks=pytest.mark.gpu),
    # What `auto` takes on a card that is not measured.
    pytest.param(("cuda", "reference"), id="cuda-reference", marks=pytest.mark.gpu),
]


def pytest_configure():
    # Two cores are what the tests are timed for; more threads would only compete with parallel workers.
    torch.set_num_threads(min(2, os.cpu_count() or 1))


def pytest_runtest_setup(item):
    # Skipped here, and not by a mark, the tests share one line of the summary.
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device: torch finds none")


def _require(device, backend):
    # On the CPU a missing backend is a failure: the call says why.
    reason = backends.status()[backend] if device == "cuda" else None
    if reason is not None:
        pytest.skip(f"backend {backend!r} is not available: {reason}")


@pytest.fixture(params=PLACES)
def device(request):
    """A device, with each backend that serves it selected in turn."""
    kind, backend = request.param
    _require(kind, backend)
    with pyaegpu.backend(backend):
        yield torch.device(kind)


@pytest.fixture(params=PLACES[1:])
def kernel_device(request):
    """A device, with each backend that has kernels for it selected in turn."""
    kind, backend = request.param
    _require(kind, backend)
    with pyaegpu.backend(backend):
        yield torch.device(kind)


@pytest.fixture
def nan_filled():
    """Every allocation starts as NaN (C++ allocations too), so that an element that no kernel writes shows."""
    previous = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(previous[0])
    torch.utils.deterministic.fill_uninitialized_memory = previous[1]
