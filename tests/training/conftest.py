"""How the tests of training run."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Models this small spend their time waiting for a second one, the more so where others use the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
