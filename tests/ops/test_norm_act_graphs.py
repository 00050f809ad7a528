"""Derivatives of batch_norm_act in eager; torch.compile, torch.export, torch.jit.trace, make_fx, fake tensors and
torch.func; the registered ops."""

import io
import itertools

import oracle
import pytest
import torch
import torch.nn.functional as F
from graphs import ops_of
from layouts import LAYOUTS
from norm_cases import ACTIVATIONS, Case, assert_same, each_activation, each_mode, running_of
from oracle import run, upstreams
from torch import func, nn
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.export import Dim, export
from torch.fx.experimental.proxy_tensor import make_fx
from torch.library import opcheck

import pyaegpu

SHAPES = ((5, 3), (2, 3, 2, 2), (2, 2, 33))
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
OP = "pyaegpu.batch_norm_act_fwd"
NAMES = (None, "relu", "leaky_relu", "tanh", "sigmoid")


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(fn, backend="aot_eager", **options):
    return torch.compile(fn, fullgraph=True, backend=backend, **options)


def flat(results):
    return [*results[0], *results[1]]


@each_mode
@each_activation
@each_shape
def test_numerical_derivatives(kernel_device, shape, activation, training):
    case = Case(shape, training)
    leaves = [t.requires_grad_() for t in case.tensors((torch.float64,) * 2, kernel_device)]
    call = case.ours(**activation)
    fast = len(shape) != 2
    assert gradcheck(call, leaves, fast_mode=fast) and gradgradcheck(call, leaves, fast_mode=fast)


def second(fn, tensors):
    leaves = [t.detach().requires_grad_() for t in tensors]
    value = fn(*leaves)
    upstream = upstreams([value])[0].requires_grad_()
    first = torch.autograd.grad(value, leaves, upstream, create_graph=True)
    return torch.autograd.grad(sum((g**3).sum() for g in first), (*leaves, upstream), materialize_grads=True)


@each_mode
@each_shape
def test_second_derivatives(device, shape, training):
    for activation, dtype in itertools.product(ACTIVATIONS.values(), (torch.float64, torch.float32)):
        case = Case(shape, training)
        tensors = case.tensors((dtype, dtype), device)
        ours, stock = (second(fn(**activation), tensors) for fn in (case.ours, case.stock))
        assert_same(ours, stock, 1e-9 if dtype == torch.float64 else 1e-4)


def test_second_derivatives_change_no_statistics(device):
    """Which the formula that is differentiated again would."""
    input, weight, bias = (t.requires_grad_() for t in Case((2, 3, 2, 2)).tensors(device=device))
    running = running_of(3, torch.float32, device)
    value = pyaegpu.batch_norm_act(input, *running, weight, bias, True, activation="tanh")
    kept = [t.clone() for t in running]
    first = torch.autograd.grad(value.sum(), (input, weight), create_graph=True)
    torch.autograd.grad(sum(g.square().sum() for g in first), input)
    assert all(map(torch.equal, running, kept))


@each_mode
@each_shape
def test_forward_mode_is_right_or_refused(device, shape, training):
    for activation, chosen in itertools.product(ACTIVATIONS.values(), range(3)):
        case = Case(shape, training)
        duals = case.tensors((torch.float64,) * 2, device)
        with forward_ad.dual_level():
            duals[chosen] = forward_ad.make_dual(duals[chosen], torch.cos(duals[chosen]))
            expected = forward_ad.unpack_dual(case.stock(**activation)(*duals)).tangent
            try:
                result = case.ours(**activation)(*duals)
            except NotImplementedError as error:
                assert "jvp" in str(error)
                continue
            torch.testing.assert_close(forward_ad.unpack_dual(result).tangent, expected)


@each_mode
@each_shape
def test_kept_graphs(device, shape, training):
    for activation in ACTIVATIONS.values():
        case = Case(shape, training)
        leaves = [t.requires_grad_() for t in case.tensors(device=device)]
        value = case.ours(**activation)(*leaves)
        upstream = upstreams([value])[0]
        kept = [torch.autograd.grad(value, leaves, upstream, retain_graph=True) for _ in range(2)]
        assert all(map(torch.equal, *kept))
        value.sum().backward()
        with pytest.raises(RuntimeError, match="second time"):
            value.sum().backward()


