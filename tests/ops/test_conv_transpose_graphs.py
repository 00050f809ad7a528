"""Transposed convolutions under torch.compile, torch.export, torch.jit.trace, make_fx, fake tensors and torch.func.

The calls of calls.py go through the transforms in test_loss_*.py; here is what a layer has besides.
"""

import io
from itertools import pairwise

import oracle
import pytest
import torch
from conv_cases import ACTIVATIONS, CASES, FEW
from graphs import ops_of
from oracle import run, upstreams
from torch import func, nn
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, export
from torch.fx.experimental.proxy_tensor import make_fx

import pyaegpu

few_names = pytest.mark.parametrize("name", FEW)
SMALL_OP = "pyaegpu.conv_transpose2d_small_fwd"


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(fn, backend="aot_eager", **options):
    return torch.compile(fn, fullgraph=True, backend=backend, **options)


def assert_same(ours, stock, tolerance=1e-5):
    for a, b in zip(ours, stock, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(1.0, b.abs().max().item()))


def decoder(fused, device, widths=(6, 8, 3)):
    """Two layers; with stock PyTorch's modules or ours."""
    layer = (pyaegpu.nn if fused else nn).ConvTranspose2d
    first, last = (layer(a, b, 4, 2, 1) for a, b in pairwise(widths))
    torch.manual_seed(0)
    for parameter in (*first.parameters(), *last.parameters()):
        nn.init.normal_(parameter, std=0.2)
    if fused:
        first.activation, last.activation = "relu", "tanh"
        return nn.Sequential(first, last).to(device)
    return nn.Sequential(first, nn.ReLU(), last, nn.Tanh()).to(device)


def gradients(model, call, x):
    value = call(x)
    grads = torch.autograd.grad(value, [x, *model.parameters()], upstreams([value])[0])
    return [value.detach(), *grads]


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_decoder(kernel_device, backend):
    x = oracle.filters((2, 6, 4, 4), (1,), None, device=kernel_device)[0].requires_grad_()
    ours, stock = decoder(True, kernel_device), decoder(False, kernel_device)
    assert_same(gradients(ours, compiled(ours, backend), x), gradients(stock, stock, x))


SIZES = ((3, 6, 4, 5), (7, 6, 4, 5), (9, 6, 4, 5), (2, 6, 9, 7))


def frames(model, device, **options):
    """How often it is compiled."""
    torch._dynamo.reset()
    counter = CompileCounter()
    call = torch.compile(model, fullgraph=True, backend=counter, **options)
    for shape in SIZES:
        call(torch.randn(shape, device=device))
    return counter.frame_count


def test_a_decoder_is_compiled_no_more_often_than_stocks(kernel_device):
    ours, stock = decoder(True, kernel_device), decoder(False, kernel_device)
    for options in ({}, {"dynamic": True}):
        assert frames(ours, kernel_device, **options) <= frames(stock, kernel_device, **options)


def test_a_decoder_of_changing_batch_and_size(kernel_device):
    ours, stock = decoder(True, kernel_device), decoder(False, kernel_device)
    call = compiled(ours, dynamic=True)
    for shape in SIZES:
        x = oracle.filters(shape, (1,), None, device=kernel_device)[0].requires_grad_()
        assert_same(gradients(ours, call, x), gradients(stock, stock, x))


def test_the_graph_holds_the_registered_op(kernel_device):
    for name in ("4x4", "asymmetric"):
        case = CASES[name]
        for options in ({}, {"activation": "relu"}, {"activation": "leaky_relu", "negative_slope": -0.3}):
            assert ops_of(case.ours(**options), *case.tensors(device=kernel_device)) == [SMALL_OP]
    for name in ("groups", "1-D", "3-D"):
        assert ops_of(CASES[name].ours(activation="relu"), *CASES[name].tensors(device=kernel_device)) == []
    weight = oracle.filters((2, 5, 4, 4), (3, 5, 3, 3), (3,), device=kernel_device)
    assert ops_of(pyaegpu.upsample_conv2d, *weight) == [SMALL_OP]


def test_the_backend_is_chosen_anew_when_it_changes(kernel_device):
    case = CASES["4x4"]
    tensors = case.tensors(device=kernel_device)
    fn = compiled(case.ours(activation="relu"))
    expected = fn(*tensors)
    with pyaegpu.backend("reference"):
        assert ops_of(case.ours(activation="relu"), *tensors) == []
        torch.testing.assert_close(fn(*tensors), expected)
    torch.testing.assert_close(fn(*tensors), expected)


