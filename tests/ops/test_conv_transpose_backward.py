"""How the backward of a transposed convolution is used: some gradients, shared tensors, kept graphs, what it stores."""

import itertools

import oracle
import pytest
import torch
from conv_cases import ACTIVATIONS, CASES, each_activation, few_cases
from oracle import check, run, upstreams
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import pyaegpu
from pyaegpu import backends
from pyaegpu.ops import library
from pyaegpu.ops.conv_transpose import FAMILY, _BiasAct

NAMES = ("asymmetric", "dense 4x4", "groups", "1-D", "3-D")
each_name = pytest.mark.parametrize("name", NAMES)


@each_name
def test_only_some_gradients(device, name):
    for activation in ACTIVATIONS.values():
        case = CASES[name]
        tensors = case.tensors(device=device)
        expected = run(case.stock(**activation), tensors)[1]
        for count in (1, 2, 3):
            for wanted in itertools.combinations(range(3), count):
                grads = case.check(tensors, wanted, **activation)[1]
                for index, grad in zip(wanted, grads, strict=True):
                    torch.testing.assert_close(grad, expected[index], rtol=1e-4, atol=1e-5)
        leaves = [t.detach() for t in tensors]
        assert not case.ours(**activation)(*leaves).requires_grad


@each_name
def test_kept_graphs(device, name):
    for activation in ACTIVATIONS.values():
        case = CASES[name]
        leaves = [t.requires_grad_() for t in case.tensors(device=device)]
        value = case.ours(**activation)(*leaves)
        upstream = upstreams([value])[0]
        kept = [torch.autograd.grad(value, leaves, upstream, retain_graph=True) for _ in range(2)]
        last = torch.autograd.grad(value, leaves, upstream)
        assert all(map(torch.equal, kept[0], kept[1])) and all(map(torch.equal, kept[0], last))
        with pytest.raises(RuntimeError, match="second time"):
            value.sum().backward()


@pytest.mark.parametrize("activation", ["none", "relu", "tanh"])
@pytest.mark.parametrize("function", [pyaegpu.conv_transpose2d, pyaegpu.upsample_conv2d])
def test_one_tensor_as_input_and_weight(device, function, activation):
    """Three by three, which either function takes for a weight."""
    stock = oracle.conv_transpose if function is pyaegpu.conv_transpose2d else oracle.upsample_conv2d
    for channels in (3, 6):
        x = oracle.filters((channels, channels, 3, 3), (1,), None, device=device)[0]
        options = ACTIVATIONS[activation]
        check(lambda t, o=options: function(t, t, **o), lambda t, o=options: stock(t, t, **o), (x,))


@each_name
def test_a_layer_used_twice(device, name):
    """Gradients of both uses add up, in first and second derivatives."""
    case = CASES[name]

    def both(fn):
        call = fn(activation="sigmoid")
        return lambda x, w, b: call(x, w, b) * call(x * 0.5, w, b)

    check(both(case.ours), both(case.stock), case.tensors(device=device))


def second(fn, tensors):
    leaves = [t.detach().requires_grad_() for t in tensors]
    value = fn(*leaves)
    first = torch.autograd.grad(value, leaves, upstreams([value])[0], create_graph=True)
    return torch.autograd.grad(sum((g**2).sum() for g in first), leaves, allow_unused=True, materialize_grads=True)


@few_cases
def test_second_derivatives(device, case):
    for activation in ACTIVATIONS.values():
        for dtype in (torch.float64, torch.float32):
            tensors = case.tensors(dtype, device)
            ours, stock = (second(fn(**activation), tensors) for fn in (case.ours, case.stock))
            tolerance = 1e-10 if dtype == torch.float64 else 1e-4
            for a, b in zip(ours, stock, strict=True):
                torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(1.0, b.abs().max().item()))


@each_activation
@few_cases
def test_numerical_derivatives(device, case, activation):
    """In the fast mode, along random directions; the small calls of calls.py go through the slow one."""
    leaves = [t.requires_grad_() for t in case.tensors(torch.float64, device)]
    assert gradcheck(case.ours(**activation), leaves, fast_mode=True)
    assert gradgradcheck(case.ours(**activation), leaves, fast_mode=True)


@each_name
def test_second_derivatives_at_the_upstream_gradient(device, name):
    for activation in ACTIVATIONS.values():
        case = CASES[name]
        tensors = case.tensors(torch.float64, device)
        results = []
        for fn in (case.ours(**activation), case.stock(**activation)):
            leaves = [t.detach().requires_grad_() for t in tensors]
            value = fn(*leaves)
            upstream = upstreams([value])[0].requires_grad_()
            first = torch.autograd.grad(value, leaves, upstream, create_graph=True)
            results.append(torch.autograd.grad(sum((g**3).sum() for g in first), upstream))
        torch.testing.assert_close(*results)


@each_name
def test_forward_mode_is_right_or_refused(device, name):
    for activation in ACTIVATIONS.values():
        case = CASES[name]
        tensors = case.tensors(torch.float64, device)
        tangents = [torch.cos(t) for t in tensors]
        for chosen in range(3):
            with forward_ad.dual_level():
                duals = list(tensors)
                duals[chosen] = forward_ad.make_dual(tensors[chosen], tangents[chosen])
                expected = forward_ad.unpack_dual(case.stock(**activation)(*duals)).tangent
                try:
                    result = case.ours(**activation)(*duals)
                except NotImplementedError as error:
                    assert "jvp" in str(error)
                    continue
                torch.testing.assert_close(forward_ad.unpack_dual(result).tangent, expected)