@each_activation
def test_what_the_graph_stores(kernel_device, activation):
    """Of the size of the input, the input alone."""
    for training in (True, False):
        case, stored = Case((2, 3, 4, 5), training), []
        leaves = [t.requires_grad_() for t in case.tensors(device=kernel_device)]
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=stored: s.append(t) or t, lambda t: t):
            case.ours(**activation)(*leaves)
        large = {t.untyped_storage().data_ptr() for t in stored if t.numel() >= leaves[0].numel()}
        assert large == {leaves[0].untyped_storage().data_ptr()}


def test_an_input_changed_in_place_is_noticed(device):
    for training, activation in itertools.product((True, False), ("none", "relu")):
        case = Case((2, 3, 4, 5), training)
        inner, *leaves = (t.requires_grad_() * 1.0 for t in case.tensors(device=device))
        value = case.ours(**ACTIVATIONS[activation])(inner, *leaves)
        inner.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            value.sum().backward()


@each_activation
def test_no_graph_without_gradients(device, activation):
    for training in (True, False):
        case = Case((2, 3, 4, 5), training)
        leaves = [t.requires_grad_() for t in case.tensors(device=device)]
        expected = case.ours(**activation)(*leaves)
        for context in (torch.no_grad(), torch.inference_mode()):
            with context:
                value = case.ours(**activation)(*leaves)
            assert not value.requires_grad and torch.equal(value, expected)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
def test_autocast(device, dtype, half):
    """Which leaves batch norm in the dtype of its input."""
    for training, activation in itertools.product((True, False), ("none", "relu")):
        case = Case((2, 3, 4, 5), training)
        results = []
        for fn in (case.ours, case.stock):
            with torch.autocast(device.type, half):
                results.append(run(fn(**ACTIVATIONS[activation]), case.tensors((dtype, dtype), device)))
        for ours, stock in zip(*map(flat, results), strict=True):
            assert ours.dtype == stock.dtype
            torch.testing.assert_close(ours, stock, rtol=0.05, atol=0.05)


@each_mode
@each_shape
def test_compiled(kernel_device, shape, training):
    options = ACTIVATIONS["leaky by -0.5" if training else "tanh"]
    case = Case(shape, training)
    tensors = case.tensors(device=kernel_device)
    results = [run(fn, tensors) for fn in (compiled(case.ours(**options)), case.stock(**options))]
    assert_same(*map(flat, results))


class Layer(nn.Module):
    """Batch norm and relu with running statistics."""

    def __init__(self, function, device):
        super().__init__()
        self.function = function
        for name, t in zip(("mean", "var"), running_of(3, torch.float32, device), strict=True):
            self.register_buffer(name, t)
        self.weight = nn.Parameter(torch.tensor([0.5, -1.0, 2.0], device=device))

    def forward(self, x):
        return self.function(x, self.mean, self.var, self.weight, None, self.training)


def layers(device):
    """Ours and stock's."""
    ours = Layer(lambda *args: pyaegpu.batch_norm_act(*args, activation="relu"), device)
    return ours, Layer(lambda *args: F.relu(F.batch_norm(*args)), device)


def steps(layer, call, batches):
    """Values, gradients and buffers of some batches of training, and of one in evaluation."""
    found = []
    for x in batches:
        x = x.detach().requires_grad_()
        value = call(x)
        found += [value.detach(), *torch.autograd.grad(value, (x, layer.weight), upstreams([value])[0])]
    layer.eval()
    return [*found, call(batches[0]).detach(), *layer.buffers()]


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_layer_updates_its_statistics(kernel_device, backend):
    """For a batch size that changes, and then in evaluation."""
    batches = [Case((n, 3, 4, 5)).tensors(device=kernel_device)[0] for n in (4, 7, 2)]
    ours, stock = layers(kernel_device)
    assert_same(steps(ours, compiled(ours, backend), batches), steps(stock, stock, batches))


