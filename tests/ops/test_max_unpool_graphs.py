"""Pooling and unpooling in torch.compile, torch.export, torch.jit.trace and make_fx; the registered ops of both
families."""

import io
import itertools

import pytest
import torch
import torch.nn.functional as F
from graphs import ops_of
from layouts import LAYOUTS
from pool_cases import (
    CASES,
    CODES,
    FEW,
    INT32,
    INT64,
    assert_equal,
    assert_strides,
    channels_last,
    each_index_dtype,
    few_cases,
    outcome,
)
from torch import func, nn
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, export
from torch.fx.experimental.proxy_tensor import make_fx
from torch.library import opcheck

import pyaegpu

FORMATS = (torch.clone, channels_last)
POOL, UNPOOL = "pyaegpu.max_pool_fwd", "pyaegpu.max_unpool_fwd"


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(fn, backend="aot_eager", **options):
    return torch.compile(fn, fullgraph=True, backend=backend, **options)


def pair(case, index_dtype):
    """Maxima, and them at their places."""

    def call(input):
        values, indices = case.pool(input, index_dtype)
        return case.unpool(values * 2, indices), values

    return call


@each_index_dtype
@few_cases
def test_compiled(kernel_device, case, index_dtype):
    call = pair(case, index_dtype)
    for memory in FORMATS:
        input = memory(case.input(device=kernel_device))
        for ours, expected in zip(outcome(compiled(call), input), outcome(call, input), strict=True):
            assert_equal(ours, expected)


@each_index_dtype
def test_compiled_by_inductor(kernel_device, index_dtype):
    case = CASES["3/2/1"]
    call = pair(case, index_dtype)
    inner = compiled(lambda t: call(torch.relu(t))[0] + 1, "inductor")
    for memory in FORMATS:
        input = memory(case.input(device=kernel_device))
        expected = outcome(lambda t: call(torch.relu(t))[0] + 1, input)
        for ours, wanted in zip(outcome(inner, input), expected, strict=True):
            torch.testing.assert_close(ours, wanted)


class Pair(nn.Module):
    """A pooling and its unpooling, with ``codes`` or plane indices, or stock's where that is None; ``sized``: to the
    sizes of the input, which no export with any height can prove to be allowed."""

    def __init__(self, codes, sized=True):
        super().__init__()
        library = F if codes is None else pyaegpu
        self.pool, self.unpool, self.sized = library.max_pool2d, library.max_unpool2d, sized
        self.options = {} if codes is None else {"index_dtype": CODES if codes else INT64}

    def forward(self, x):
        window = (3, 2, 1) if self.sized else (2,)
        values, indices = self.pool(x, *window, return_indices=True, **self.options)
        size = {"output_size": x.shape[2:]} if self.sized else {}
        return values, self.unpool(values, indices, *window, **size)


@pytest.mark.parametrize("codes", [True, False])
@pytest.mark.parametrize("options", [{}, {"dynamic": True}], ids=str)
def test_any_size_takes_as_few_graphs_as_stocks(kernel_device, options, codes):
    counts = []
    shapes = ((4, 3, 8, 9), (5, 3, 10, 9), (7, 3, 12, 15), (2, 3, 31, 7))
    for layer in (Pair(codes), Pair(None)):
        torch._dynamo.reset()
        counter = CompileCounter()
        call = torch.compile(layer, fullgraph=True, backend=counter, **options)
        for shape in shapes:
            call(torch.randn(shape, device=kernel_device))
        counts.append(counter.frame_count)
    assert counts[0] <= counts[1]
    torch._dynamo.reset()
    layer, call = Pair(codes), compiled(Pair(codes), **options)
    for shape in shapes:
        x = torch.randn(shape, device=kernel_device)
        for ours, expected in zip(outcome(lambda t: call(t)[1], x), outcome(lambda t: layer(t)[1], x), strict=True):
            assert_equal(ours, expected)


