"""Equal bits from run to run and for any number of threads, also where PyTorch's own op refuses."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from pool_cases import CODES, INT32, INT64, Case, channels_last, outcome

import pyaegpu

LARGE = {
    "apart": Case((2, 16, 64, 65), 2),
    "overlapping": Case((2, 8, 65, 64), 3, 2, 1),
    "one plane": Case((1, 1, 200, 202), 3, 1, 1),
    "volume": Case((2, 3, 17, 16, 17), 3, 2, 1),
}
each_large = pytest.mark.parametrize("case", LARGE.values(), ids=LARGE)
FORMATS = (torch.clone, channels_last)


def everything(case, input, given):
    """Values and gradients of a pooling, and of an unpooling with codes, with int64, and where elements of one plane
    are all over it and mostly on few places."""
    results = [*outcome(case.pool, input)]
    for index_dtype in (CODES, INT64):
        values, indices = case.pool(input, index_dtype)
        results += [indices, *outcome(lambda t, i=indices: case.unpool(t, i), values)]
    for indices in (given, given.to(INT32)):
        results += outcome(lambda t, i=indices: case.unpool(t, i), values)
    return results


def foreign(case, device="cpu"):
    generator = torch.Generator().manual_seed(8)
    indices = case.stock_pool(case.input())[1]
    size = torch.Size(case.image).numel()
    few = torch.randint(size, indices.shape, generator=generator) % 11
    anywhere = torch.randint(size, indices.shape, generator=generator)
    return torch.where(torch.rand(indices.shape, generator=generator) < 0.5, few, anywhere).to(device)


def changed_threads(counts, fn):
    threads, results = torch.get_num_threads(), []
    try:
        for count in counts:
            torch.set_num_threads(count)
            results.append(fn())
    finally:
        torch.set_num_threads(threads)
    return results


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@each_large
def test_two_runs_are_equal(device, case, dtype, nan_filled):
    """Under use_deterministic_algorithms, where stock's unpooling raises."""
    for memory in FORMATS:
        input, given = memory(case.input(dtype, device)), memory(foreign(case, device))
        first, second = everything(case, input, given), everything(case, input, given)
        assert all(map(torch.equal, first, second)) and all(t.isfinite().all() for t in first)


def test_stock_refuses(nan_filled):
    case = LARGE["apart"]
    input = case.input()
    with pytest.raises(RuntimeError, match="deterministic"):
        case.stock_unpool(*case.stock_pool(input))


@each_large
def test_results_do_not_depend_on_the_number_of_threads(case):
    for memory in FORMATS:
        input, given = memory(case.input()), memory(foreign(case))
        with pyaegpu.backend("cpu"):
            first, *others = changed_threads((1, 2, 3), lambda i=input, g=given: everything(case, i, g))
        for other in others:
            assert all(map(torch.equal, first, other))


@each_large
def test_both_memory_formats_agree(device, case):
    """The order of a place's sum and of its values is that of the elements, not of the memory."""
    input, given = case.input(device=device), foreign(case, device)
    results = [everything(case, memory(input), memory(given)) for memory in FORMATS]
    for contiguous, other in zip(*results, strict=True):
        assert torch.allclose(contiguous, other)
    assert all(map(torch.equal, results[0][-4:], results[1][-4:]))


def test_backends_agree_on_repeated_places():
    for case in LARGE.values():
        values, given = case.pool(case.input()), foreign(case)
        results = []
        for backend in ("cpu", "reference"):
            with pyaegpu.backend(backend):
                results.append(outcome(lambda t, c=case, g=given: c.unpool(t, g), values))
        assert all(map(torch.equal, *results))


def test_the_batch_around_a_sample_does_not_matter(kernel_device):
    case = LARGE["overlapping"]
    input, given = case.input(device=kernel_device), foreign(case, kernel_device)
    for whole, part in zip(everything(case, input, given), everything(case, input[1:], given[1:]), strict=True):
        if whole.dtype != torch.float32 or torch.equal(whole[1:], part):
            continue
        assert whole.shape[2:] == part.shape[2:]  # the upstream gradients differ
    for function in (lambda t, g: case.pool(t), lambda t, g: case.unpool(case.pool(t), g)):
        assert torch.equal(function(input, given)[1:], function(input[1:], given[1:]))


def test_calls_from_several_threads(kernel_device):
    case = LARGE["overlapping"]
    input, given = case.input(device=kernel_device), foreign(case, kernel_device)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: everything(case, input, given), range(8)))
    assert all(all(map(torch.equal, other, results[0])) for other in results[1:])
