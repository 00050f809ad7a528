"""PyTorch's own samples of max-pooling and max-unpooling, of the functions and of the modules."""

import pytest
import torch
from pool_cases import CODES, INT32, INT64, assert_equal, outcome

import pyaegpu

# Samples that return indices; half of all, as the other half differs in that alone.
POOLS = {"max_pool1d": 432, "max_pool2d": 720, "max_pool3d": 288}
UNPOOLS = {"max_unpool1d": 144, "max_unpool2d": 288, "max_unpool3d": 96}
ERRORS = {"max_pool1d": 24, "max_pool2d": 7, "max_pool3d": 7, "max_unpool1d": 1, "max_unpool2d": 1, "max_unpool3d": 1}
# How many a run takes of those of one dtype; the steps have no factor in common with the period of an argument.
STEPS = {torch.float32: 7, torch.float64: 13}
each_dtype = pytest.mark.parametrize("dtype", STEPS, ids=str)


@pytest.fixture(scope="module")
def testing(torch_tests):
    """The tables of functions and of modules."""
    methods, modules = (torch_tests(name) for name in ("common_methods_invocations", "common_modules"))
    return methods.op_db, modules.module_db


def info_of(testing, name, variant=""):
    return next(i for i in testing[0] if i.name == f"nn.functional.{name}" and i.variant_test_name == variant)


def samples_of(info, dtype, device):
    torch.manual_seed(0)
    return info.sample_inputs(device.type, dtype, requires_grad=True)


def decoded(codes, arguments, size):
    kernel, stride, padding, dilation = (arguments[n] for n in ("kernel_size", "stride", "padding", "dilation"))
    return pyaegpu.decode_pool_codes(codes, kernel, stride, padding, dilation=dilation, input_size=size)


def compare(ours, stock, input, dtype):
    """Values in every bit; gradients, which are sums where windows overlap, up to their rounding."""
    found, expected = outcome(ours, input), outcome(stock, input)
    assert_equal(found[0], expected[0])
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(found[1], expected[1], rtol=8 * eps, atol=8 * eps)


@each_dtype
@pytest.mark.parametrize("name", POOLS)
def test_samples_of_pooling(kernel_device, testing, name, dtype):
    info, function = info_of(testing, name), getattr(pyaegpu, name)
    samples = [s for s in samples_of(info, dtype, kernel_device) if s.kwargs["return_indices"]]
    assert len(samples) == POOLS[name]
    for sample in samples[:: STEPS[dtype]]:
        input, arguments = sample.input, sample.kwargs
        values, indices = info.op(input, **arguments)
        for result, expected in zip(function(input, **arguments), (values, indices), strict=True):
            assert_equal(result.detach(), expected.detach())
        coded, codes = function(input, **arguments, index_dtype=CODES)
        assert_equal(coded.detach(), values.detach())
        assert_equal(decoded(codes, arguments, input.shape[-int(name[-2]) :]), indices, strides=False)
        plain = arguments | {"return_indices": False}
        stock = lambda t, a=plain: info.op(t, **a)  # noqa: E731
        for given in (plain, arguments):
            compare(lambda t, a=given: function(t, **a), stock, input, dtype)


@each_dtype
@pytest.mark.parametrize("name", UNPOOLS)
def test_samples_of_unpooling(kernel_device, testing, name, dtype):
    """All of them; some elements of most have one place."""
    info, function, used = info_of(testing, name), getattr(pyaegpu, name), 0
    for sample in samples_of(info, dtype, kernel_device):
        (indices,), arguments = sample.args, sample.kwargs
        stock = outcome(lambda t, i=indices, a=arguments: info.op(t, i, **a), sample.input)
        for given in (indices, indices.to(INT32))[: 1 + (used % 4 == 0)]:
            ours = outcome(lambda t, i=given, a=arguments: function(t, i, **a), sample.input)
            for result, expected in zip(ours, stock, strict=True):
                assert_equal(result, expected, strides=result is ours[0])
        used += 1
    assert used == UNPOOLS[name]