def test_the_graph_holds_the_registered_ops(kernel_device):
    for case, index_dtype in zip(FEW.values(), itertools.cycle((CODES, INT64)), strict=False):
        input = case.input(device=kernel_device)
        assert ops_of(pair(case, index_dtype), input) == [POOL, UNPOOL]
        with pyaegpu.backend("reference"):
            assert ops_of(pair(case, index_dtype), input) == []


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@each_index_dtype
def test_memory_format_of_compiled_results(kernel_device, backend, index_dtype):
    """Where stock's compiled pooling and unpooling lose channels_last (PyTorch's issues 187173 and 187195)."""
    case = FEW["2/2"]

    def call(input):
        values, indices = case.pool(input, index_dtype)
        return values, indices, case.unpool(values, indices)

    for memory in FORMATS:
        input = memory(case.input(device=kernel_device))
        for ours, expected in zip(compiled(call, backend)(input), call(input), strict=True):
            assert_equal(ours, expected)
            assert ours.is_contiguous(memory_format=torch.channels_last) == (memory is channels_last)
        grads = [outcome(lambda t, f=f: f(t)[2], input)[1] for f in (compiled(call, backend), call)]
        assert_equal(*grads)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_an_empty_batch_compiled(kernel_device, backend):
    """Which stock's compiled unpooling refuses (PyTorch's issue 144836)."""
    case = FEW["2/2"]
    for index_dtype in (CODES, INT64):
        call = compiled(pair(case, index_dtype), backend, dynamic=False)
        value, grad = outcome(call, case.input(device=kernel_device)[:0])
        assert value.shape == grad.shape == (0, *case.shape[1:])


WRONG = {"int64": (INT64, 80), "negative": (INT64, -1), "int32": (INT32, 80), "code": (CODES, 4)}


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_index_is_named_by_a_compiled_call(name, backend):
    dtype, wrong = WRONG[name]
    case = FEW["2/2"]
    values, indices = case.pool(case.input(), CODES if dtype == CODES else INT64)
    indices = indices.to(dtype)
    with pyaegpu.backend("cpu"):
        call = compiled(lambda v, i: case.unpool(v + 1, i), backend)
        call(values, indices)
        indices[1, 2, 3, 1] = indices[1, 2, 3, 4] = wrong
        with pytest.raises(RuntimeError, match=rf"indices.*{wrong} at \(1, 2, 3, 1\)"):
            call(values, indices)


def test_a_second_derivative_of_a_compiled_call_is_refused(kernel_device):
    case = FEW["2/2"]
    for index_dtype in (CODES, INT64):
        values, indices = case.pool(case.input(device=kernel_device), index_dtype)
        for fn, leaf in (
            (case.pool, case.input(device=kernel_device).requires_grad_()),
            (lambda t, i=indices: case.unpool(t, i), values.requires_grad_()),
        ):
            value = compiled(fn)(leaf)
            with pytest.raises(RuntimeError, match=r"double backward|no derivative"):
                (grad,) = torch.autograd.grad(value.pow(2).sum(), leaf, create_graph=True)
                (grad**2).sum().backward()


def test_compiled_gradients(kernel_device):
    """compile(func.grad)."""
    for case, index_dtype in zip(FEW.values(), itertools.cycle((CODES, INT64)), strict=False):
        torch._dynamo.reset()
        input = case.input(device=kernel_device)
        call = pair(case, index_dtype)
        grad = func.grad(lambda t, f=call: f(t)[0].pow(3).sum())
        torch.testing.assert_close(compiled(grad)(input), grad(input))
        assert grad(input).any()


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("codes", [True, False])
def test_exported(kernel_device, codes, strict):
    """With a batch and a height of any size."""
    model = Pair(codes, sized=False)
    shapes = {"x": {0: Dim("batch", min=2, max=64), 2: Dim("height", min=4, max=64)}}
    program = export(model, (torch.randn(4, 3, 8, 8, device=kernel_device),), dynamic_shapes=shapes, strict=strict)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    for module in (program.module(), torch.export.load(file).module()):
        for shape in ((4, 3, 8, 8), (9, 3, 13, 8), (3, 3, 22, 8)):
            x = torch.randn(shape, device=kernel_device)
            for ours, expected in zip(module(x), model(x), strict=True):
                assert_equal(ours, expected)


