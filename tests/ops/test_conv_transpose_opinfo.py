"""PyTorch's own samples of transposed convolutions, of the functions and of the modules."""

import copy

import pytest
import torch
from oracle import DTYPES, activate, assert_accurate
from torch import nn

import pyaegpu

SAMPLES = {"conv_transpose1d": 10, "conv_transpose2d": 12, "conv_transpose3d": 10}
each_function = pytest.mark.parametrize("name", SAMPLES)
each_activation = pytest.mark.parametrize("activation", [None, "relu"])


@pytest.fixture(scope="module")
def testing(torch_tests):
    """The tables of functions, of modules and of the older module tests."""
    names = ("common_methods_invocations", "common_modules", "common_nn")
    methods, modules, older = (torch_tests(name) for name in names)
    return methods.op_db, modules.module_db, older.module_tests + older.get_new_module_tests()


def info_of(testing, name):
    return next(info for info in testing[0] if info.name == f"nn.functional.{name}")


def tensors_of(sample):
    return [t for t in (sample.input, *sample.args) if t is not None]


def outcome(fn, tensors):
    """The value, and the gradients of its sum."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    value = fn(*leaves)
    return [value.detach(), *torch.autograd.grad(value.sum(), leaves)]


def compare(ours, stock, truth):
    for index, results in enumerate(zip(ours, stock, truth, strict=True)):
        assert_accurate(*results, f"result {index}")
        assert results[0].dtype == results[1].dtype and results[0].stride() == results[1].stride()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_activation
@each_function
def test_samples(device, testing, name, activation, dtype):
    info, used = info_of(testing, name), 0
    for sample in info.sample_inputs(device.type, dtype, requires_grad=True):
        tensors, numbers = tensors_of(sample), sample.kwargs

        def ours(*t, numbers=numbers):
            return getattr(pyaegpu, name)(*t, **numbers, activation=activation)

        def stock(*t, numbers=numbers):
            return activate(info.op(*t, **numbers), activation)

        compare(outcome(ours, tensors), outcome(stock, tensors), outcome(stock, [t.double() for t in tensors]))
        used += 1
    assert used == SAMPLES[name]


@each_function
def test_integer_and_complex_samples(testing, name):
    info, used = info_of(testing, name), 0
    for dtype in info.supported_dtypes("cpu") - set(DTYPES):
        for sample in info.sample_inputs("cpu", dtype):
            ours = getattr(pyaegpu, name)(*tensors_of(sample), **sample.kwargs)
            torch.testing.assert_close(ours, info.op(*tensors_of(sample), **sample.kwargs))
            used += 1
    assert used == 3 * SAMPLES[name]


def stock_modules(testing):
    """Each module of both tables with an input for it."""
    for info in testing[1]:
        if info.name.startswith("nn.ConvTranspose"):
            for case in info.module_inputs_func(info, "cpu", torch.float32, requires_grad=False, training=True):
                arguments = case.constructor_input
                yield info.module_cls(*arguments.args, **arguments.kwargs), case.forward_input.args[0]
    for case in testing[2]:
        name = case.get("fullname", case.get("module_name", ""))
        if name.startswith("ConvTranspose"):
            module = case["constructor"]() if "constructor" in case else getattr(nn, name)(*case["constructor_args"])
            yield module, torch.randn(case["input_size"], generator=torch.Generator().manual_seed(0))


def ours_like(stock, activation):
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "output_padding", "groups", "dilation")
    arguments = {name: getattr(stock, name) for name in names}
    module = getattr(pyaegpu.nn, type(stock).__name__)(
        **arguments, bias=stock.bias is not None, activation=activation, dtype=stock.weight.dtype
    )
    module.load_state_dict(stock.state_dict(), strict=True)
    return module.to(stock.weight.device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_activation
def test_modules(device, testing, activation, dtype):
    used = 0
    for stock, input in stock_modules(testing):
        stock.to(device, dtype)
        columns, ours = [], ours_like(stock, activation)
        for module in (ours, stock, copy.deepcopy(stock).double()):
            leaf = input.detach().to(device, module.weight.dtype).requires_grad_()
            value = module(leaf) if module is ours else activate(module(leaf), activation)
            value.sum().backward()
            columns.append([value.detach(), leaf.grad, *(p.grad for p in module.parameters())])
        compare(*columns)
        used += 1
    assert used == 6 + 10
