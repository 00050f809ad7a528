"""Where the tests of the ops run: each backend on the devices it serves."""

import fcntl
import gc
import os
import sys
import tempfile
from pathlib import Path

import pytest
import torch

import pyaegpu
from pyaegpu import backends

# pytest's importlib mode leaves the tests' own helpers off the path.
sys.path.append(str(Path(__file__).parent))
from cuda_runs import require_free

KERNEL_PLACES = [
    pytest.param(("cpu", "cpu"), id="cpu"),
    pytest.param(("cuda", "cuda"), id="cuda", marks=pytest.mark.gpu),
    pytest.param(("cuda", "triton"), id="triton", marks=pytest.mark.gpu),
]
PLACES = [
    pytest.param(("cpu", "reference"), id="reference"),
    *KERNEL_PLACES,
    # What `auto` takes on a card that is not measured.
    pytest.param(("cuda", "reference"), id="cuda-reference", marks=pytest.mark.gpu),
]


def pytest_configure():
    # Two cores are what the tests are timed for; workers of a parallel run share them.
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, min(2, os.cpu_count() or 1) // workers))


def pytest_runtest_setup(item):
    # Skipped here, and not by a mark, the tests share one line of the summary.
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device: torch finds none")


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown():
    # What a test of large tensors that failed had is held by its traceback, until now; other processes need it.
    if torch.cuda.is_initialized() and torch.cuda.memory_reserved() > 4 * 2**30:
        torch.cuda.empty_cache()


@pytest.fixture(autouse=True)
def ieee_float32():
    """Convolutions in float32 are held to its own precision: TF32, torch's default on a GPU, has tests of its own."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def large_memory():
    """large_memory(gigabytes): skips a test where the card has less memory than that free.

    Tests of large tensors wait for each other, whichever processes they run in.
    """
    with open(Path(tempfile.gettempdir()) / f"pyaegpu-tests-{os.getuid()}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield require_free
        gc.collect()
        torch.cuda.empty_cache()


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


@pytest.fixture(params=KERNEL_PLACES)
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
