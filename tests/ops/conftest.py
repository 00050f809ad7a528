"""What the tests of the ops share besides the tests' own helpers."""

import sys
from pathlib import Path

import pytest
import torch
from cuda_runs import selected

from pyaegpu.backends import BackendError

# pytest's importlib mode leaves the helpers of these tests off the path.
sys.path.append(str(Path(__file__).parent))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """A family that a selected backend has no kernels of is no failure there; the backend says so itself."""
    try:
        return (yield)
    except BackendError as error:
        if "it has no kernels of" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture(params=["cuda", "triton"])
def gpu(request):
    """Each backend that has kernels for a GPU, selected in turn."""
    with selected(request.param):
        yield request.param


@pytest.fixture(scope="session")
def torch_tests():
    """torch_tests(name): a module of torch.testing._internal, PyTorch's own tests and their samples."""
    pytest.importorskip("expecttest")

    def module(name):
        with pytest.MonkeyPatch.context() as patch:
            # Importing PyTorch's test suite forbids setting torch.backends.* for good, which other tests here do.
            patch.setattr(torch.backends, "disable_global_flags", lambda: None)
            return pytest.importorskip(f"torch.testing._internal.{name}")

    return module