@pytest.mark.parametrize("name", ["4x4", "dense 4x4", "3-D"])
def test_memory_format_of_compiled_results(kernel_device, name):
    case = CASES[name]
    order = torch.channels_last if name != "3-D" else torch.channels_last_3d
    for activation in ("none", "relu"):
        call = case.ours(**ACTIVATIONS[activation])
        fn = compiled(call)
        for which in (0, 1):
            tensors = case.tensors(device=kernel_device)
            tensors[which] = tensors[which].to(memory_format=order)
            results, eager = run(fn, tensors), run(call, tensors)
            assert [t.stride() for t in results[0]] == [t.stride() for t in eager[0]]
            assert_same(results[0] + results[1], eager[0] + eager[1])


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("name", ["4x4", "dense 4x4"])
def test_a_result_changed_in_place(kernel_device, name, backend):
    case = CASES[name]
    tensors = case.tensors(device=kernel_device)
    ours, stock = (lambda *t, fn=fn: torch.relu_(fn(*t)) for fn in (case.ours(), case.stock()))
    results, expected = run(compiled(ours, backend), tensors), run(stock, tensors)
    assert_same(results[0] + results[1], expected[0] + expected[1])


@pytest.mark.parametrize("name", ["4x4", "dense 4x4"])
def test_autocast(kernel_device, name):
    case = CASES[name]

    def step(*tensors):
        with torch.autocast(kernel_device.type, torch.bfloat16):
            return case.ours(activation="relu")(*tensors)

    results, eager = (run(fn, case.tensors(device=kernel_device)) for fn in (compiled(step), step))
    assert results[0][0].dtype == torch.bfloat16 and all(g.dtype == torch.float32 for g in results[1])
    assert_same(results[0] + results[1], eager[0] + eager[1], 2e-2)


def test_compiled_transforms(kernel_device):
    case = CASES["4x4"]
    input, weight, bias = case.tensors(device=kernel_device)

    def loss(fn):
        return lambda w: fn(activation="tanh")(input, w, bias).square().sum()

    ours, stock = compiled(func.grad(loss(case.ours)))(weight), func.grad(loss(case.stock))(weight)
    torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-4)


class Layers(nn.Module):
    def __init__(self, device):
        super().__init__()
        self.layers = decoder(True, device)

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("size", [4, 64])
@pytest.mark.parametrize(
    "make",
    [
        lambda: pyaegpu.nn.ConvTranspose2d(6, 3, 4, 2, 1, activation="tanh"),
        lambda: pyaegpu.nn.ConvTranspose2d(6, 8, 4, 2, 1, activation="tanh"),
        lambda: pyaegpu.nn.UpsampleConv2d(6, 3, activation="relu"),
    ],
)
def test_the_measured_choice_binds_no_graph_to_its_sizes(make, size, strict):
    """Small sizes and large take different kernels in eager; one exported graph takes all."""
    module = make()
    shapes = ({0: Dim("batch", min=2, max=1024)},)
    with pyaegpu.backend("auto"):
        program = export(module, (torch.randn(size, 6, 8, 8),), dynamic_shapes=shapes, strict=strict).module()
        counter = CompileCounter()
        call = torch.compile(module, fullgraph=True, backend=counter, dynamic=True)
        for batch in (2, 7, 300):
            x = torch.randn(batch, 6, 8, 8)
            torch.testing.assert_close(program(x), module(x))
            torch.testing.assert_close(call(x), module(x))
        assert counter.frame_count == 1


@pytest.mark.parametrize("strict", [True, False])
def test_exported(kernel_device, strict):
    stock, x = decoder(False, kernel_device), torch.randn(4, 6, 4, 4, device=kernel_device)
    shapes = {"x": {0: Dim("batch", min=2, max=64), 2: Dim("height", min=2, max=64)}}
    program = export(Layers(kernel_device), (x,), dynamic_shapes=shapes, strict=strict)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    for module in (program.module(), torch.export.load(file).module()):
        for shape in ((4, 6, 4, 4), (9, 6, 4, 4), (3, 6, 7, 4)):
            x = torch.randn(shape, device=kernel_device)
            torch.testing.assert_close(module(x), stock(x))


