"""conv_transpose2d_loss under torch.compile, torch.export, tracing and torch.func, and its registered ops."""

import itertools

import oracle
import pytest
import torch
from conv_cases import CASES, SMALL
from graphs import ops_of
from layouts import LAYOUTS
from oracle import run
from test_conv_transpose_loss import ours, problem, stock
from torch import func, nn
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, export
from torch.fx.experimental.proxy_tensor import make_fx
from torch.library import opcheck

import pyaegpu

SMALL_OP = "pyaegpu.conv_transpose2d_small_loss_fwd"
FEW = ("4x4", "dense 4x4")
OPTIONS = {"activation": "tanh", "kind": "mse", "reduction": "mean"}
each_few = pytest.mark.parametrize("name", FEW)
NONE, RELU, LEAKY_RELU, TANH, SIGMOID = range(5)
OPS = ("conv_transpose2d_small_loss_fwd", "activation_loss_fwd")


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


def flat(results):
    return results[0] + results[1]


@pytest.mark.parametrize(("name", "backend"), [("4x4", "aot_eager"), ("groups", "aot_eager"), ("4x4", "inductor")])
def test_compiled(kernel_device, name, backend):
    case = CASES[name]
    tensors = problem(case, device=kernel_device)
    results = run(compiled(ours(case, **OPTIONS), backend), tensors, range(3))
    assert_same(flat(results), flat(run(stock(case, **OPTIONS), tensors, range(3))))


def test_the_graph_holds_the_registered_op():
    small, groups = CASES["4x4"], CASES["groups"]
    with pyaegpu.backend("cpu"):
        assert ops_of(ours(small), *problem(small)) == [SMALL_OP]
        assert ops_of(ours(groups), *problem(groups)) == ["pyaegpu.reconstruction_loss_fwd"]
        assert SMALL_OP not in ops_of(ours(small, reduction="sample"), *problem(small))
    with pyaegpu.backend("reference"):
        assert ops_of(ours(small), *problem(small)) == []


class Step(nn.Module):
    def __init__(self, fused):
        super().__init__()
        self.weight, self.bias = (nn.Parameter(t) for t in CASES["4x4"].tensors()[1:])
        self.fused = fused

    def forward(self, x, target):
        if self.fused:
            return pyaegpu.conv_transpose2d_loss(
                x,
                self.weight,
                self.bias,
                target,
                stride=2,
                padding=1,
                activation="sigmoid",
                kind="bce",
                reduction="mean",
            )
        recon = torch.conv_transpose2d(x, self.weight, self.bias, 2, 1).sigmoid()
        return nn.functional.binary_cross_entropy(recon, target)


def step_inputs(shape, device="cpu"):
    target = torch.rand(shape[0], 3, 2 * shape[2], 2 * shape[3], generator=torch.Generator().manual_seed(1))
    return oracle.filters(shape, (1,), None, device=device)[0].requires_grad_(), target.to(device)


def gradients(call, model, inputs):
    loss = call(*inputs)
    return [loss.detach(), *torch.autograd.grad(2 * loss, [inputs[0], *model.parameters()])]


SHAPES = ((3, 5, 4, 5), (7, 5, 4, 5), (9, 5, 4, 5), (2, 5, 9, 7))


def test_changing_batch_and_size(kernel_device):
    mine, theirs = (Step(fused).to(kernel_device) for fused in (True, False))
    call = compiled(mine, dynamic=True)
    for shape in SHAPES:
        inputs = step_inputs(shape, kernel_device)
        assert_same(gradients(call, mine, inputs), gradients(theirs, theirs, inputs))


def test_it_is_compiled_no_more_often_than_stock(kernel_device):
    counts = []
    for fused in (True, False):
        torch._dynamo.reset()
        counter = CompileCounter()
        call = torch.compile(Step(fused).to(kernel_device), fullgraph=True, backend=counter)
        for shape in SHAPES:
            call(*step_inputs(shape, kernel_device))
        counts.append(counter.frame_count)
    assert counts[0] <= counts[1]


