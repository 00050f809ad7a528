"""Statistics of batch_norm_act: the running ones, large means, and results that do not depend on the thread count."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from norm_cases import Case, each_dtypes, running_of
from oracle import assert_accurate, run, upstreams

import pyaegpu

SHAPES = ((17, 5), (5, 3, 2, 2), (2, 5, 33), (2, 300), (3, 64, 3, 5), (2, 3, 3, 4, 5), (129, 7), (3, 2, 1100))
MANY_CHANNELS = ((17, 65), (5, 33, 2, 2), (2, 35, 33), (2, 300), (3, 64, 3, 5), (2, 33, 3, 4, 5), (3, 34, 1100))
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def moved(function, input, running, momentum, batches=1):
    """The running statistics after some batches."""
    running = [t.clone() for t in running]
    for _ in range(batches):
        function(input, *running, training=True, momentum=momentum)
    return running


@each_dtypes
@each_shape
def test_running_statistics(device, shape, dtypes):
    case = Case(shape)
    input, *_ = case.tensors(dtypes, device)
    running = running_of(shape[1], dtypes[1], device)
    for momentum in (0.1, 0.0, 1.0, 0.7, -0.2):
        exact = moved(F.batch_norm, input.double(), [t.double() for t in running], momentum)
        columns = (moved(fn, input, running, momentum) for fn in (pyaegpu.batch_norm_act, F.batch_norm))
        for name, ours, stock, truth in zip(("mean", "var"), *columns, exact, strict=True):
            assert ours.dtype == dtypes[1]
            assert_accurate(ours, stock, truth, name)


@pytest.mark.parametrize("momentum", [0.1, 0.0, 1.0])
def test_the_variance_kept_is_unbiased(device, momentum):
    """In float64, to its last digits, of a batch of two and of more."""
    for shape in ((2, 3), (17, 5), (1, 3, 5, 7)):
        input = Case(shape).tensors((torch.float64,) * 2, device, 0)[0]
        dims = [0, *range(2, len(shape))]
        running = running_of(shape[1], torch.float64, device)
        batch = input.mean(dims), input.var(dims, unbiased=True)
        expected = [(1 - momentum) * old + momentum * new for old, new in zip(running, batch, strict=True)]
        torch.testing.assert_close(moved(pyaegpu.batch_norm_act, input, running, momentum), expected)


def test_several_batches(device):
    input = Case((5, 3, 4, 4)).tensors(device=device)[0]
    running = running_of(3, torch.float32, device)
    results = (moved(fn, input, running, 0.1, 5) for fn in (pyaegpu.batch_norm_act, F.batch_norm))
    torch.testing.assert_close(*results)


def test_statistics_are_changed_in_place_once_a_call(device):
    """Not by the backward, nor in evaluation."""
    case = Case((5, 3, 4, 4))
    input, weight, bias = (t.requires_grad_() for t in case.tensors(device=device))
    running = running_of(3, torch.float32, device)
    value = pyaegpu.batch_norm_act(input, *running, weight, bias, True)
    kept = [t.clone() for t in running]
    value.sum().backward()
    pyaegpu.batch_norm_act(input, *running, weight, bias, False).sum().backward()
    assert all(map(torch.equal, running, kept))


def test_statistics_of_any_strides(device):
    for training in (True, False):
        case = Case((5, 3, 4, 4), training)
        input, weight, bias = case.tensors(device=device)
        results = []
        for spread in (False, True):
            tensors = [*running_of(3, torch.float32, device), weight, bias]
            if spread:
                tensors = [torch.stack([t, t + 1], 1)[:, 0] for t in tensors]
            results.append([pyaegpu.batch_norm_act(input, *tensors, training), *tensors[:2]])
        torch.testing.assert_close(*results)


def test_one_tensor_for_both_statistics_or_both_parameters(device):
    for training in (True, False):
        case = Case((5, 3, 4, 4), training)
        input, weight, _ = case.tensors(device=device)
        case.check((input, weight), activation="relu")
        results = []
        for function in (pyaegpu.batch_norm_act, F.batch_norm):
            both = running_of(3, torch.float32, device)[1]
            leaf = weight.clone().requires_grad_()
            value = function(input, both, both, leaf, leaf, training)
            results.append([value.detach(), both, *torch.autograd.grad(value.square().sum(), leaf)])
        for ours, stock in zip(*results, strict=True):
            torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-4)


def test_evaluation_keeps_what_it_was_given(device):
    """A backward after the running statistics moved is that of the call, or is refused."""
    case = Case((5, 3, 4, 4), False)
    input, weight, bias = (t.requires_grad_() for t in case.tensors(device=device))
    running = running_of(3, torch.float32, device)
    value = pyaegpu.batch_norm_act(input, *running, weight, bias)
    expected = torch.autograd.grad(value.sum(), input, retain_graph=True)
    running[0].add_(1), running[1].mul_(2)
    try:
        grads = torch.autograd.grad(value.sum(), input)
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
    else:
        assert torch.equal(grads[0], expected[0])


def everything(fn, tensors, upstream=None):
    values, grads = run(fn, tensors, upstream=upstream)
    return [*values, *grads]


def assert_no_worse(ours, stock, truth, name):
    """In the mean square: the largest error is that of the channel whose mean is rounded worst."""
    errors = [(t.double() - truth).square().mean().sqrt().item() for t in (ours, stock)]
    floor = 3 * torch.finfo(ours.dtype).eps * truth.abs().amax().item()
    assert errors[0] <= 2 * errors[1] + floor, f"{name}: {errors[0]:.3e}, stock's is {errors[1]:.3e}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mean", [1e4, -1e4, 300.0])
@pytest.mark.parametrize("shape", MANY_CHANNELS, ids=str)
def test_a_large_mean(kernel_device, shape, mean, dtype):
    """Values, gradients and running statistics no worse than stock's, whose sums are kept in double."""
    case = Case(shape)
    tensors = case.tensors((dtype, torch.float32), kernel_device, mean=mean)
    for activation in ({}, {"activation": "tanh"}):
        upstream = upstreams(tensors[:1])
        columns = [everything(fn(**activation), tensors, upstream) for fn in (case.ours, case.stock)]
        truth = everything(case.stock(**activation), [t.double() for t in tensors], upstream)
        for name, *each in zip(("out", "d_input", "d_weight", "d_bias"), *columns, truth, strict=True):
            assert_no_worse(*each, name)
    running = running_of(shape[1], torch.float32, kernel_device)
    exact = moved(F.batch_norm, tensors[0].double(), [t.double() for t in running], 1.0)
    columns = (moved(fn, tensors[0], running, 1.0) for fn in (pyaegpu.batch_norm_act, F.batch_norm))
    for name, *each in zip(("mean", "var"), *columns, exact, strict=True):
        assert_accurate(*each, name)