@few_names
def test_exported_with_an_activation_each(kernel_device, name):
    case = CASES[name]

    class Call(nn.Module):
        def forward(self, *tensors):
            return case.ours(activation="leaky_relu", negative_slope=0.2)(*tensors)

    tensors = tuple(case.tensors(device=kernel_device))
    expected = case.stock(activation="leaky_relu", negative_slope=0.2)(*tensors)
    torch.testing.assert_close(export(Call(), tensors).module()(*tensors), expected)


@pytest.mark.filterwarnings("ignore")
def test_traced(kernel_device):
    ours, stock = decoder(True, kernel_device), decoder(False, kernel_device)
    x = torch.randn(4, 6, 4, 4, device=kernel_device, requires_grad=True)
    traced = torch.jit.trace(ours, x)
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    assert_same(gradients(traced, traced, x), gradients(stock, stock, x))
    torch.testing.assert_close(torch.jit.load(file)(x), stock(x))


@pytest.mark.filterwarnings("ignore")
@few_names
def test_traced_functions(device, name):
    case = CASES[name]
    tensors = tuple(case.tensors(device=device))
    traced = torch.jit.trace(case.ours(activation="tanh"), tensors)
    torch.testing.assert_close(traced(*tensors), case.stock(activation="tanh")(*tensors))


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
@few_names
def test_make_fx(device, name, mode):
    """Also of a gradient."""
    case = CASES[name]
    tensors = case.tensors(device=device)

    def step(fn):
        def gradient(*tensors):
            leaves = [t.detach().requires_grad_() for t in tensors]
            value = fn(activation="relu")(*leaves)
            return value, *torch.autograd.grad(value.sum(), leaves)

        return gradient

    assert_same(make_fx(step(case.ours), tracing_mode=mode)(*tensors)(*tensors), step(case.stock)(*tensors))


@pytest.mark.parametrize("activation", ["none", "relu"])
@few_names
def test_fake_tensors(device, name, activation):
    case, mode = CASES[name], FakeTensorMode()
    tensors = case.tensors(device=device)
    call = case.ours(**ACTIVATIONS[activation])
    expected = run(call, tensors)
    fakes = [mode.from_tensor(t) for t in tensors]
    with mode:
        leaves = [t.detach().requires_grad_() for t in fakes]
        result = call(*leaves)
        grads = torch.autograd.grad(result, leaves, torch.ones_like(result))
    for fake, real in zip((result, *grads), expected[0] + expected[1], strict=True):
        assert fake.shape == real.shape and fake.stride() == real.stride() and fake.dtype == real.dtype


def test_per_sample_gradients_of_a_model(device):
    x = oracle.filters((3, 6, 3, 3), (1,), None, torch.float64, device)[0]

    def per_sample(model):
        parameters = {k: v.detach() for k, v in model.named_parameters()}

        def loss(parameters, sample):
            return func.functional_call(model, parameters, (sample[None],)).square().sum()

        return func.vmap(func.grad(loss), in_dims=(None, 0))(parameters, x).values()

    ours, stock = (decoder(fused, device).double() for fused in (True, False))
    assert_same(list(per_sample(ours)), list(per_sample(stock)), 1e-10)


@few_names
def test_vmap(device, name):
    """Over inputs, over weights as an ensemble has them, and of unbatched inputs."""
    case = CASES[name]
    input, weight, bias = case.tensors(torch.float64, device)
    for options in ({}, {"activation": "tanh"}):
        ours, stock = case.ours(**options), case.stock(**options)
        stacked = torch.stack([weight, 2 * weight, weight.flip(0)])
        for dims, given in (
            ((None, 0, None), (input, stacked, bias)),
            ((0, None, None), (input, weight, bias)),
            ((0, 0, 0), (torch.stack([input] * 3), stacked, torch.stack([bias, bias, 3 * bias]))),
        ):
            torch.testing.assert_close(func.vmap(ours, dims)(*given), func.vmap(stock, dims)(*given))


@few_names
def test_jacobians(device, name):
    case = CASES[name]
    input, weight, bias = case.tensors(torch.float64, device)
    dims = (0, *range(2, input.dim()))

    def sums(fn):
        return lambda b: fn(activation="sigmoid")(input, weight, b).sum(dims)

    for transform in (func.jacrev, func.jacfwd):
        torch.testing.assert_close(transform(sums(case.ours))(bias), transform(sums(case.stock))(bias))