@pytest.mark.parametrize("strict", [True, False])
def test_exported(kernel_device, strict):
    """Also without gradients, which the program can be asked for afterwards."""
    model, batch = Step(True).to(kernel_device), Dim("batch", min=2, max=64)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            example = tuple(t.detach() for t in step_inputs(SHAPES[0], kernel_device))
            program = export(model, example, dynamic_shapes=({0: batch}, {0: batch}), strict=strict).module()
        for shape in SHAPES[:3]:
            inputs = step_inputs(shape, kernel_device)
            assert_same(gradients(program, program, inputs), gradients(model, model, inputs))


@pytest.mark.filterwarnings("ignore")
def test_traced(kernel_device):
    mine, theirs = (Step(fused).to(kernel_device) for fused in (True, False))
    for shape in ((3, 5, 4, 5), (64, 5, 16, 16)):
        inputs = step_inputs(shape, kernel_device)
        traced = torch.jit.trace(mine, inputs)
        assert_same(gradients(traced, mine, inputs), gradients(theirs, theirs, inputs))
        with torch.no_grad():
            traced = torch.jit.trace(mine, inputs)
        assert_same(gradients(traced, mine, inputs), gradients(theirs, theirs, inputs))


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
@each_few
def test_make_fx(kernel_device, name, mode):
    case = CASES[name]
    tensors = problem(case, device=kernel_device)

    def step(fn):
        def gradient(*tensors):
            leaves = [t.detach().requires_grad_(i < 3) for i, t in enumerate(tensors)]
            value = fn(case, **OPTIONS)(*leaves)
            return value, *torch.autograd.grad(value, leaves[:3])

        return gradient

    assert_same(make_fx(step(ours), tracing_mode=mode)(*tensors)(*tensors), step(stock)(*tensors))


@each_few
def test_fake_tensors(device, name):
    case, mode = CASES[name], FakeTensorMode()
    tensors = problem(case, device=device)
    expected = flat(run(ours(case, **OPTIONS), tensors, range(3)))
    fakes = [mode.from_tensor(t) for t in tensors]
    with mode:
        leaves = [t.detach().requires_grad_(i < 3) for i, t in enumerate(fakes)]
        result = ours(case, **OPTIONS)(*leaves)
        found = [result, *torch.autograd.grad(result, leaves[:3])]
    for fake, real in zip(found, expected, strict=True):
        assert fake.shape == real.shape and fake.stride() == real.stride() and fake.dtype == real.dtype


@each_few
def test_functional_transforms(device, name):
    case = CASES[name]
    tensors = problem(case, dtype=torch.float64, device=device)
    mine, theirs = ours(case, **OPTIONS), stock(case, **OPTIONS)
    every = (0, 1, 2, 3)
    for transform in (func.grad, func.jacfwd):
        assert_same(transform(mine, every)(*tensors), transform(theirs, every)(*tensors), 1e-9)
    tangents = tuple(torch.ones_like(t) for t in tensors)
    assert_same(func.jvp(mine, tuple(tensors), tangents), func.jvp(theirs, tuple(tensors), tangents), 1e-9)
    stacked = [torch.stack([t, t.flip(0), t]) for t in tensors]
    for dims in ((0, 0, 0, 0), (0, None, None, 0)):
        given = [b if d == 0 else a for a, b, d in zip(tensors, stacked, dims, strict=True)]
        torch.testing.assert_close(func.vmap(mine, dims)(*given), func.vmap(theirs, dims)(*given))
        both = (func.vmap(func.grad(fn, (0, 1, 2)), dims)(*given) for fn in (mine, theirs))
        assert_same(*both, 1e-9)


def test_compiled_transforms(kernel_device):
    input, weight, bias, target = problem(CASES["4x4"], device=kernel_device)
    mine, theirs = (func.grad(lambda w, fn=fn: fn(CASES["4x4"])(input, w, bias, target)) for fn in (ours, stock))
    torch.testing.assert_close(compiled(mine)(weight), theirs(weight), rtol=1e-4, atol=1e-4)