@pytest.mark.parametrize("options", [{}, {"dynamic": True}], ids=str)
def test_a_layer_is_compiled_no_more_often_than_stocks(kernel_device, options):
    counts = []
    for layer in layers(kernel_device):
        torch._dynamo.reset()
        counter = CompileCounter()
        call = torch.compile(layer, fullgraph=True, backend=counter, **options)
        for shape in ((4, 3, 4, 5), (7, 3, 4, 5), (9, 3, 4, 5), (2, 3, 9, 7)):
            call(torch.randn(shape, device=kernel_device))
        counts.append(counter.frame_count)
    assert counts[0] <= counts[1]


def test_the_graph_holds_the_registered_op(kernel_device):
    for shape, training in itertools.product(SHAPES, (True, False)):
        case = Case(shape, training)
        tensors = case.tensors(device=kernel_device)
        assert ops_of(case.ours(activation="relu"), *tensors) == [OP]
        with pyaegpu.backend("reference"):
            assert ops_of(case.ours(activation="relu"), *tensors) == []


@each_mode
def test_memory_format_of_compiled_results(kernel_device, training):
    for shape, order in (((2, 3, 4, 5), torch.channels_last), ((2, 3, 2, 3, 2), torch.channels_last_3d)):
        case = Case(shape, training)
        input, *parameters = case.tensors(device=kernel_device)
        tensors = (input.contiguous(memory_format=order), *parameters)
        results = [flat(run(fn, tensors)) for fn in (compiled(case.ours()), case.ours())]
        assert [t.stride() for t in results[0]] == [t.stride() for t in results[1]]
        assert_same(*results)


@pytest.mark.parametrize("strict", [True, False])
@each_mode
def test_exported(kernel_device, training, strict):
    """With a batch and a height of any size; a program in training updates its buffers."""
    ours, stock = layers(kernel_device)
    ours.train(training), stock.train(training)
    x = torch.randn(4, 3, 4, 5, device=kernel_device)
    shapes = {"x": {0: Dim("batch", min=2, max=64), 2: Dim("height", min=2, max=64)}}
    program = export(ours, (x,), dynamic_shapes=shapes, strict=strict)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    for module in (program.module(), torch.export.load(file).module()):
        reference = Layer(stock.function, kernel_device).train(training)
        for shape in ((4, 3, 4, 5), (9, 3, 4, 5), (3, 3, 7, 5)):
            x = torch.randn(shape, device=kernel_device)
            torch.testing.assert_close(module(x), reference(x))
        assert_same(module.buffers(), reference.buffers())


@pytest.mark.parametrize("strict", [True, False])
def test_the_measured_choice_binds_no_graph_to_its_sizes(strict):
    """Small inputs take stock's kernels in eager; one exported graph takes all."""
    with pyaegpu.backend("auto"):
        ours, stock = layers("cpu")
        shapes = ({0: Dim("batch", min=2, max=4096)},)
        program = export(ours.eval(), (torch.randn(4, 3, 8, 8),), dynamic_shapes=shapes, strict=strict).module()
        for batch in (2, 7, 300):
            x = torch.randn(batch, 3, 8, 8)
            torch.testing.assert_close(program(x), stock.eval()(x))


@pytest.mark.filterwarnings("ignore")
@each_mode
def test_traced(kernel_device, training):
    ours, stock = (layer.train(training) for layer in layers(kernel_device))
    x = torch.randn(4, 3, 4, 5, device=kernel_device, requires_grad=True)
    traced = torch.jit.trace(ours, x, check_trace=False)
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    for module in (traced, torch.jit.load(file)):
        results = [fn(x) for fn in (module, stock)]
        torch.testing.assert_close(*results)
        assert_same(*(torch.autograd.grad(r, x, upstreams([r])[0]) for r in results))


