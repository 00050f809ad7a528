"""Equal bits from run to run and for any number of threads."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conv_cases import CASES, Case
from oracle import run

import pyaegpu

LARGE = {
    "small": Case((19, 67, 9, 11), (67, 3, 4, 4), {"stride": 2, "padding": 1}),
    "one channel": Case((64, 8, 14, 14), (8, 1, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    "dense": Case((5, 17, 9, 11), (17, 6, 4, 4), {"stride": 2, "padding": 1}),
}
each_large = pytest.mark.parametrize("case", LARGE.values(), ids=LARGE)


def everything(case, tensors):
    values, grads = run(case.ours(activation="tanh"), tensors)
    return [*values, *grads]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@each_large
def test_two_runs_are_equal(kernel_device, case, dtype, nan_filled):
    tensors = case.tensors(dtype, kernel_device)
    first, second = everything(case, tensors), everything(case, tensors)
    assert all(map(torch.equal, first, second)) and all(t.isfinite().all() for t in first)


@pytest.mark.parametrize("case", [LARGE["small"], LARGE["one channel"]], ids=["small", "one channel"])
def test_the_batch_around_a_sample_does_not_matter(kernel_device, case):
    """To its result; the first samples of a longer batch are those of a shorter one."""
    input, weight, bias = case.tensors(device=kernel_device)
    call = case.ours(activation="relu")
    assert torch.equal(call(input, weight, bias)[:3], call(input[:3], weight, bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["small", "one channel"])
def test_results_do_not_depend_on_the_number_of_threads(name, dtype):
    case, threads, results = LARGE[name], torch.get_num_threads(), []
    tensors = case.tensors(dtype)
    with pyaegpu.backend("cpu"):
        try:
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                results.append(everything(case, tensors))
        finally:
            torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_calls_from_several_threads(kernel_device):
    cases = [CASES[name] for name in ("4x4", "asymmetric", "dense 4x4")]
    tensors = [case.tensors(device=kernel_device) for case in cases]

    def step(_):
        return [t for case, given in zip(cases, tensors, strict=True) for t in everything(case, given)]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(step, range(16)))
    assert all(all(map(torch.equal, other, results[0])) for other in results[1:])
