"""The measurement loop: every round times everyone, in a changing order, on rotating inputs."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from contextlib import contextmanager

import pytest
import torch

from benchmarks import timing
from benchmarks.timing import Call, CpuClock, Sample, Subject


class CountingClock:
    """Runs the calls and takes their number for the time."""

    def sample(self, calls: Sequence[Call]) -> Sample:
        for call in calls:
            call()
        return Sample(len(calls), len(calls), len(calls))

    def repeat_for(self, sample: Sample) -> int:
        return 3


def test_every_round_times_every_candidate_in_a_changing_order() -> None:
    seen: list[str] = []
    subjects = {name: Subject([lambda name=name: seen.append(name)]) for name in "abcd"}
    results = timing.interleave(subjects, CountingClock(), rounds=6, samples=2, seed=1)
    assert {name: [len(samples) for samples in found] for name, found in results.items()} == {
        name: [2] * 6 for name in "abcd"
    }
    per_round = [tuple(dict.fromkeys(seen[12 * r : 12 * (r + 1)])) for r in range(6)]
    assert all(sorted(order) == list("abcd") for order in per_round) and len(set(per_round)) > 1


def test_calls_rotate_among_the_copies() -> None:
    seen: list[int] = []
    subject = Subject([lambda i=i: seen.append(i) for i in range(3)], repeat=4)
    for _ in range(2):
        for call in subject.next_calls():
            call()
    assert seen == [0, 1, 2, 0, 1, 2, 0, 1]


def test_calibration_warms_every_copy_inside_the_scope() -> None:
    inside, seen = [False], []

    @contextmanager
    def scope():
        inside[0] = True
        yield
        inside[0] = False

    subject = Subject([lambda i=i: seen.append((i, inside[0])) for i in range(3)], scope)
    timing.calibrate(subject, CountingClock())
    assert subject.repeat == 3
    assert {i for i, _ in seen} == {0, 1, 2} and all(within for _, within in seen)


def test_garbage_collection_is_off_while_timing_and_on_again_after() -> None:
    states: list[bool] = []

    def call() -> None:
        states.append(gc.isenabled())
        if len(states) == 3:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        timing.interleave({"a": Subject([call])}, CountingClock(), rounds=9, samples=9, seed=0)
    assert states == [False] * 3 and gc.isenabled()


def test_the_cpu_clock_reads_microseconds_per_call() -> None:
    sample = CpuClock().sample([lambda: time.sleep(0.002)] * 3)
    assert 1_900 < sample.device < 100_000
    assert sample.device == sample.host == sample.wall


def test_short_calls_are_repeated_until_a_sample_is_long_enough() -> None:
    clock = CpuClock()
    assert clock.repeat_for(Sample(10, 10, 10)) == 400
    assert clock.repeat_for(Sample(1e5, 1e5, 1e5)) == 1
    assert clock.repeat_for(Sample(1e-3, 1e-3, 1e-3)) == timing.MAX_CALLS


class FakeEvent:
    """A CUDA event that notes when it is recorded, on a clock that only the calls move."""

    def __init__(self, log: list[str], now: list[float]) -> None:
        self.log, self.now, self.at = log, now, 0.0

    def record(self) -> None:
        self.log.append("record")
        self.at = self.now[0]

    def synchronize(self) -> None:
        self.log.append("wait")

    def elapsed_time(self, other: FakeEvent) -> float:
        return other.at - self.at


def test_the_cuda_clock_counts_device_time_behind_a_sleeping_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    now_ms = [0.0]
    cycles: list[int] = []

    def sleep(count: int) -> None:
        log.append("sleep")
        cycles.append(count)

    def call() -> None:
        log.append("call")
        now_ms[0] += 0.25
        time.sleep(0.001)

    monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: FakeEvent(log, now_ms))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: log.append("synchronize"))
    monkeypatch.setattr(torch.cuda, "_sleep", sleep, raising=False)
    clock = timing.CudaClock()
    sample = clock.sample([call, call])
    assert log[:4] == ["synchronize", "call", "call", "synchronize"]
    assert log[4:] == ["sleep", "record", "call", "call", "record", "wait"]
    assert sample.device == pytest.approx(250)
    assert 1_000 < sample.host <= sample.wall
    assert cycles[0] > 2 * sample.host * timing.GPU_CLOCK_MHZ  # it outlasts the submission of both calls
    assert clock.repeat_for(sample) < clock.repeat_for(Sample(5, 5, 5))


def test_copy_bandwidth_counts_bytes_read_and_written() -> None:
    gbs = timing.copy_bandwidth("cpu", CountingClock())  # two calls take "2 microseconds"
    assert gbs == pytest.approx(2 * (4 << 25) / 2 / 1e3)


def test_the_rate_of_a_product_counts_both_operations() -> None:
    seen: list[tuple[str, torch.dtype]] = []
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision

    class Watching(CountingClock):
        def sample(self, calls: Sequence[Call]) -> Sample:
            seen.append((matmul.fp32_precision, calls[0]().dtype))
            return Sample(2e6, 2e6, 2e6)

    rate = timing.matmul_rate("cpu", torch.bfloat16, Watching())
    assert rate == pytest.approx(2 * 1536**3 / 2e9)  # in two seconds
    # as precise as convolutions are
    assert set(seen) == {(torch.backends.cudnn.conv.fp32_precision, torch.bfloat16)}
    assert matmul.fp32_precision == before
