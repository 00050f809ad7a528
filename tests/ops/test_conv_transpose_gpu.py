"""Transposed convolutions on a GPU: TF32, graphs, host synchronisation, large tensors and agreement of the backends."""

import oracle
import pytest
import torch
from conv_cases import CASES, FEW, SMALL, Case
from cuda_runs import assert_never_waits, captured, on_a_side_stream, selected
from oracle import run

import pyaegpu
from pyaegpu import backends

pytestmark = pytest.mark.gpu

# Layers of DCGAN and of a VAE, dense and small, and one pixel of input.
LAYERS = {
    "dense": Case((4, 256, 8, 8), (256, 128, 4, 4), {"stride": 2, "padding": 1}),
    "pixel": Case((16, 100, 1, 1), (100, 512, 4, 4)),
    "2x2": Case((4, 128, 8, 8), (128, 64, 2, 2), {"stride": 2}),
    "image": Case((4, 64, 32, 32), (64, 3, 4, 4), {"stride": 2, "padding": 1}),
    "grey": Case((16, 32, 14, 14), (32, 1, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
}
each_layer = pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS)
few_cases = pytest.mark.parametrize("case", [*FEW.values(), SMALL["4x4"]], ids=[*FEW, "4x4"])


@pytest.fixture(params=["cuda", "triton", "reference"])
def gpu(request):
    with selected(request.param):
        yield request.param


@pytest.fixture
def tf32():
    """Sets whether float32 convolutions may use TF32, in the older way; it is off again after the test."""

    def allow(value):
        torch.backends.cudnn.allow_tf32 = value

    return allow


def relative_error(case, tensors, activation=None):
    """The largest of result and gradients, relative to the largest element."""
    values, grads = run(case.ours(activation=activation), tensors)
    exact_values, exact_grads = run(case.stock(activation=activation), [t.double().cpu() for t in tensors])
    pairs = zip(values + grads, exact_values + exact_grads, strict=True)
    return max(((a.double().cpu() - b).abs().max() / b.abs().max()).item() for a, b in pairs)


def in_both_orders(case):
    input, weight, bias = case.tensors(device="cuda")
    for order in (torch.contiguous_format, torch.channels_last):
        yield [*(t.contiguous(memory_format=order) for t in (input, weight)), bias]


@each_layer
def test_without_tf32_float32_is_ieee(gpu, tf32, case):
    tf32(False)
    for tensors in in_both_orders(case):
        assert relative_error(case, tensors, "tanh") < 1e-5


@each_layer
def test_with_tf32_the_error_is_that_of_its_mantissa(gpu, tf32, case):
    tf32(True)
    for tensors in in_both_orders(case):
        assert relative_error(case, tensors, "tanh") < 5e-3


def test_the_setting_is_read_at_every_call(gpu, tf32):
    """Also inside compiled graphs."""
    case = LAYERS["dense"]
    tensors = case.tensors(device="cuda")
    truth = case.stock()(*[t.double() for t in tensors])

    def error(call):
        return ((call(*tensors).double() - truth).abs().max() / truth.abs().max()).item()

    for allowed in (True, False, True, False):
        torch._dynamo.reset()
        tf32(allowed)
        for call in (case.ours(), torch.compile(case.ours(), fullgraph=True, backend="aot_eager")):
            assert error(call) < (5e-3 if allowed else 1e-5)


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_the_newer_setting(gpu, precision):
    case = LAYERS["image"]
    before = torch.backends.cudnn.conv.fp32_precision
    try:
        torch.backends.cudnn.conv.fp32_precision = precision
        assert relative_error(case, case.tensors(device="cuda")) < (1e-5 if precision == "ieee" else 5e-3)
    finally:
        torch.backends.cudnn.conv.fp32_precision = before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@each_layer
def test_layers_in_every_dtype(gpu, case, dtype):
    for order in (torch.contiguous_format, torch.channels_last):
        input, weight, bias = case.tensors(dtype, "cuda")
        tensors = input.to(memory_format=order), weight.to(memory_format=order), bias
        for activation in (None, "relu", "tanh"):
            case.check(tensors, activation=activation)


@few_cases
def test_a_captured_graph(gpu, case):
    """Forward and backward; each replay computes from what the inputs then hold."""
    leaves = [t.requires_grad_() for t in case.tensors(device="cuda")]
    call = case.ours(activation="tanh")
    upstream = torch.ones_like(call(*leaves))

    def step():
        value = call(*leaves)
        return value, *torch.autograd.grad(value, leaves, upstream)

    graph, results = captured(step)
    for factor in (1.0, 0.5, -2.0):
        with torch.no_grad():
            leaves[0].mul_(factor)
        graph.replay()
        for a, b in zip(results, step(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@few_cases
def test_the_host_never_waits(gpu, case):
    leaves = [t.requires_grad_() for t in case.tensors(device="cuda")]
    call = case.ours(activation="relu")
    assert_never_waits(lambda: torch.autograd.grad(call(*leaves).sum(), leaves))


def test_compiled_with_cuda_graphs(gpu):
    torch._dynamo.reset()
    for case in (SMALL["4x4"], CASES["dense 4x4"]):
        tensors = case.tensors(device="cuda")
        fn = torch.compile(case.ours(activation="relu"), fullgraph=True, mode="reduce-overhead")
        for _ in range(4):
            torch.testing.assert_close(
                fn(*tensors).clone(), case.stock(activation="relu")(*tensors), rtol=1e-2, atol=1e-2
            )


@each_layer
def test_two_runs_are_equal(gpu, case, nan_filled):
    tensors = case.tensors(device="cuda")
    first, second = (run(case.ours(activation="relu"), tensors) for _ in range(2))
    results = zip(first[0] + first[1], second[0] + second[1], strict=True)
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in results)


@few_cases
def test_on_another_stream(gpu, case):
    """Forward and backward, in half precision."""
    tensors = case.tensors(torch.float16, "cuda")

    def step(*leaves):
        values, grads = run(case.ours(activation="relu"), leaves)
        return values + grads

    for result, expected in zip(on_a_side_stream(step, tensors), step(*tensors), strict=True):
        torch.testing.assert_close(result, expected)


# One for each algorithm of the Triton kernels, with more than 2^31 elements of result.
VAST = {
    "small": Case((129, 8, 1024, 1024), (8, 4, 4, 4), {"stride": 2, "padding": 1}),
    "matmul": Case((65, 16, 1024, 1024), (16, 8, 2, 2), {"stride": 2}),
    "phases": Case((65, 16, 1024, 1024), (16, 8, 4, 4), {"stride": 2, "padding": 1}),
    "pass": Case((65, 16, 1024, 1024), (16, 4, 2, 2), {"stride": 2, "groups": 2}),
}


@pytest.mark.parametrize("name", VAST)
def test_more_elements_than_32_bits_count(gpu, name, large_memory):
    """In half precision; the last sample is what it is alone, and so are the gradients that it alone has."""
    if gpu == "reference":
        pytest.skip("stock PyTorch's kernels")
    large_memory(40)
    case, shape = VAST[name], VAST[name].input
    _, weight, bias = Case((1, shape[1], 2, 2), case.weight, case.numbers).tensors(torch.float16, "cuda")
    input = torch.randn(shape, dtype=torch.float16, device="cuda")
    leaves, alone = ([t.detach().requires_grad_() for t in (x, weight, bias)] for x in (input, input[-1:].clone()))
    call = case.ours(activation="relu")
    result, expected = call(*leaves), call(*alone)
    assert result.numel() > 2**31
    torch.testing.assert_close(result[-1:], expected, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(result[:1], call(input[:1], weight, bias), rtol=1e-2, atol=1e-2)
    upstream = torch.zeros_like(result)
    upstream[-1] = 1 / 64
    grads = torch.autograd.grad(result, leaves, upstream)
    assert not grads[0][:-1].any()
    expected = torch.autograd.grad(expected, alone, upstream[-1:])
    for ours, one in zip((grads[0][-1:], *grads[1:]), expected, strict=True):
        torch.testing.assert_close(ours, one, rtol=1e-2, atol=1e-2 * one.abs().max().item())


def test_large_images_of_more_elements_than_32_bits_count(gpu, large_memory):
    """The result's last sample, in half precision: 4 GiB of result."""
    if gpu == "reference":
        pytest.skip("stock PyTorch's kernels")
    samples, size = 4, 2**14
    large_memory(24)
    input = torch.zeros(samples, 1, size // 2, size // 2, dtype=torch.float16, device="cuda")
    input[-1, 0, -3:, -3:] = torch.randn(3, 3)
    weight = torch.randn(1, 2, 2, 2, dtype=torch.float16, device="cuda")
    result = pyaegpu.conv_transpose2d(input, weight, stride=2)
    assert result.numel() >= 2**31
    torch.testing.assert_close(
        result[-1:, :, -6:, -6:], oracle.conv_transpose(input[-1:, :, -3:, -3:], weight, stride=2)
    )
    assert not result[-1, :, :-6].any() and not result[:-1, :, -6:, -6:].any()


@few_cases
def test_the_backends_agree(case):
    results = []
    for name in ("cuda", "triton", "reference"):
        if backends.status()[name] is not None:
            pytest.skip(f"needs all: {backends.status()[name]}")
        with pyaegpu.backend(name):
            results.append(run(case.ours(activation="sigmoid"), case.tensors(device="cuda")))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=5e-3, atol=5e-3)


def test_what_auto_takes_is_named_by_explain():
    """On a card that is not measured, stock PyTorch."""
    tensors = LAYERS["image"].tensors(device="cuda")
    found = pyaegpu.explain(pyaegpu.conv_transpose2d, *tensors, stride=2, padding=1, activation="relu")
    assert found.backend in ("reference", "cuda", "triton") and found.backend not in found.others
