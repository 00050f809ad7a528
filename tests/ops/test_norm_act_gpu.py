"""Batch normalisation on a GPU, alone and after a transposed convolution: graphs, host synchronisation, large tensors
and agreement of the backends."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from cuda_runs import assert_never_waits, captured, on_a_side_stream, selected
from norm_cases import Case, each_mode, running_of
from oracle import DTYPES, run

import pyaegpu
from pyaegpu import backends

pytestmark = pytest.mark.gpu

SHAPES = {
    "images": (16, 64, 32, 32),
    "few channels": (32, 3, 64, 64),
    "many channels": (8, 512, 4, 4),
    "rows": (4096, 300),
    "lines": (5, 33, 257),
    "volumes": (2, 17, 6, 7, 9),
}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
LAYERS = {
    "phases": ((256, 128, 4), {"stride": 2, "padding": 1}, (4, 256, 8, 8)),
    "pixel": ((100, 512, 4), {}, (16, 100, 1, 1)),
    "2x2": ((128, 64, 2), {"stride": 2}, (4, 128, 8, 8)),
    "image": ((64, 3, 4), {"stride": 2, "padding": 1}, (4, 64, 16, 16)),
    "groups": ((16, 32, 3), {"groups": 2}, (4, 16, 9, 9)),
}
each_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)


@pytest.fixture(params=["cuda", "triton", "reference"])
def gpu(request):
    with selected(request.param):
        yield request.param


def channels_last(t):
    return t.to(memory_format={4: torch.channels_last, 5: torch.channels_last_3d}.get(t.dim(), torch.contiguous_format))


@each_mode
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_shape
def test_shapes_in_every_dtype(gpu, shape, dtype, training):
    case = Case(shape, training)
    kept = torch.float32 if dtype.itemsize == 2 else dtype
    input, *parameters = case.tensors((dtype, kept), "cuda")
    for memory, activation in itertools.product((lambda t: t, channels_last), (None, "tanh")):
        case.check((memory(input), *parameters), activation=activation)


def block(layer, dtype=torch.float32, **options):
    """A convolution with its normalisation, and an input."""
    arguments, numbers, shape = layer
    torch.manual_seed(0)
    module = pyaegpu.nn.ConvTransposeNormAct2d(*arguments, **numbers, **options, device="cuda", dtype=dtype)
    return module, torch.randn(shape, device="cuda", dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@each_layer
def test_layers(gpu, layer, dtype):
    """Two steps of training and one of evaluation against float64."""
    check_block(layer, dtype, 32 * torch.finfo(dtype).eps)


@each_layer
def test_layers_with_tf32(gpu, layer):
    torch.backends.cudnn.allow_tf32 = True  # the test's own: it is off again after it
    check_block(layer, torch.float32, 1e-2)


def check_block(layer, dtype, tolerance):
    for order, options in itertools.product(
        (torch.contiguous_format, torch.channels_last), ({}, {"activation": "leaky_relu", "negative_slope": 0.2})
    ):
        ours, x = block(layer, dtype, **options)
        exact = torch.nn.Sequential(*block(layer, dtype, **options)[0]).double().cpu()
        x = x.to(memory_format=order).requires_grad_()
        for _ in range(2):
            value, grad = with_gradient(ours, x)
            truth, exact_grad = with_gradient(exact, x.detach().double().cpu().requires_grad_())
            assert_near(value, truth, tolerance)
            # A kink's derivative is one or the other where rounding decides it.
            assert (grad.cpu() - exact_grad).norm() <= 2 * tolerance**0.5 * exact_grad.norm()
        for mine, theirs in zip(ours.buffers(), exact.buffers(), strict=True):
            torch.testing.assert_close(mine.cpu(), theirs, rtol=2e-2, atol=2e-2, check_dtype=False)
        ours.eval(), exact.eval()
        with torch.no_grad():
            assert_near(ours(x), exact(x.double().cpu()), 2 * tolerance)


def with_gradient(module, x):
    value = module(x)
    upstream = torch.linspace(-1, 1, value.numel(), dtype=torch.float64).view(value.shape).to(value)
    return value, torch.autograd.grad(value, x, upstream)[0]


def assert_near(ours, truth, tolerance):
    assert (ours.double().cpu() - truth).abs().max() <= tolerance * truth.abs().max()


def steps_of(call, leaves, upstream):
    value = call(*leaves)
    return value, *torch.autograd.grad(value, leaves, upstream)


@each_mode
@each_shape
def test_a_captured_graph(gpu, shape, training):
    """Forward and backward; each replay computes from what the inputs then hold, and moves the statistics."""
    leaves = [t.requires_grad_() for t in Case(shape).tensors(device="cuda")]
    running = running_of(shape[1], torch.float32, "cuda")
    upstream = torch.ones_like(leaves[0])

    def step(running=running):
        return steps_of(
            lambda *t: pyaegpu.batch_norm_act(t[0], *running, *t[1:], training, activation="tanh"), leaves, upstream
        )

    graph, results = captured(step)
    for factor in (1.0, 0.5, -2.0):
        with torch.no_grad():
            leaves[0].mul_(factor)
        expected = [t.clone() for t in running]
        graph.replay()
        for a, b in zip((*results, *running), (*step(expected), *expected), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@each_layer
def test_a_captured_layer(gpu, layer):
    module, x = block(layer)
    x.requires_grad_()
    upstream = torch.ones_like(module(x))
    graph, results = captured(lambda: steps_of(module, [x], upstream))
    for factor in (1.0, 0.5):
        with torch.no_grad():
            x.mul_(factor)
        graph.replay()
        for a, b in zip(results, steps_of(module, [x], upstream), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@each_mode
@each_shape
def test_the_host_never_waits(gpu, shape, training):
    leaves = [t.requires_grad_() for t in Case(shape).tensors(device="cuda")]
    running, upstream = running_of(shape[1], torch.float32, "cuda"), torch.ones_like(leaves[0])
    for activation in (None, "relu"):

        def call(*t, activation=activation):
            return pyaegpu.batch_norm_act(t[0], *running, *t[1:], training, activation=activation)

        assert_never_waits(lambda call=call: steps_of(call, leaves, upstream))


@each_layer
def test_the_host_never_waits_for_a_layer(gpu, layer):
    module, x = block(layer)
    x.requires_grad_()
    upstream = torch.ones_like(module(x))
    assert_never_waits(lambda: steps_of(module, [x], upstream))
    module.eval()
    with torch.no_grad():
        assert_never_waits(lambda: module(x))


@each_shape
def test_two_runs_are_equal(gpu, shape, nan_filled):
    for memory, training in itertools.product((lambda t: t, channels_last), (True, False)):
        case = Case(shape, training)
        input, *parameters = case.tensors(device="cuda")
        first, second = (run(case.ours(activation="relu"), (memory(input), *parameters)) for _ in range(2))
        results = zip(first[0] + first[1], second[0] + second[1], strict=True)
        assert all(torch.equal(a, b) and a.isfinite().all() for a, b in results)


@each_mode
@each_shape
def test_on_another_stream(gpu, shape, training):
    case = Case(shape, training)

    def step(*leaves):
        values, grads = run(case.ours(activation="relu"), leaves)
        return values + grads

    tensors = case.tensors(device="cuda")
    assert all(map(torch.equal, on_a_side_stream(step, tensors), step(*tensors)))


@each_layer
def test_a_layer_on_another_stream(gpu, layer):
    module, x = block(layer, torch.float16)

    def step(x):
        leaf = x.detach().requires_grad_()
        return with_gradient(module, leaf)

    for result, expected in zip(on_a_side_stream(step, [x]), step(x), strict=True):
        torch.testing.assert_close(result, expected)


def test_compiled_with_cuda_graphs(gpu):
    torch._dynamo.reset()
    for shape in (SHAPES["images"], SHAPES["rows"]):
        case = Case(shape, kept=False)
        tensors = case.tensors(device="cuda")
        fn = torch.compile(case.ours(activation="relu"), fullgraph=True, mode="reduce-overhead")
        for _ in range(4):
            result = fn(*tensors).clone()
            torch.testing.assert_close(result, case.stock(activation="relu")(*tensors), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 2, 2**15, 2**14 + 1), (2**16, 2**15 + 1)], ids=str)
def test_more_elements_than_32_bits_count(gpu, shape, large_memory):
    """In half precision, 4 GiB each; the last places of result and gradient."""
    if gpu == "reference":
        pytest.skip("stock PyTorch's kernels")
    large_memory(40)
    input = torch.randn(shape, dtype=torch.float16, device="cuda").requires_grad_()
    assert input.numel() > 2**31
    result = pyaegpu.batch_norm_act(input, None, None, training=True, activation="relu")
    # Of so many values mean and variance are 0 and 1 in half precision; rows have 2^16 of each channel.
    torch.testing.assert_close(result[-1], F.relu(input[-1]), rtol=3e-2, atol=3e-2)
    upstream = torch.randn_like(result)
    (grad,) = torch.autograd.grad(result, input, upstream)
    torch.testing.assert_close(grad[-1], upstream[-1].where(result[-1] > 0, 0.0), rtol=3e-2, atol=6e-2)


@pytest.mark.parametrize(("size", "numbers"), [(2, {}), (4, {"padding": 1})], ids=["matmul", "phases"])
def test_a_layer_of_more_elements_than_32_bits_count(gpu, size, numbers, large_memory):
    """In one op and in two."""
    large_memory(40)
    module = pyaegpu.nn.ConvTransposeNormAct2d(16, 8, size, 2, **numbers, device="cuda", dtype=torch.float16)
    input = torch.randn(65, 16, 1024, 1024, dtype=torch.float16, device="cuda")
    convolution, norm = module[0], module[1]
    with torch.no_grad():
        result = module(input)
        assert result.numel() > 2**31
        y = convolution(input)
        expected = pyaegpu.batch_norm_act(y, None, None, norm.weight, norm.bias, training=True, activation="relu")
    for place in (0, -1):
        torch.testing.assert_close(result[place], expected[place], rtol=1e-2, atol=1e-2)


@each_shape
def test_the_backends_agree(shape):
    results, case = [], Case(shape)
    for name in ("triton", "reference"):
        if backends.status()[name] is not None:
            pytest.skip(f"needs both: {backends.status()[name]}")
        with pyaegpu.backend(name):
            results.append(run(case.ours(activation="sigmoid"), case.tensors(device="cuda")))
    for ours, stock in zip(*results, strict=True):
        torch.testing.assert_close(ours, stock, rtol=1e-3, atol=1e-3)