def with_statistics(case, tensors):
    """Results and gradients, and the running statistics afterwards."""
    running = running_of(case.shape[1], tensors[1].dtype, tensors[0].device)

    def call(*given):
        return pyaegpu.batch_norm_act(given[0], *running, *given[1:], case.training, activation="tanh")

    return [*everything(call, tensors), *running]


LARGE = ((37, 5, 41, 43), (3000, 300), (700, 33, 5, 5), (40, 64, 33, 31))
each_large = pytest.mark.parametrize("shape", LARGE, ids=str)


@each_large
def test_two_runs_are_equal(kernel_device, shape, nan_filled):
    for dtype, training in itertools.product((torch.float32, torch.bfloat16), (True, False)):
        case = Case(shape, training)
        tensors = case.tensors((dtype, torch.float32), kernel_device)
        first, second = with_statistics(case, tensors), with_statistics(case, tensors)
        assert all(map(torch.equal, first, second)) and all(t.isfinite().all() for t in first)


@each_large
def test_results_do_not_depend_on_the_number_of_threads(shape):
    threads = torch.get_num_threads()
    for training, order in itertools.product((True, False), (torch.contiguous_format, torch.channels_last)):
        case, results = Case(shape, training), []
        input, *parameters = case.tensors()
        if len(shape) == 4:
            input = input.to(memory_format=order)
        with pyaegpu.backend("cpu"):
            try:
                for count in (1, 2, 3):
                    torch.set_num_threads(count)
                    results.append(with_statistics(case, (input, *parameters)))
            finally:
                torch.set_num_threads(threads)
        for other in results[1:]:
            assert all(map(torch.equal, results[0], other))


def test_calls_from_several_threads(kernel_device):
    cases = [Case(shape) for shape in ((17, 5), (5, 3, 2, 2), (20, 5, 33))]
    tensors = [case.tensors(device=kernel_device) for case in cases]

    def step(_):
        return [t for case, given in zip(cases, tensors, strict=True) for t in with_statistics(case, given)]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(step, range(16)))
    assert all(all(map(torch.equal, other, results[0])) for other in results[1:])


def test_statistics_that_moved_are_no_part_of_a_second_derivative(device):
    """A derivative that is itself differentiated reads the running statistics again: stock's error, no wrong value."""
    input = torch.randn(4, 3, 5, 5, device=device, requires_grad=True)
    mean, var = torch.zeros(3, device=device), torch.ones(3, device=device)
    out = pyaegpu.batch_norm_act(input, mean, var, activation="tanh")
    mean.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(out.square().sum(), input, create_graph=True)


@pytest.mark.parametrize("shape", [(2, 0, 4, 4), (0, 0)], ids=str)
def test_no_channels(device, shape):
    assert pyaegpu.batch_norm_act(torch.empty(shape, device=device), None, None, training=True).shape == shape