def with_gradients(fn):
    def call(*tensors):
        leaves = [t.detach().requires_grad_() for t in tensors]
        value = fn(*leaves)
        return value, *torch.autograd.grad(value.square().sum(), leaves)

    return call


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_make_fx(device, mode):
    """Also of a gradient."""
    for training in (True, False):
        case = Case(SHAPES[1], training)
        tensors = case.tensors(device=device)
        ours, stock = (with_gradients(fn(activation="relu")) for fn in (case.ours, case.stock))
        assert_same(make_fx(ours, tracing_mode=mode)(*tensors)(*tensors), stock(*tensors), 1e-4)


@each_mode
@each_shape
def test_fake_tensors(device, shape, training):
    case, mode = Case(shape, training, kept=False), FakeTensorMode(allow_non_fake_inputs=True)
    tensors = case.tensors(device=device)
    call = case.ours(activation="relu")
    expected = run(call, tensors)
    fakes = [mode.from_tensor(t) for t in tensors]
    with mode:
        leaves = [t.detach().requires_grad_() for t in fakes]
        result = call(*leaves)
        grads = torch.autograd.grad(result, leaves, torch.ones_like(result))
    for fake, real in zip((result, *grads), flat(expected), strict=True):
        assert fake.shape == real.shape and fake.stride() == real.stride() and fake.dtype == real.dtype


def scalar(fn):
    return lambda *tensors: fn(*tensors).pow(3).sum()


# Statistics that a transform sees are not updated: stock refuses it where a batched tensor would be written to one.
@each_mode
@each_shape
def test_transforms(device, shape, training):
    """Gradients, Jacobians both ways, and ensembles."""
    for activation in ("none", "leaky by -0.5", "tanh"):
        case, options = Case(shape, training, kept=False), ACTIVATIONS[activation]
        tensors = case.tensors((torch.float64,) * 2, device)
        ours, stock = case.ours(**options), case.stock(**options)
        assert_same(*(func.grad(scalar(fn), (0, 1, 2))(*tensors) for fn in (ours, stock)), 1e-9)
        stacked = [torch.stack([t, 2 * t, t.flip(0)]) for t in tensors]
        for dims in (0, (0, None, None), (None, 0, 0)):
            chosen = dims if isinstance(dims, tuple) else (0,) * 3
            given = [s if d == 0 else t for s, t, d in zip(stacked, tensors, chosen, strict=True)]
            assert_same(*([func.vmap(fn, dims)(*given)] for fn in (ours, stock)), 1e-9)
            assert_same(*(func.vmap(func.grad(scalar(fn)), dims)(*given)[None] for fn in (ours, stock)), 1e-9)
        for transform in (func.jacrev, func.jacfwd):
            assert_same(*([transform(fn, 2)(*tensors)] for fn in (ours, stock)), 1e-9)


def test_grad_updates_the_statistics(device):
    results = []
    for function in (pyaegpu.batch_norm_act, F.batch_norm):
        input, *_ = Case((2, 3, 4, 5)).tensors(device=device)
        running = running_of(3, torch.float32, device)
        grad = func.grad(lambda x, f=function, r=running: f(x, *r, training=True).pow(3).sum())(input)
        results.append([grad, *running])
    assert_same(*results)


@each_mode
def test_batched_gradients(device, training):
    for activation in ACTIVATIONS.values():
        case, results = Case((3, 2, 2, 2), training), []
        for fn in (case.ours(**activation), case.stock(**activation)):
            leaves = [t.requires_grad_() for t in case.tensors((torch.float64,) * 2, device)]
            value = fn(*leaves)
            upstream = torch.linspace(-1, 1, 3 * value.numel(), dtype=torch.float64, device=device)
            upstream = upstream.view(3, *value.shape)
            results.append(torch.autograd.grad(value, leaves, upstream, is_grads_batched=True))
        torch.testing.assert_close(*results)