@pytest.mark.parametrize("name", UNPOOLS)
def test_samples_of_codes(kernel_device, testing, name):
    """The pooling that a sample of unpooling comes from, with codes in between."""
    pooling, used = info_of(testing, name.replace("unpool", "pool")), 0
    pool, unpool, stock_unpool = (f(name) for f in (pool_of, lambda n: getattr(pyaegpu, n), stock_of))
    for sample in samples_of(pooling, torch.float32, kernel_device):
        arguments = sample.kwargs
        if arguments["dilation"] != 1 or not arguments["return_indices"]:
            continue
        used += 1
        if used % 5:
            continue
        values, codes = pool(sample.input.detach(), **arguments, index_dtype=CODES)
        indices = pooling.op(sample.input.detach(), **arguments)[1]
        numbers = [arguments[n] for n in ("kernel_size", "stride", "padding")]
        size = sample.input.shape[-int(name[-2]) :]
        stock = outcome(lambda t, i=indices, n=numbers, s=size: stock_unpool(t, i, *n, s), values)
        ours = outcome(lambda t, c=codes, n=numbers, s=size: unpool(t, c, *n, output_size=s), values)
        assert_equal(ours[0], stock[0])
        assert_equal(ours[1], stock[1], strides=False)
    assert used >= UNPOOLS[name]


def pool_of(name):
    return getattr(pyaegpu, name.replace("unpool", "pool"))


def stock_of(name):
    return getattr(torch.nn.functional, name)


@pytest.mark.parametrize("name", UNPOOLS)
def test_numerical_derivatives_of_the_samples(kernel_device, testing, name):
    """Of those whose places are all different."""
    info, function, used = info_of(testing, name, "grad"), getattr(pyaegpu, name), 0
    for sample in samples_of(info, torch.float64, kernel_device):
        (indices,), arguments = sample.args, sample.kwargs

        def call(t, i=indices, a=arguments):
            return function(t, i, **a)

        assert torch.autograd.gradcheck(call, sample.input, fast_mode=True)
        assert torch.autograd.gradgradcheck(call, sample.input, fast_mode=True)
        used += 1
    assert used >= {"max_unpool1d": 13, "max_unpool2d": 25, "max_unpool3d": 6}[name]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("name", ERRORS)
def test_error_inputs(testing, name, backend):
    """Stock's type of error for each."""
    info, used = info_of(testing, name), 0
    for case in info.error_inputs("cpu"):
        sample = case.sample_input
        with pytest.raises(case.error_type):
            info.op(sample.input, *sample.args, **sample.kwargs)
        with pyaegpu.backend(backend), pytest.raises(case.error_type):
            getattr(pyaegpu, name)(sample.input, *sample.args, **sample.kwargs)
        used += 1
    assert used == ERRORS[name]


MODULES = {"MaxPool1d": 6, "MaxPool2d": 6, "MaxPool3d": 8}


@pytest.mark.parametrize("name", MODULES)
def test_modules(device, testing, name):
    info, used = next(i for i in testing[1] if i.name == f"nn.{name}"), 0
    for training in (True, False):
        for case in info.module_inputs_func(info, "cpu", torch.float32, requires_grad=False, training=training):
            arguments, input = case.constructor_input, case.forward_input.args[0].to(device)
            layers = [cls(*arguments.args, **arguments.kwargs) for cls in (getattr(pyaegpu.nn, name), info.module_cls)]
            compare(*layers, input, torch.float32)
            used += 1
    assert used == MODULES[name]


def test_error_inputs_of_modules(testing):
    info, used = next(i for i in testing[1] if i.name == "nn.MaxPool2d"), 0
    if info.module_error_inputs_func is None:
        pytest.skip("this torch has no error inputs of MaxPool2d")
    for case in info.module_error_inputs_func(info, "cpu", torch.float32, requires_grad=False, training=True):
        arguments, given = case.module_error_input.constructor_input, case.module_error_input.forward_input
        with pytest.raises(case.error_type):
            pyaegpu.nn.MaxPool2d(*arguments.args, **arguments.kwargs)(*given.args, **given.kwargs)
        used += 1
    assert used == 3


def test_int64_is_the_index_dtype_by_default():
    assert pyaegpu.max_pool2d(torch.rand(1, 1, 4, 4), 2, return_indices=True)[1].dtype == INT64
