"""Runs tests marked `gpu` where there is no GPU: CUDA tensors are CPU tensors, and torch.cuda's calls are stand-ins.

``TRITON_INTERPRET=1 pytest -p pretend_gpu -m gpu`` interprets the Triton kernels as a card of compute capability 9.0
would start them, and looks at their values; without the variable each launch is compiled as Triton's JIT would for that
card and nothing starts, so that values mean nothing and failed comparisons are skipped. Both tell whether the tests and
the launchers run, not whether the kernels do.
"""

import os
import time
import types
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from unittest import mock

import cuda_runs
import pretend_memory
import pytest
import torch
import triton
import triton.language as tl
from pretend_memory import CARD
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental import proxy_tensor

CAPABILITY = (9, 0)
INTERPRETS = os.environ.get("TRITON_INTERPRET") == "1"
# What the names of tests hold that look at what is not pretended.
_BELOW = "torch makes tensors where only C++ sees where they are"
UNPRETENDED = {
    "autocast": "autocast asks in C++ where tensors are",
    "test_upsampling": "autocast asks in C++ where tensors are",
    "test_one_dtype": "autocast asks in C++ where tensors are",
    "forward_mode": _BELOW,
    "jacobians": _BELOW,
    "transforms": _BELOW,
    "batched_gradients": _BELOW,
    "numerical_derivatives": _BELOW,
    "second_derivatives_equal": _BELOW,
    "test_upsample_conv2d[": "what is unpickled is on the host",
    "test_weighted_reductions_are_those": "torch's l1_loss loses its weight where a function mode looks on",
    "test_a_draw_moves_torchs_next": "torch's own draws do not read the offset",
    "test_a_generator_of_its_own": "a generator's state holds no offset here",
    "test_checkpoint_draws": "a generator's state holds no offset here",
    "test_what_is_kept_and": "the interpreter's own copies are counted",
    "test_corrupt_on_a_gpu_is_tritons": "backend 'cuda' is missing for another reason here",
}
_capturing = False


def _skip(what):
    def refuse(*args, **kwargs):
        pytest.skip(f"{what} cannot be pretended")

    return refuse


class Generator(torch._C.Generator):
    """A CPU generator that counts an offset, as a CUDA generator does."""

    def __new__(cls, device="cpu"):
        made = super().__new__(cls, "cpu")
        made._shown, made._offset = torch.device(device), 0
        return made

    @property
    def device(self):
        return CARD if self._shown.type == "cuda" else self._shown

    def manual_seed(self, seed):
        self._offset = 0
        super().manual_seed(seed)
        return self

    def get_offset(self):
        return self._offset

    def set_offset(self, offset):
        self._offset = offset


class Event:
    """A time on the host's clock."""

    def __init__(self, **options):
        self._time = 0.0

    def record(self, stream=None):
        self._time = time.perf_counter()

    def synchronize(self):
        pass

    def elapsed_time(self, other):
        return 1e3 * (other._time - self._time)


class Stream(nullcontext):
    cuda_stream = 0

    def __init__(self, *args, **options):
        super().__init__()

    def wait_stream(self, other):
        pass

    synchronize = wait_event = record_event = wait_stream


class CUDAGraph:
    """Holds the step that ``captured`` gives it."""

    step = results = None
    reset = register_generator_state = staticmethod(lambda *args: None)

    def replay(self):
        if self.step is None:
            pytest.skip("the replay of a CUDA graph that a test captures by itself cannot be pretended")
        with _capture(self):
            again = self.step()
        for kept, new in zip(self.results, again, strict=True):
            if kept is not None:
                kept.data.copy_(new.detach())  # as a graph writes it, of which autograd knows nothing


@contextmanager
def _capture(graph, **options):
    global _capturing
    _capturing = True
    try:
        yield
    finally:
        _capturing = False


def _captured(step):
    """Stands in for ``cuda_runs.captured``: a replay runs the step again."""
    graph = CUDAGraph()
    step()
    with _capture(graph):
        graph.results = step()
    graph.step = step
    return graph, graph.results


