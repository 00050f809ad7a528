"""How the tests run a step on a GPU: as a captured graph, on a stream of its own, and without the host waiting."""

from contextlib import contextmanager

import pytest
import torch

import pyaegpu
from pyaegpu import backends

_NAP_CYCLES = 20_000_000  # about 10 ms


@contextmanager
def selected(name):
    """Selects a backend, or skips a test where it is not available."""
    reason = backends.status()[name]
    if reason is not None:
        pytest.skip(f"backend {name!r} is not available: {reason}")
    with pyaegpu.backend(name):
        yield


def captured(step):
    """The CUDA graph of ``step()``, and the results that its replays write."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    return graph, results


def on_a_side_stream(call, tensors):
    """``call(*tensors)`` on a stream of its own, on which the tensors' values are yet to be written when it is called.

    What would run on another stream reads zeros.
    """
    late = [torch.zeros_like(t).requires_grad_(t.requires_grad) for t in tensors]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(_NAP_CYCLES)
        with torch.no_grad():
            for place, values in zip(late, tensors, strict=True):
                place.copy_(values)
        results = call(*late)
    torch.cuda.synchronize()
    return results


def assert_never_waits(step):
    """Twice, after a run that may compile."""
    step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def require_free(gigabytes):
    """Skips a test where the card has less memory than that left."""
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < gigabytes * 2**30:
        pytest.skip(f"needs {gigabytes} GB of free memory")
