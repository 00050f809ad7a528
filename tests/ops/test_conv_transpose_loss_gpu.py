"""A transposed convolution's reconstruction loss on a GPU: TF32, graphs, streams, host synchronisation and large
tensors."""

import pytest
import torch
from conv_cases import CASES, Case
from cuda_runs import assert_never_waits, captured, on_a_side_stream
from oracle import run
from test_conv_transpose_gpu import LAYERS, VAST
from test_conv_transpose_loss import ours, problem, stock

pytestmark = pytest.mark.gpu

each_layer = pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS)
# One for each algorithm.
WAYS = {name: CASES[name] for name in ("4x4", "dense 4x4", "dense 2x2", "groups")}
each_way = pytest.mark.parametrize("case", WAYS.values(), ids=WAYS)


def relative_error(case, order):
    """The largest of loss and gradients, relative to the largest element."""
    input, weight, *rest = problem(case, device="cuda")
    tensors = [*(t.contiguous(memory_format=order) for t in (input, weight)), *rest]
    wanted = range(len(tensors) - 1)
    value, grads = run(ours(case, reduction="mean", activation="tanh"), tensors, wanted)
    exact = [t.double().cpu() for t in tensors]
    truth, exact_grads = run(stock(case, reduction="mean", activation="tanh"), exact, wanted)
    pairs = zip(value + grads, truth + exact_grads, strict=True)
    return max(((a.double().cpu() - b).abs().max() / b.abs().max()).item() for a, b in pairs)


@pytest.mark.parametrize("tf32", [False, True], ids=["ieee", "tf32"])
@each_layer
def test_tf32(gpu, case, tf32):
    torch.backends.cudnn.allow_tf32 = tf32  # the test's own: it is off again after it
    for order in (torch.contiguous_format, torch.channels_last):
        assert relative_error(case, order) < (5e-3 if tf32 else 1e-5)


def step_of(case):
    """Loss and gradients."""
    call = ours(case, activation="tanh")

    def step(*tensors):
        leaves = [t.detach().requires_grad_() for t in tensors[:-1]]
        value = call(*leaves, tensors[-1])
        return value.detach(), *torch.autograd.grad(value, leaves)

    return step


def assert_close(results, expected):
    for a, b in zip(results, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@each_way
def test_a_captured_graph(gpu, case):
    """Forward and backward; each replay computes from what the input then holds."""
    step, tensors = step_of(case), problem(case, device="cuda")
    graph, results = captured(lambda: step(*tensors))
    for factor in (1.0, 0.5, -2.0):
        tensors[0].mul_(factor)
        graph.replay()
        assert_close(results, step(*tensors))


@each_way
def test_on_another_stream(gpu, case):
    step, tensors = step_of(case), problem(case, dtype=torch.bfloat16, device="cuda")
    assert_close(on_a_side_stream(step, tensors), step(*tensors))


@each_way
def test_the_host_never_waits(gpu, case):
    step, tensors = step_of(case), problem(case, device="cuda")
    assert_never_waits(lambda: step(*tensors))


@pytest.mark.parametrize("name", VAST)
def test_more_elements_than_32_bits_count(gpu, name, large_memory):
    """In bfloat16; where input, bias and target are 0, so are squares and gradients: the last sample's remain."""
    large_memory(40)
    case = VAST[name]
    weight = Case((1, case.input[1], 2, 2), case.weight, case.numbers).tensors(torch.bfloat16, "cuda")[1]
    input = torch.zeros(case.input, dtype=torch.bfloat16, device="cuda")
    input[-1] = torch.randn(case.input[1:], device="cuda")
    target = torch.zeros_like(case.stock()(input, weight))
    assert target.numel() > 2**31

    def loss(input, weight, target):
        return ours(case, kind="mse")(input, weight, target)

    upstream = [torch.full((), 2.0**-30, dtype=torch.bfloat16, device="cuda")]
    (value,), grads = run(loss, (input, weight, target), (0, 1), upstream)
    (expected,), exact = run(loss, (input[-1:], weight, target[-1:]), (0, 1), upstream)
    torch.testing.assert_close(value, expected)
    assert not grads[0][:-1].any()
    for a, b in zip((grads[0][-1:], grads[1]), exact, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2 * b.abs().max().item())