def _none(*args, **kwargs):
    return None


def _manual_seed_all(seed):
    for generator in torch.cuda.default_generators:
        generator.manual_seed(seed)


PROPERTIES = types.SimpleNamespace(
    name="pretended", multi_processor_count=132, L2_cache_size=60 << 20, total_memory=2**37, major=9, minor=0
)
_CUDA = {
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "get_device_name": lambda device=None: PROPERTIES.name,
    "get_device_capability": lambda device=None: CAPABILITY,
    "get_device_properties": lambda device=None: PROPERTIES,
    "mem_get_info": lambda device=None: (8 << 30, 2**37),  # large tensors are skipped
    "device": lambda device: nullcontext(),
    "is_current_stream_capturing": lambda: _capturing,
    "default_generators": (Generator("cuda"),),
    "manual_seed": _manual_seed_all,
    "manual_seed_all": _manual_seed_all,
    "Event": Event,
    "Stream": Stream,
    "stream": lambda stream: nullcontext(),
    "set_sync_debug_mode": pretend_memory.set_sync_debug_mode,
    "current_stream": lambda device=None: Stream(),
    "CUDAGraph": CUDAGraph,
    "graph": _capture,
    "max_memory_allocated": lambda device=None: 0,
    "memory_allocated": lambda device=None: 0,
    **dict.fromkeys(
        ("synchronize", "empty_cache", "reset_peak_memory_stats", "_sleep", "init", "_lazy_init"),
        _none,
    ),
}


class CompileOnly:
    """What Triton's JIT asks a driver while it compiles."""

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)


def _compile_instead():
    from triton.runtime.jit import JITFunction

    triton.runtime.driver.set_active(CompileOnly())
    started = JITFunction.run

    def run(kernel, *args, grid, warmup, **options):
        return started(kernel, *args, grid=grid, warmup=True, **options)

    return mock.patch.object(JITFunction, "run", run)


def _multiply_bfloat16():
    """Triton's interpreter multiplies bfloat16 as the integers that it stores."""
    from triton.runtime.interpreter import InterpreterBuilder

    multiplied = InterpreterBuilder.create_dot

    def create_dot(builder, a, b, *rest):
        a, b = (builder.cast_impl(t, tl.float32) if t.dtype.scalar == tl.bfloat16 else t for t in (a, b))
        return multiplied(builder, a, b, *rest)

    return mock.patch.object(InterpreterBuilder, "create_dot", create_dot)


def pretend():
    """Patches torch for the rest of the process."""
    for name, value in _CUDA.items():
        mock.patch.object(torch.cuda, name, value).start()
    mock.patch.object(torch, "Generator", Generator).start()
    tracers = ((torch, "compile"), (torch.export, "export"), (torch.jit, "trace"), (proxy_tensor, "make_fx"))
    for owner, name in (*tracers, (torch.library, "opcheck")):
        mock.patch.object(owner, name, _skip(f"torch's {name}")).start()
    mock.patch.object(FakeTensorMode, "__init__", _skip("fake tensors of a card")).start()
    from pyaegpu import backends

    mock.patch.object(backends, "_interpreting", lambda: False).start()
    (_multiply_bfloat16() if INTERPRETS else _compile_instead()).start()
    mock.patch.object(cuda_runs, "captured", _captured).start()
    pretend_memory.pretend()


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests():
    """Before the first conftest.py asks whether there is a GPU."""
    pretend()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    for name, reason in UNPRETENDED.items():
        if name in item.nodeid:
            pytest.skip(f"cannot be pretended: {reason}")
    try:
        with mock.patch.object(ThreadPoolExecutor, "__init__", _skip("a card in other threads")):
            return (yield)
    except AssertionError as error:
        if INTERPRETS:
            raise
        pytest.skip(f"values of kernels that did not run: {str(error)[:80]}")