@each_few
def test_batched_gradients(device, name):
    case = CASES[name]
    *leaves, target = problem(case, dtype=torch.float64, device=device)
    leaves = [t.requires_grad_() for t in leaves]
    results = []
    for fn in (ours, stock):
        loss = fn(case, **OPTIONS)(*leaves, target)
        upstream = torch.tensor([1.0, -2.0], dtype=torch.float64, device=device)
        results.append(torch.autograd.grad(loss, leaves, upstream, is_grads_batched=True))
    assert_same(*results, 1e-9)


def pair(value):
    return list(value) if isinstance(value, tuple) else [value] * 2


def samples(op, dtype=torch.float32):
    cases = (("asymmetric", RELU, 2), ("4x4", NONE, 1), ("2x2", LEAKY_RELU, 3), ("3x3", TANH, 4), ("gaps", SIGMOID, 0))
    orders = itertools.product((False, True), (False, True))
    for (name, activation, kind), (channels_last, need_grad) in itertools.product(cases, orders):
        case = SMALL[name]
        input, weight, bias, target = problem(case, "bce" if kind == 0 else "mse", dtype)
        target = LAYOUTS["every_second" if need_grad else "channels_last"](target)
        order = LAYOUTS["channels_last" if channels_last else "contiguous"]
        numbers = (activation, 0.2, kind, 0.7, need_grad)
        if op == "activation_loss_fwd":
            yield order(case.stock()(input, weight, bias)), target, *numbers
        else:
            conv = [pair(case.numbers.get(each, 0)) for each in ("stride", "padding", "output_padding")]
            bias = None if activation == TANH else bias
            yield order(input), weight, bias, target, *conv, *numbers, False, channels_last


@pytest.mark.parametrize("op", OPS)
def test_registered_ops(op):
    every = list(samples(op))
    for args in every:
        opcheck(getattr(torch.ops.pyaegpu, op).default, args, test_utils=("test_schema", "test_faketensor"))
    for args in every[::7]:
        args = [a.detach().requires_grad_() if isinstance(a, torch.Tensor) else a for a in args]
        tests = ("test_autograd_registration", "test_aot_dispatch_dynamic")
        opcheck(getattr(torch.ops.pyaegpu, op).default, tuple(args), test_utils=tests[: 2 if op == OPS[0] else 1])


def test_the_registered_forward_computes():
    names = (None, "relu", "leaky_relu", "tanh", "sigmoid")
    for input, weight, bias, target, *numbers in samples(OPS[0], torch.float64):
        conv, (activation, slope, kind, factor) = numbers[:3], numbers[3:7]
        tensors = [input, weight] if bias is None else [input, weight, bias]

        def op(*t, target=target, numbers=numbers):
            return torch.ops.pyaegpu.conv_transpose2d_small_loss_fwd(*t, *[None] * (3 - len(t)), target, *numbers)[0]

        def expected(*t, target=target, conv=conv, a=activation, slope=slope, kind=kind, factor=factor):
            recon = oracle.conv_transpose(*t, *[None] * (3 - len(t)), *conv, activation=names[a], negative_slope=slope)
            return factor * oracle.reconstruction(recon, target, oracle.KINDS[kind])

        assert_same(flat(run(op, tensors)), flat(run(expected, tensors)), 1e-9)


def test_second_derivatives_through_the_registered_op_raise():
    for case, need_grad in itertools.product((SMALL["4x4"],), (True, False)):
        input, weight, bias, target = problem(case)
        leaves = [t.requires_grad_() for t in (input, weight, bias)]
        numbers = ([2, 2], [1, 1], [0, 0], TANH, 0.0, 2, 1.0, need_grad, False, False)
        loss, _ = torch.ops.pyaegpu.conv_transpose2d_small_loss_fwd(*leaves, target, *numbers)
        grads = torch.autograd.grad(loss, leaves, create_graph=True)
        with pytest.raises(RuntimeError, match="has no derivative"):
            sum(g.square().sum() for g in grads).backward()
    logits = torch.randn(2, 3, requires_grad=True)
    loss, _ = torch.ops.pyaegpu.activation_loss_fwd(logits, torch.rand(2, 3), NONE, 0.0, 2, 1.0, True)
    with pytest.raises(RuntimeError, match="activation_loss_fwd has no derivative"):
        loss.backward()