def forwards():
    dtypes = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    changes = (lambda t: t, LAYOUTS["sliced"], LAYOUTS["permuted"], LAYOUTS["expanded_batch"])
    activations = itertools.cycle(range(5))
    for shape, training in itertools.product(((5, 3), (2, 3, 5), (2, 3, 4, 5), (2, 3, 2, 3, 2)), (True, False)):
        for (dtype, change), channels_last in zip(zip(dtypes, changes, strict=True), (False, True) * 2, strict=True):
            input, weight, bias = Case(shape).tensors((dtype, torch.float32 if dtype.itemsize == 2 else dtype))
            fixed = (None, None) if training else running_of(3, weight.dtype)
            activation = next(activations)
            params = (None, None) if activation == 2 else (weight, None) if activation == 3 else (weight, bias)
            yield change(input), *params, *fixed, training, 1e-3, activation, 0.2, channels_last and len(shape) > 3


def backwards():
    every = itertools.cycle(itertools.product((True, False), repeat=2))
    for args, needed in zip(forwards(), every, strict=False):
        input, weight, bias, _, _, training, _, *rest = args
        out, mean, invstd, _ = torch.ops.pyaegpu.batch_norm_act_fwd(*args)
        g = LAYOUTS["every_second"](out)
        yield g, input, weight, bias, mean, invstd, training, *rest, *needed


OPS = {"batch_norm_act_fwd": forwards, "batch_norm_act_bwd": backwards}
each_op = pytest.mark.parametrize("op", OPS)


@each_op
def test_schema_and_fake_kernel(op):
    """The schema tells the truth, and the fake kernel gives the shapes, strides and dtypes of the real one."""
    for args in OPS[op]():
        opcheck(getattr(torch.ops.pyaegpu, op).default, args, test_utils=("test_schema", "test_faketensor"))


@each_op
def test_autograd_and_aot_dispatch(op):
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    for args in list(OPS[op]())[::9]:
        if op == "batch_norm_act_fwd":
            args = [a.detach().requires_grad_() if isinstance(a, torch.Tensor) else a for a in args[:3]] + [*args[3:]]
        opcheck(getattr(torch.ops.pyaegpu, op).default, tuple(args), test_utils=tests)


def test_the_registered_op_computes():
    """And does not only have the right shape."""
    for input, *params, mean, var, training, eps, activation, slope, channels_last in forwards():
        given = [t for t in (input, *params) if t is not None]

        def pair(*t, p=params, m=mean, v=var, n=(training, eps, activation, slope, channels_last)):
            weight, bias = (*t[1:], *[None] * (3 - len(t)))
            fixed = [None if s is None else s.to(t[1].dtype if len(t) > 1 else t[0].dtype) for s in (m, v)]
            ours = torch.ops.pyaegpu.batch_norm_act_fwd(t[0], weight, bias, *fixed, *n)[0]
            stock = oracle.activate(F.batch_norm(t[0], *fixed, weight, bias, n[0], 0.1, n[1]), NAMES[n[2]], n[3])
            return ours, stock

        results = run(lambda *t: pair(*t)[0], given), run(lambda *t: pair(*t)[1], given)
        tolerance = 0.05 if input.dtype.itemsize == 2 else 1e-4
        assert_same(*map(flat, results), tolerance)


def test_create_graph_through_the_registered_forward_raises():
    input, weight, bias = (t.requires_grad_() for t in Case((5, 3)).tensors())
    out = torch.ops.pyaegpu.batch_norm_act_fwd(input, weight, bias, None, None, True, 1e-5, 3, 0.0, False)[0]
    (grad,) = torch.autograd.grad(out.sum(), input, create_graph=True)
    with pytest.raises(RuntimeError, match="batch_norm_act_bwd has no derivative"):
        (grad**2).sum().backward()


def test_the_registered_backward_refuses_a_second_derivative():
    for args in list(backwards())[::7]:
        leaves = [a.detach().requires_grad_() if isinstance(a, torch.Tensor) else a for a in args]
        with pytest.raises(RuntimeError, match="batch_norm_act_bwd has no derivative"):
            sum(t.sum() for t in torch.ops.pyaegpu.batch_norm_act_bwd(*leaves)).backward()
