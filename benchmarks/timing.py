"""Clocks and the interleaved measurement: every round times every candidate, in a new random order."""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import torch

Call = Callable[[], object]

CPU_SAMPLE_US = 4_000.0  # a CPU sample runs at least this long, far above the clock's resolution
CUDA_SHORT_US = 200.0
CUDA_CALLS = (8, 2)  # calls per sample of a short and of a long problem: few, so that no launch queue fills
GPU_CLOCK_MHZ = 2_000.0  # at least any card's clock: turns microseconds of waiting into `_sleep` cycles
MAX_CALLS = 2_000


@dataclass(frozen=True)
class Sample:
    """Microseconds per call: on the device, submitted by the host, and until the result is there."""

    device: float
    host: float
    wall: float


@dataclass
class Subject:
    """One candidate ready to be timed: a call per copy of the inputs, and the scope to be timed in."""

    calls: Sequence[Call]
    scope: Callable[[], AbstractContextManager[object]] = nullcontext
    repeat: int = 1
    turn: int = field(default=0, repr=False)

    def next_calls(self) -> list[Call]:
        """The next `repeat` calls, rotating among the copies."""
        picked = [self.calls[(self.turn + i) % len(self.calls)] for i in range(self.repeat)]
        self.turn += self.repeat
        return picked


class Clock(Protocol):
    """Times a list of calls on one kind of device."""

    def sample(self, calls: Sequence[Call]) -> Sample:
        """Microseconds per call."""
        ...

    def repeat_for(self, sample: Sample) -> int:
        """How many calls a sample should hold, from one call's time."""
        ...


class CpuClock:
    """Wall time: on the CPU device, host and wall are one."""

    def sample(self, calls: Sequence[Call]) -> Sample:
        """See `Clock.sample`."""
        began = time.perf_counter()
        for call in calls:
            call()
        took = 1e6 * (time.perf_counter() - began) / len(calls)
        return Sample(took, took, took)

    def repeat_for(self, sample: Sample) -> int:
        """Enough calls to fill `CPU_SAMPLE_US`."""
        return max(1, min(MAX_CALLS, math.ceil(CPU_SAMPLE_US / sample.wall)))


class CudaClock:
    """Device time by events behind a sleeping kernel, so without submission; host and wall time apart."""

    def __init__(self) -> None:
        self._start = torch.cuda.Event(enable_timing=True)
        self._stop = torch.cuda.Event(enable_timing=True)

    def sample(self, calls: Sequence[Call]) -> Sample:
        """See `Clock.sample`."""
        torch.cuda.synchronize()
        began = time.perf_counter()
        for call in calls:
            call()
        submitted = time.perf_counter()
        torch.cuda.synchronize()
        done = time.perf_counter()
        host, wall = 1e6 * (submitted - began), 1e6 * (done - began)
        device = self._device_us(calls, wait_us=1.5 * host + 50)
        return Sample(device / len(calls), host / len(calls), wall / len(calls))

    def repeat_for(self, sample: Sample) -> int:
        """Several calls per sample, few enough that the launch queue takes them all."""
        return CUDA_CALLS[sample.device > CUDA_SHORT_US]

    def _device_us(self, calls: Sequence[Call], wait_us: float) -> float:
        torch.cuda._sleep(int(wait_us * GPU_CLOCK_MHZ))
        self._start.record()
        for call in calls:
            call()
        self._stop.record()
        self._stop.synchronize()
        return 1e3 * self._start.elapsed_time(self._stop)


def clock_for(device: str) -> Clock:
    """The clock of a device type."""
    return CudaClock() if device == "cuda" else CpuClock()


def answers(device: str) -> bool:
    """Whether the device still works for this process: after a kernel's fault a GPU refuses everything."""
    try:
        if device == "cuda":
            torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def calibrate(subject: Subject, clock: Clock) -> None:
    """Warms up (compilation, handles, caches) and sets how many calls one sample holds."""
    with subject.scope():
        for call in subject.calls:
            call()
        subject.repeat = 1
        first = [clock.sample(subject.next_calls()) for _ in range(3)]
        subject.repeat = clock.repeat_for(min(first, key=lambda sample: sample.wall))
        clock.sample(subject.next_calls())


def interleave(
    subjects: Mapping[str, Subject], clock: Clock, *, rounds: int, samples: int, seed: int
) -> dict[str, list[list[Sample]]]:
    """Samples by candidate and round."""
    order = list(subjects)
    shuffle = random.Random(seed).shuffle
    results: dict[str, list[list[Sample]]] = {name: [] for name in order}
    with _no_collection():
        for _ in range(rounds):
            shuffle(order)
            for name in order:
                results[name].append(_samples(subjects[name], clock, samples))
    return results


def capture(call: Call) -> Call:
    """The call as a CUDA graph; a replay writes the outputs that the capture returned."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = call()

    def replay() -> object:
        graph.replay()
        return outputs

    return replay


def peak_mb(call: Call) -> float:
    """Peak device memory that one call adds, in MB (1e6 bytes)."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def copy_bandwidth(device: str, clock: Clock) -> float:
    """GB/s of a large copy, bytes read plus bytes written: the ceiling of memory-bound ops."""
    count = 1 << (28 if device == "cuda" else 25)
    source = torch.rand(count, device=device)
    target = torch.rand(count, device=device)
    call: Call = lambda: target.copy_(source)  # noqa: E731
    call()
    times = sorted(clock.sample([call, call]).device for _ in range(9))
    return 2 * source.nbytes / times[len(times) // 2] / 1e3


def matmul_rate(device: str, dtype: torch.dtype, clock: Clock) -> float:
    """GFLOP/s of a large matrix product, in TF32 where convolutions use it: the ceiling of matrix-bound ops."""
    size = 8192 if device == "cuda" else 1536
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    call: Call = lambda: left @ right  # noqa: E731
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
    try:
        call()
        times = sorted(clock.sample([call, call]).device for _ in range(9))
    finally:
        matmul.fp32_precision = before
    return 2 * size**3 / times[len(times) // 2] / 1e3


def _samples(subject: Subject, clock: Clock, count: int) -> list[Sample]:
    with subject.scope():
        clock.sample(subject.next_calls()[:1])  # this candidate's code and data back into the caches
        return [clock.sample(subject.next_calls()) for _ in range(count)]


@contextmanager
def _no_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
