"""Unpooling without indices on a GPU: graphs, streams, host synchronisation and large tensors."""

import pytest
import torch
from cuda_runs import assert_never_waits, captured, on_a_side_stream
from test_nearest_unpool import FORMATS, call_of, each_kind, each_shape, values_of

pytestmark = pytest.mark.gpu


def step_of(shape, kernel, nails):
    """Value and gradient, of an upstream gradient made of the value."""

    def step(input):
        leaf = input.detach().requires_grad_()
        value = call_of(shape, kernel, nails)(leaf)
        return value.detach(), *torch.autograd.grad(value, leaf, value.detach() + 1)

    return step


@each_kind
@each_shape
def test_a_captured_graph(gpu, shape, kernel, nails):
    step, input = step_of(shape, kernel, nails), values_of(shape, device="cuda")
    graph, results = captured(lambda: step(input))
    for factor in (1.0, -2.0):
        input.mul_(factor)
        graph.replay()
        assert all(map(torch.equal, results, step(input)))


@each_kind
@each_shape
def test_on_another_stream(gpu, shape, kernel, nails):
    step, input = step_of(shape, kernel, nails), values_of(shape, device="cuda")
    assert all(map(torch.equal, on_a_side_stream(step, [input]), step(input)))


@each_kind
@each_shape
def test_the_host_never_waits(gpu, shape, kernel, nails):
    step, inputs = step_of(shape, kernel, nails), [memory(values_of(shape, device="cuda")) for memory in FORMATS]
    assert_never_waits(lambda: [step(input) for input in inputs])


@pytest.mark.parametrize("memory", FORMATS, ids=["contiguous", "channels_last"])
@each_kind
def test_more_elements_than_32_bits_count(gpu, nails, memory, large_memory):
    """The last image of 2^31 + 2^25 elements is what it is alone."""
    large_memory(24)
    shape = 65, 8, 1024, 1024
    step = step_of(shape, 2, nails)
    input = memory(torch.zeros(shape, dtype=torch.bfloat16, device="cuda"))
    input[-1] = torch.randn(shape[1:], device="cuda")
    value, grad = step(input)
    assert value.numel() > 2**31
    for whole, alone in zip((value, grad), step(memory(input[-1:].clone())), strict=True):
        assert torch.equal(whole[-1:], alone)
    assert not value[0].any() and bool((grad[0] == (1 if nails else 4)).all())