@each_name
def test_batched_gradients(device, name):
    for activation in ACTIVATIONS.values():
        case = CASES[name]
        results = []
        for fn in (case.ours(**activation), case.stock(**activation)):
            leaves = [t.requires_grad_() for t in case.tensors(torch.float64, device)]
            value = fn(*leaves)
            upstream = torch.linspace(-1, 1, 3 * value.numel(), dtype=torch.float64, device=device).view(
                3, *value.shape
            )
            results.append(torch.autograd.grad(value, leaves, upstream, is_grads_batched=True))
        torch.testing.assert_close(*results)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 2, 5), (2, 3, 2, 3, 2)], ids=str)
def test_a_bias_in_the_pass(kernel_device, shape):
    """As a GPU takes it; on the CPU stock's convolution adds it."""
    y, bias = oracle.filters(shape, shape[1:2], None, torch.float64, kernel_device)
    impl = library.implementation(FAMILY, backends.selected())
    for number, (name, slope) in enumerate((("relu", 0.0), ("leaky_relu", 0.2), ("tanh", 0.0), ("sigmoid", 0.0)), 1):

        def ours(y, b, call=(impl, number, slope)):
            return _BiasAct.apply(y * y, b, call)

        def stock(y, b, name=name, slope=slope):
            return oracle.activate(y * y + b.view(-1, *[1] * (y.dim() - 2)), name, slope)

        for wanted in ((0,), (1,), (0, 1)):
            check(ours, stock, (y, bias), wanted)
        leaves = y.clone().requires_grad_(), bias.clone().requires_grad_()
        assert gradcheck(ours, leaves, fast_mode=True) and gradgradcheck(ours, leaves, fast_mode=True)
        for a, b in zip(second(ours, (y, bias)), second(stock, (y, bias)), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("inplace", [torch.relu_, torch.sigmoid_, lambda t: t.mul_(2)])
@each_name
def test_the_result_may_be_changed_in_place(device, name, inplace):
    """Without an activation no backward reads it."""
    case = CASES[name]
    check(lambda *t: inplace(case.ours()(*t)), lambda *t: inplace(case.stock()(*t)), case.tensors(device=device))


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@each_name
def test_a_stored_result_changed_in_place_is_noticed(kernel_device, name, activation):
    case = CASES[name]
    leaves = [t.requires_grad_() for t in case.tensors(device=kernel_device)]
    value = case.ours(activation=activation)(*leaves)
    value.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.sum().backward()


@pytest.mark.parametrize("which", [0, 1])
@each_name
def test_an_input_changed_in_place_is_noticed(device, name, which):
    case = CASES[name]
    leaves = [t.requires_grad_() for t in case.tensors(device=device)]
    inner = [t * 1.0 for t in leaves]
    value = case.ours(activation="relu")(*inner)
    inner[which].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.sum().backward()


@pytest.mark.parametrize("activation", ["none", "relu"])
@each_name
def test_what_the_graph_stores(kernel_device, name, activation):
    """Input, weight and, for an activation, the result: nothing of the size of a result besides."""
    case, stored = CASES[name], []
    leaves = [t.requires_grad_() for t in case.tensors(device=kernel_device)]

    def pack(t):
        stored.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        value = case.ours(**ACTIVATIONS[activation])(*leaves)
    allowed = {t.untyped_storage().data_ptr() for t in (*leaves, *([value] if activation == "relu" else []))}
    assert {t.untyped_storage().data_ptr() for t in stored} <= allowed


@pytest.mark.parametrize("activation", ["none", "leaky"])
@each_name
def test_hooks(device, name, activation):
    """Of the result's gradient and of stored tensors that come back as others."""
    case, options, seen = CASES[name], ACTIVATIONS[activation], []
    leaves = [t.requires_grad_() for t in case.tensors(device=device)]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.to("cpu", copy=True), lambda t: t.to(device)):
        value = case.ours(**options)(*leaves)
    value.register_hook(lambda g: seen.append(g) or 2 * g)
    upstream = upstreams([value])[0]
    grads = torch.autograd.grad(value, leaves, upstream)
    assert torch.equal(seen[0], upstream)
    expected = run(case.stock(**options), leaves, upstream=[2 * upstream])[1]
    torch.testing.assert_close(grads, tuple(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation", ["none", "relu", "tanh"])
@each_name
def test_no_graph_without_gradients(device, name, activation):
    case, options = CASES[name], ACTIVATIONS[activation]
    leaves = [t.requires_grad_() for t in case.tensors(device=device)]
    expected = case.ours(**options)(*leaves)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            value = case.ours(**options)(*leaves)
        assert not value.requires_grad and value.is_inference() == (context.__class__ is torch.inference_mode)
        assert torch.equal(value, expected)


def test_inputs_are_not_changed(device):
    for case, activation in itertools.product(CASES.values(), ("none", "relu")):
        tensors = case.tensors(device=device)
        copies = [t.clone() for t in tensors]
        run(case.ours(**ACTIVATIONS[activation]), tensors)
        assert all(map(torch.equal, tensors, copies))