@pytest.mark.parametrize("strict", [True, False])
def test_the_measured_choice_binds_no_graph_to_its_sizes(strict):
    """Few elements take stock's pooling in eager; one exported graph takes all."""
    with pyaegpu.backend("auto"):
        shapes = ({0: Dim("batch", min=2, max=4096)},)
        program = export(Pair(False, False), (torch.randn(4, 3, 8, 8),), dynamic_shapes=shapes, strict=strict).module()
        for batch in (2, 7, 300):
            x = torch.randn(batch, 3, 8, 8)
            for ours, expected in zip(program(x), Pair(None, False)(x), strict=True):
                assert_equal(ours, expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("codes", [True, False])
def test_traced(kernel_device, codes):
    model, x = Pair(codes), torch.randn(2, 3, 8, 9, device=kernel_device, requires_grad=True)
    traced = torch.jit.trace(model, x, check_trace=False)
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    for module in (traced, torch.jit.load(file)):
        for ours, expected in zip(module(x), model(x), strict=True):
            assert_equal(ours.detach(), expected.detach())
        assert_equal(*(torch.autograd.grad(f(x)[1].square().sum(), x)[0] for f in (module, model)))


def with_gradient(fn):
    def step(input):
        leaf = input.detach().requires_grad_()
        value, _ = fn(leaf)
        return value, *torch.autograd.grad(value.square().sum(), leaf)

    return step


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_make_fx(device, mode):
    """Also of a gradient."""
    case = FEW["2/2"]
    for index_dtype in (CODES, INT64):
        step, input = with_gradient(pair(case, index_dtype)), case.input(device=device)
        for ours, expected in zip(make_fx(step, tracing_mode=mode)(input)(input), step(input), strict=True):
            torch.testing.assert_close(ours, expected)


@few_cases
def test_fake_tensors(device, case):
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    for memory, index_dtype in itertools.product(FORMATS, (None, CODES, INT64)):
        input = memory(case.input(device=device))
        values = case.pool(input, index_dtype)
        real = [values, case.input(device=device)] if index_dtype is None else [*values, case.unpool(*values)]
        fake = mode.from_tensor(input)
        with mode:
            found = case.pool(fake, index_dtype)
            fakes = [found] if index_dtype is None else [*found, case.unpool(*found)]
        for one, other in zip(fakes, real, strict=False):
            assert one.shape == other.shape and one.dtype == other.dtype
            assert_strides(one, other)


DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
REGISTERED = {name: CASES[name] for name in ("2/2", "3/2/1", "dilation", "(2, 3)/(3, 2)", "line 3/2/1", "volume")}


def windows():
    """Each case with a dtype, a layout of the input and the format of the results."""
    changes = (torch.clone, LAYOUTS["sliced"], LAYOUTS["permuted"], LAYOUTS["expanded_batch"])
    kinds = itertools.cycle(zip(DTYPES, changes, strict=True))
    for case, ordered in itertools.product(REGISTERED.values(), (False, True)):
        dtype, change = next(kinds)
        yield case, change(case.input(dtype)), ordered and case.dims > 1


def numbers_of(case):
    return [list(each) for each in case.numbers()]


def pool_fwd():
    for case, input, ordered in windows():
        pooled = case.stock_pool(input)[0].shape[2:]
        for kind in (0, 1, 2):
            yield input, list(pooled), *numbers_of(case), kind, ordered


def pool_bwd():
    for input, pooled, *window, kind, ordered in pool_fwd():
        if kind:
            out, indices = torch.ops.pyaegpu.max_pool_fwd(input, pooled, *window, kind, ordered)
            yield LAYOUTS["permuted"](out), indices, list(input.shape[2:]), *window, ordered


def unpool_fwd():
    """The indices of poolings, and repeated ones."""
    for input, pooled, *window, kind, ordered in pool_fwd():
        if kind:
            out, indices = torch.ops.pyaegpu.max_pool_fwd(input, pooled, *window, kind, ordered)
            for given in (indices,) if kind == 1 else (indices, indices.to(INT32), indices % 5):
                yield out, given, list(input.shape[2:]), *window, ordered


def unpool_bwd():
    for input, indices, image, *window, ordered in unpool_fwd():
        g = torch.ops.pyaegpu.max_unpool_fwd(input, indices, image, *window, ordered)
        yield LAYOUTS["permuted"](g), indices, *window, ordered


def nearest_fwd():
    for case, input, ordered in windows():
        for nails in (False, True):
            yield input, [2, 3, 1][: case.dims], nails, ordered


def nearest_bwd():
    for input, *rest in nearest_fwd():
        yield LAYOUTS["permuted"](torch.ops.pyaegpu.nearest_unpool_fwd(input, *rest)), *rest


OPS = {
    "max_pool_fwd": pool_fwd,
    "max_pool_bwd": pool_bwd,
    "max_unpool_fwd": unpool_fwd,
    "max_unpool_bwd": unpool_bwd,
    "nearest_unpool_fwd": nearest_fwd,
    "nearest_unpool_bwd": nearest_bwd,
}
each_op = pytest.mark.parametrize("op", OPS)


@each_op
def test_schema_and_fake_kernel(op):
    """The schema tells the truth, and the fake kernel gives the shapes, strides and dtypes of the real one."""
    used = 0
    for args in OPS[op]():
        opcheck(getattr(torch.ops.pyaegpu, op).default, args, test_utils=("test_schema", "test_faketensor"))
        used += 1
    assert used >= 24


@each_op
def test_autograd_and_aot_dispatch(op):
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    for args in list(OPS[op]())[1::7]:
        if "fwd" in op and 0 not in args[-2:-1]:
            args = (args[0].detach().requires_grad_(), *args[1:])
        opcheck(getattr(torch.ops.pyaegpu, op).default, args, test_utils=tests)


def test_the_registered_ops_compute():
    """And do not only have the right shape."""
    for input, pooled, *window, kind, ordered in pool_fwd():
        case = next(c for c in REGISTERED.values() if c.shape == input.shape and numbers_of(c) == window)
        out, indices = torch.ops.pyaegpu.max_pool_fwd(input, pooled, *window, kind, ordered)
        values, expected = case.stock_pool(input.contiguous())
        assert_equal(out, values, strides=False)
        if kind:
            assert_equal(case.decode(indices) if kind == 1 else indices, expected, strides=False)
            back = torch.ops.pyaegpu.max_unpool_fwd(out, indices, list(case.image), *window, ordered)
            assert_equal(back, case.stock_unpool(values, expected), strides=False)
        else:
            assert indices.shape == (0,) and indices.dtype == torch.uint8


def test_no_gradient_without_indices():
    input = FEW["2/2"].input().requires_grad_()
    out, _ = torch.ops.pyaegpu.max_pool_fwd(input, [4, 5], [2, 2], [2, 2], [0, 0], [1, 1], 0, False)
    with pytest.raises(RuntimeError, match="needed no gradient when it was made"):
        out.sum().backward()


@pytest.mark.parametrize("op", ["max_pool_bwd", "max_unpool_bwd", "nearest_unpool_bwd"])
def test_the_registered_backward_refuses_a_second_derivative(op):
    for args in list(OPS[op]())[::9]:
        g, *rest = args
        with pytest.raises(RuntimeError, match=f"{op} has no derivative"):
            getattr(torch.ops.pyaegpu, op)(g.detach().requires_grad_(), *rest).sum().backward()


POOL_WINDOW = ([2, 2], [2, 2], [0, 0], [1, 1])
REFUSED = {
    "rank": ("max_pool_fwd", lambda x: (x[0], [4, 5], *POOL_WINDOW, 1, False)),
    "pooled": ("max_pool_fwd", lambda x: (x, [4], *POOL_WINDOW, 1, False)),
    "kind": ("max_pool_fwd", lambda x: (x, [4, 5], *POOL_WINDOW, 3, False)),
    "integers": ("max_pool_fwd", lambda x: (x.long(), [4, 5], *POOL_WINDOW, 1, False)),
    "dtype of indices": ("max_unpool_fwd", lambda x: (x, x, [16, 20], *POOL_WINDOW, False)),
    "shape of indices": ("max_unpool_fwd", lambda x: (x, x[:1].long(), [16, 20], *POOL_WINDOW, False)),
    "numbers of a window": ("max_unpool_fwd", lambda x: (x, x.long(), [16, 20], [2], *POOL_WINDOW[1:], False)),
    "stride of 0": ("max_unpool_fwd", lambda x: (x, x.long(), [16, 20], [2, 2], [0, 2], [0, 0], [1, 1], False)),
    "format of a line": ("nearest_unpool_fwd", lambda x: (x[..., 0], [2], False, True)),
    "kernel of 0": ("nearest_unpool_fwd", lambda x: (x, [0, 2], False, False)),
    "kernel of three": ("nearest_unpool_fwd", lambda x: (x, [2, 2, 2], False, False)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_kernel_refuses_what_it_cannot_serve(name):
    op, arguments = REFUSED[name]
    with pytest.raises(RuntimeError):
        getattr(torch.ops.pyaegpu_cpu, op)(*arguments(torch.rand(2, 3, 8, 10)))


def test_what_was_exported_without_a_gradient_can_be_trained(kernel_device):
    x = torch.rand(2, 3, 8, 10, device=kernel_device)
    layer = pyaegpu.nn.MaxPool2d(2)
    with torch.no_grad():
        exported = torch.export.export(layer, (x,)).module()
    x.requires_grad_()
    grads = [torch.autograd.grad(call(x).square().sum(), x)[0] for call in (exported, layer)]
    assert_equal(*grads)
