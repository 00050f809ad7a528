"""PyTorch's own samples of batch normalisation, of the function and of the module."""

import copy

import pytest
import torch
from oracle import DTYPES, activate, assert_accurate
from torch import nn

import pyaegpu

each_activation = pytest.mark.parametrize("activation", [None, "relu", "tanh"])


@pytest.fixture(scope="module")
def testing(torch_tests):
    """The tables of the function and of the module."""
    methods, modules = (torch_tests(name) for name in ("common_methods_invocations", "common_modules"))
    functions = (info for info in methods.op_db if info.name == "nn.functional.batch_norm")
    return next(functions), next(info for info in modules.module_db if info.name == "nn.BatchNorm2d")


def outcome(fn, tensors):
    """The value, the gradients of the sum of its squares, and the running statistics afterwards."""
    input, mean, var, *parameters = (None if t is None else t.detach().clone() for t in tensors)
    leaves = [t.requires_grad_() for t in (input, *parameters) if t is not None]
    value = fn(input, mean, var, *parameters)
    grads = torch.autograd.grad(value.square().sum(), leaves)
    return [value.detach(), *grads, *(t for t in (mean, var) if t is not None)]


def compare(ours, stock, truth, slack=0.0):
    for index, results in enumerate(zip(ours, stock, truth, strict=True)):
        assert_accurate(*results, f"result {index}", slack)
        assert results[0].dtype == results[1].dtype


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_activation
def test_samples(device, testing, activation, dtype):
    info, used, refused = testing[0], 0, 0
    for sample in info.sample_inputs(device.type, dtype, requires_grad=True):
        tensors, numbers = (sample.input, *sample.args), sample.kwargs
        if sample.input.dim() == 1:  # of no elements, the only ones that stock takes
            with pytest.raises(IndexError, match="input"):
                pyaegpu.batch_norm_act(*tensors, **numbers)
            refused += 1
            continue

        def ours(*t, numbers=numbers):
            return pyaegpu.batch_norm_act(*t, **numbers, activation=activation)

        def stock(*t, numbers=numbers):
            return activate(info.op(*t, **numbers), activation)

        exact = [None if t is None else t.double() for t in tensors]
        # Gradients of a few values that were normalised are differences of nearly equal numbers.
        slack = 16 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps * max(1.0, sample.input.abs().max())
        compare(outcome(ours, tensors), outcome(stock, tensors), outcome(stock, exact), slack)
        used += 1
    assert (used, refused) == (10, 2)


def modules(testing, dtype, device):
    """Each of the table with an input for it."""
    info = testing[1]
    for training in (True, False):
        for case in info.module_inputs_func(info, "cpu", torch.float32, requires_grad=False, training=training):
            arguments = case.constructor_input
            stock = info.module_cls(*arguments.args, **arguments.kwargs).to(device, dtype).train(training)
            yield stock, case.forward_input.args[0].to(device, dtype)


def ours_like(stock, activation):
    names = ("num_features", "eps", "momentum", "affine", "track_running_stats")
    ours = pyaegpu.nn.BatchNormAct2d(*(getattr(stock, name) for name in names), activation=activation)
    if stock.bias is None:
        ours.register_parameter("bias", None)
    ours.load_state_dict(stock.state_dict(), strict=True)
    like = next(stock.parameters(), stock.running_mean)
    return ours.to(like).train(stock.training) if like is not None else ours.train(stock.training)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_activation
def test_modules(device, testing, activation, dtype):
    used = 0
    for stock, input in modules(testing, dtype, device):
        columns, ours = [], ours_like(stock, activation)
        for module in (ours, stock, copy.deepcopy(stock).double()):
            leaf = input.detach().to(torch.float64 if len(columns) == 2 else dtype).requires_grad_()
            value = module(leaf) if module is ours else activate(module(leaf), activation)
            value.square().sum().backward()
            statistics = [t for t in module.buffers() if t.is_floating_point()]
            columns.append([value.detach(), leaf.grad, *(p.grad for p in module.parameters()), *statistics])
        # Some eps of each summand.
        compare(*columns, 4 * torch.finfo(dtype).eps * input.numel() / input.shape[1])
        used += 1
    assert used >= 12  # 14 from torch 2.13 on


def test_error_inputs(testing):
    """Of the modules; the function has none."""
    info, used = testing[1], 0
    assert testing[0].error_inputs_func is None
    for case in info.module_error_inputs_func(info, "cpu", torch.float32, requires_grad=False, training=True):
        arguments, given = case.module_error_input.constructor_input, case.module_error_input.forward_input
        for layer in (nn.BatchNorm2d, pyaegpu.nn.BatchNormAct2d):
            module = layer(*arguments.args, **arguments.kwargs)
            with pytest.raises(case.error_type, match=case.error_regex):
                module(*given.args, **given.kwargs)
        used += 1
    assert used == 2
