"""Values and gradients of conv_transpose1d/2d/3d against stock PyTorch in float64."""

import itertools

import oracle
import pytest
import torch
from conv_cases import ACTIVATIONS, CASES, Case, each_case
from oracle import DTYPES

import pyaegpu


@each_case
def test_values_and_gradients(device, case):
    for activation in ACTIVATIONS.values():
        for bias in (True, False):
            case.check(case.tensors(device=device, bias=bias), **activation)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@each_case
def test_other_dtypes(device, case, dtype):
    for activation in ("none", "relu", "leaky", "tanh", "sigmoid"):
        options = ACTIVATIONS[activation]
        results, _ = case.check(case.tensors(dtype, device), **options)
        assert results[0].dtype == dtype


@each_case
def test_one_sample_without_a_batch(device, case):
    for activation in ("none", "relu", "leaky by -0.3", "tanh"):
        options = ACTIVATIONS[activation]
        input, *parameters = case.tensors(device=device)
        case.check((input[0], *parameters), **options)


@each_case
def test_an_empty_batch(device, case):
    for activation in ACTIVATIONS.values():
        inputs = case.tensors(device=device, batch=0)
        results = [oracle.run(fn(**activation), inputs) for fn in (case.ours, case.stock)]
        for ours, stock in zip(results[0][0] + results[0][1], results[1][0] + results[1][1], strict=True):
            assert ours.shape == stock.shape and torch.equal(ours, stock)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 100])
def test_channels(device, channels):
    for inputs in (1, 3, 17):
        case = Case((2, inputs, 3, 2), (inputs, channels, 3, 3), {"stride": 2, "padding": 1})
        case.check(case.tensors(device=device), activation="relu")


def combinations(kernel):
    """Every stride, padding and output padding of one axis that gives at least one output."""
    for stride, padding in itertools.product(range(1, 5), range(5)):
        for extra in range(stride):
            yield stride, padding, extra, kernel


@pytest.mark.parametrize("outputs", [2, 5])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
def test_every_combination_of_numbers(device, kernel, outputs):
    """Along one axis, and the next combination along the other."""
    every, tried = list(combinations(kernel)), 0
    for first, second in zip(every, every[1:] + every[:1], strict=True):
        stride, padding, extra, kernels = zip(first, second, strict=True)
        numbers = {"stride": stride, "padding": padding, "output_padding": extra}
        case = Case((1, 2, 4, 5), (2, outputs, *kernels), numbers)
        sizes = [(n - 1) * s - 2 * p + kernel + e for n, s, p, e in zip((4, 5), stride, padding, extra, strict=True)]
        if min(sizes) > 0:
            case.check(case.tensors(device=device), activation="tanh")
            tried += 1
    assert tried >= 30


@pytest.mark.parametrize("height", [1, 2, 5, 8, 13])
@pytest.mark.parametrize("width", [1, 3, 16, 17, 33])
def test_sizes_around_the_tiles(device, height, width):
    for kernel, stride, padding in ((4, 2, 1), (3, 1, 1), (2, 2, 0), (5, 3, 2)):
        case = Case((2, 3, height, width), (3, 3, kernel, kernel), {"stride": stride, "padding": padding})
        case.check(case.tensors(device=device), activation="sigmoid")


@pytest.mark.parametrize("outputs", [3, 6])
def test_many_channels_and_samples(device, outputs):
    """Sums of several blocks."""
    case = Case((37, 131, 5, 6), (131, outputs, 4, 4), {"stride": 2, "padding": 1})
    for activation in ("none", "leaky"):
        options = ACTIVATIONS[activation]
        case.check(case.tensors(device=device), **options)


def test_numbers_of_every_kind(device):
    """One number, a list, a tuple, one of length 1, numbers of NumPy; by position and by keyword."""
    numpy = pytest.importorskip("numpy")
    input, weight, bias = CASES["groups"].tensors(device=device)
    expected = oracle.conv_transpose(input, weight, bias, 2, 1, 1, 3, 1)
    for two, one in (
        (2, 1),
        ([2, 2], [1, 1]),
        ((2, 2), (1, 1)),
        ((2,), [1]),
        (torch.Size((2, 2)), torch.Size((1, 1))),
        (numpy.int64(2), numpy.int32(1)),
        ([numpy.int64(2)] * 2, [1, numpy.int64(1)]),
    ):
        torch.testing.assert_close(pyaegpu.conv_transpose2d(input, weight, bias, two, one, one, 3, one), expected)
        ours = pyaegpu.conv_transpose2d(
            input=input, weight=weight, bias=bias, stride=two, padding=one, output_padding=one, groups=3, dilation=one
        )
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["4x4", "dense 4x4", "1-D", "3-D"])
def test_nan_and_inf_spread_as_in_stock(device, name, value):
    case = CASES[name]
    for which, activation in itertools.product(range(3), ("none", "relu", "leaky", "tanh", "sigmoid")):
        inputs = case.tensors(device=device)
        inputs[which].view(-1)[1] = value
        options = ACTIVATIONS[activation]
        ours, stock = (fn(**options)(*inputs) for fn in (case.ours, case.stock))
        torch.testing.assert_close(ours, stock, equal_nan=True, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["4x4", "dense 4x4"])
def test_gradients_where_the_output_is_nan_or_zero(device, name):
    """A bias of NaN, and one so low that nothing passes."""
    case = CASES[name]
    for value, activation in itertools.product((float("nan"), -1e4), ("relu", "leaky", "tanh", "sigmoid")):
        inputs = case.tensors(device=device)
        inputs[2][0] = value
        options = ACTIVATIONS[activation]
        results = [oracle.run(fn(**options), inputs)[1] for fn in (case.ours, case.stock)]
        torch.testing.assert_close(*results, equal_nan=True, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("outputs", [2, 6])
def test_a_result_without_pixels(device, outputs):
    """Where stock gives one."""
    for activation in ACTIVATIONS.values():
        for numbers in ({"padding": (0, 2)}, {"padding": 2}, {"stride": 2, "padding": (3, 0)}):
            case = Case((2, 3, 2, 2), (3, outputs, 3, 3), numbers)
            tensors = case.tensors(device=device)
            try:
                expected = oracle.run(case.stock(**activation), tensors)
            except RuntimeError:
                with pytest.raises(RuntimeError, match=r"padding|small"):
                    case.ours(**activation)(*tensors)
                continue
            for ours, stock in zip(oracle.run(case.ours(**activation), tensors), expected, strict=True):
                assert all(map(torch.equal, ours, stock))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64], ids=str)
@pytest.mark.parametrize("name", ["4x4", "1-D"])
def test_what_only_stock_computes(device, name, dtype):
    case = CASES[name]
    inputs = [(4 * t).to(dtype) for t in case.tensors()]
    ours, stock = (fn()(*inputs) for fn in (case.ours, case.stock))
    assert ours.dtype == stock.dtype
    torch.testing.assert_close(ours, stock)
