"""Transposed convolutions on a GPU: TF32, graphs, host synchronisation, large tensors and agreement of the backends."""

import oracle
import pytest
import torch
from conv_cases import CASES, FEW, SMALL, Case
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
    reason = backends.status()[request.param]
    if reason is not None:
        pytest.skip(f"backend {request.param!r} is not available: {reason}")
    with pyaegpu.backend(request.param):
        yield request.param


@pytest.fixture
def tf32():
    """Sets whether float32 convolutions may use TF32, in the older way."""
    before = torch.backends.cudnn.allow_tf32

    def allow(value):
        torch.backends.cudnn.allow_tf32 = value

    yield allow
    torch.backends.cudnn.allow_tf32 = before


def relative_error(case, tensors, activation=None):
    """The largest of result and gradients, relative to the largest element."""
    results = [
        run(fn(activation=activation), t)
        for fn, t in ((case.ours, tensors), (case.stock, [t.double() for t in tensors]))
    ]
    pairs = zip(results[0][0] + results[0][1], results[1][0] + results[1][1], strict=True)
    return max(((a.double() - b).abs().max() / b.abs().max()).item() for a, b in pairs)


@each_layer
def test_without_tf32_float32_is_ieee(gpu, tf32, case):
    tf32(False)
    assert relative_error(case, case.tensors(device="cuda"), "tanh") < 1e-5


@each_layer
def test_with_tf32_the_error_is_that_of_its_mantissa(gpu, tf32, case):
    tf32(True)
    assert relative_error(case, case.tensors(device="cuda"), "tanh") < 5e-3


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

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for factor in (1.0, 0.5, -2.0):
        with torch.no_grad():
            leaves[0].mul_(factor)
        graph.replay()
        for a, b in zip(captured, step(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@few_cases
def test_the_host_never_waits(gpu, case):
    leaves = [t.requires_grad_() for t in case.tensors(device="cuda")]
    call = case.ours(activation="relu")
    torch.autograd.grad(call(*leaves).sum(), leaves)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            torch.autograd.grad(call(*leaves).sum(), leaves)
    finally:
        torch.cuda.set_sync_debug_mode("default")


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


def test_on_another_stream(gpu):
    case = LAYERS["image"]
    tensors = case.tensors(device="cuda")
    expected = case.ours(activation="relu")(*tensors)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        result = case.ours(activation="relu")(*tensors)
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(result, expected)


def test_more_elements_than_32_bits_count(gpu):
    """The result's last sample, in half precision: 4 GiB of result."""
    samples, size = 4, 2**14
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GB of free memory")
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
