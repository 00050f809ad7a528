"""upsample_conv2d against nearest upsampling and a convolution of stock PyTorch."""

import itertools

import oracle
import pytest
import torch
from conv_cases import ACTIVATIONS, each_activation, strides_of
from layouts import LAYOUTS
from oracle import DTYPES, filters, run
from torch.autograd import gradcheck, gradgradcheck

import pyaegpu
from pyaegpu.reference.conv_transpose import folded_weight

# A small and a dense one, and sizes of one.
SHAPES = {
    "small": ((2, 5, 4, 3), (3, 5, 3, 3)),
    "one channel": ((1, 1, 5, 7), (1, 1, 3, 3)),
    "four": ((2, 2, 1, 9), (4, 2, 3, 3)),
    "one pixel": ((3, 4, 1, 1), (2, 4, 3, 3)),
    "dense": ((2, 3, 4, 3), (6, 3, 3, 3)),
    "dense pixel": ((2, 7, 1, 1), (5, 7, 3, 3)),
}
each_shape = pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
both_ways = pytest.mark.parametrize("shapes", [SHAPES["small"], SHAPES["dense"]], ids=["small", "dense"])


def tensors(shapes, dtype=torch.float32, device="cpu", bias=True):
    return list(filters(*shapes, shapes[1][:1] if bias else None, dtype, device))


def ours(**activation):
    return lambda *t: pyaegpu.upsample_conv2d(*t, **activation)


def stock(**activation):
    return lambda *t: oracle.upsample_conv2d(*t, **activation)


def check(inputs, wanted=None, upstream=None, **activation):
    """The sums of weights are rounded to their dtype, as stock PyTorch's single weights are not: an eps of that dtype
    in each product."""

    def slack(given, upstream, wanted):
        eps = torch.finfo(given[0].dtype).eps
        magnitudes = [[t.double().abs() for t in tensors] for tensors in (given, upstream)]
        sums = run(stock(), magnitudes[0], wanted, magnitudes[1])
        return [[eps * t.amax() if t.numel() else 0.0 for t in row] for row in sums]

    return oracle.check(ours(**activation), stock(**activation), inputs, wanted, upstream, slack)


@each_shape
def test_values_and_gradients(device, shapes):
    for activation in ACTIVATIONS.values():
        for bias in (True, False):
            check(tensors(shapes, device=device, bias=bias), **activation)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_shape
def test_dtypes(device, shapes, dtype):
    for activation in ("none", "relu", "sigmoid"):
        results, _ = check(tensors(shapes, dtype, device), **ACTIVATIONS[activation])
        assert results[0].dtype == dtype


@each_shape
def test_one_sample_and_none(device, shapes):
    input, *parameters = tensors(shapes, device=device)
    for options in ACTIVATIONS.values():
        check([input[0], *parameters], **options)
        empty = [run(fn(**options), [input[:0], *parameters]) for fn in (ours, stock)]
        for mine, theirs in zip(empty[0][0] + empty[0][1], empty[1][0] + empty[1][1], strict=True):
            assert mine.shape == theirs.shape and torch.equal(mine, theirs)


@pytest.mark.parametrize("change", LAYOUTS)
@both_ways
def test_any_layout(device, shapes, change):
    input, weight, bias = tensors(shapes, device=device)
    upstream = oracle.upstreams([stock()(input, weight, bias)])[0]
    change = LAYOUTS[change]
    for given, g in (
        ([change(input), weight, bias], upstream),
        ([input, change(weight), bias], upstream),
        ([input, weight, bias], change(upstream)),
        ([change(input), change(weight), bias], change(upstream)),
    ):
        check(given, upstream=[g], activation="tanh")


@each_shape
def test_memory_format_is_stocks(device, shapes):
    """Of the result, of the input's gradient, and of the parameters' as optimizers see them."""
    for formats in itertools.product(("contiguous", "channels_last"), repeat=2):
        given = tensors(shapes, device=device)
        given[:2] = [LAYOUTS[f](t) for f, t in zip(formats, given, strict=False)]
        for options in ACTIVATIONS.values():
            strides = []
            for fn in (ours, stock):
                leaves = [t.detach().requires_grad_() for t in given]
                result = fn(**options)(*leaves)
                (grad,) = torch.autograd.grad(result.sum(), leaves[0], retain_graph=True)
                result.sum().backward()
                strides.append(
                    strides_of((result, grad, *(t.grad for t in leaves)), 1 not in shapes[1] and not options)
                )
            assert strides[0] == strides[1]


@both_ways
def test_only_some_gradients(device, shapes):
    for count in (1, 2):
        for wanted in itertools.combinations(range(3), count):
            check(tensors(shapes, device=device), wanted, activation="relu")


@each_activation
@both_ways
def test_numerical_derivatives(device, shapes, activation):
    leaves = [t.requires_grad_() for t in tensors(shapes, torch.float64, device)]
    assert gradcheck(ours(**activation), leaves, fast_mode=True)
    assert gradgradcheck(ours(**activation), leaves, fast_mode=True)


@both_ways
def test_every_element_is_written(device, shapes, nan_filled):
    for change in ("contiguous", "channels_last"):
        input, weight, bias = tensors(shapes, device=device)
        values, grads = run(ours(activation="relu"), (LAYOUTS[change](input), weight, bias))
        assert all(t.isfinite().all() for t in (*values, *grads))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@both_ways
def test_nan_and_inf_reach_what_they_reach_in_stock(device, shapes, value):
    input, weight, bias = tensors(shapes, device=device)
    input[0, 0, 1, 1] = value
    weight.abs_()
    results = [fn(activation="relu")(input, weight, bias) for fn in (ours, stock)]
    torch.testing.assert_close(*results, equal_nan=True, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_folded_weight_is_the_docstrings(dtype):
    """Its rows, and then its columns, are w2, w1 + w2, w0 + w1, w0; summed wide and rounded once."""
    weight = filters((1,), (2, 3, 3, 3), None, dtype)[1]
    expected = torch.zeros(3, 2, 4, 4, dtype=torch.float64)
    rows = ((2,), (1, 2), (0, 1), (0,))
    for i, j in itertools.product(range(4), repeat=2):
        for a, b in itertools.product(rows[i], rows[j]):
            expected[:, :, i, j] += weight[:, :, a, b].double().T
    torch.testing.assert_close(folded_weight(weight), expected.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=0)


def test_it_is_one_kernel_where_there_is_one(kernel_device):
    for name, expected in (("small", "one product per tile"), ("dense", "stock convolution")):
        found = pyaegpu.explain(pyaegpu.upsample_conv2d, *tensors(SHAPES[name], device=kernel_device))
        if kernel_device.type == "cpu":
            assert found.backend == "cpu" and expected in found.algorithm
