"""The losses of vae_loss on a GPU: graphs, streams, host synchronisation and large tensors."""

import oracle
import pytest
import torch
from calls import FEW, KL, RECONSTRUCTION, VAE
from cuda_runs import assert_never_waits, captured, on_a_side_stream
from oracle import images, latents, run

import pyaegpu

pytestmark = pytest.mark.gpu

LOSSES = [*RECONSTRUCTION, *KL, *VAE]
each_loss = pytest.mark.parametrize("call", LOSSES, ids=str)
few_losses = pytest.mark.parametrize("call", [call for call in FEW if call in LOSSES], ids=str)


def step_of(call, leaves, upstream):
    """Values and gradients."""
    values = oracle.as_tuple(call.ours(*leaves))
    return *values, *torch.autograd.grad(values, [t for t in leaves if t.requires_grad], upstream)


def upstream_of(call, leaves):
    return [torch.full_like(value, 0.75) for value in oracle.as_tuple(call.ours(*leaves))]


def assert_those_of_a_step(results, call, leaves, upstream):
    for a, b in zip(results, step_of(call, leaves, upstream), strict=True):
        torch.testing.assert_close(a, b)


@each_loss
def test_a_captured_graph(gpu, call):
    """Forward and backward; each replay computes from what the inputs then hold."""
    leaves = call.leaves(device="cuda")
    upstream = upstream_of(call, leaves)
    graph, results = captured(lambda: step_of(call, leaves, upstream))
    for factor in (1.0, 0.5):
        with torch.no_grad():
            leaves[0].mul_(factor)
        graph.replay()
        assert_those_of_a_step(results, call, leaves, upstream)


@each_loss
def test_on_another_stream(gpu, call):
    leaves = call.leaves(device="cuda")
    upstream = upstream_of(call, leaves)
    results = on_a_side_stream(lambda *t: step_of(call, t, upstream), leaves)
    assert_those_of_a_step(results, call, leaves, upstream)


@each_loss
def test_the_host_never_waits(gpu, call):
    leaves = call.leaves(device="cuda")
    upstream = upstream_of(call, leaves)
    assert_never_waits(lambda: step_of(call, leaves, upstream))


@few_losses
def test_compiled_with_cuda_graphs(gpu, call):
    torch._dynamo.reset()
    inputs = call.inputs(device="cuda")
    fn = torch.compile(call.ours, fullgraph=True, mode="reduce-overhead")
    for _ in range(4):
        for ours, stock in zip(*(oracle.as_tuple(f(*inputs)) for f in (fn, call.stock)), strict=True):
            torch.testing.assert_close(ours.clone(), stock, rtol=1e-5, atol=1e-5)


# More than 2^31 elements: one row, or rows that no 16-byte access reaches.
VAST = {"row": (2**31 + 1031,), "rows": (2**10 + 1, 2**21 + 7)}
each_shape = pytest.mark.parametrize("shape", VAST.values(), ids=VAST)


def all_but_the_end(shape, dtype, make):
    """Pairs of zeros, save for the last row, or elements, of ``make(shape, dtype, device)``; and that end by itself."""
    last = slice(-1, None) if len(shape) > 1 else slice(-1031, None)
    whole = [torch.zeros(shape, dtype=dtype, device="cuda") for _ in range(2)]
    ends = make(whole[0][last].shape, dtype, "cuda")
    for t, end in zip(whole, ends, strict=True):
        t[last] = end
    return whole, list(ends), last


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reduction", ["sum", "sample", "none"])
@each_shape
def test_reconstructing_more_elements_than_32_bits_count(gpu, shape, reduction, dtype, large_memory):
    """Where reconstruction and target are 0, so are the squares and their gradients."""
    large_memory(40)
    whole, end, last = all_but_the_end(shape, dtype, lambda *place: images("mse", *place))

    def loss(x, t):
        return pyaegpu.reconstruction_loss(x, t, "mse", reduction=reduction)

    (value,), grads = run(loss, whole, (0,), [torch.ones((), device="cuda").expand(loss(*whole).shape)])
    (expected,), exact = run(loss, end, (0,), [torch.ones((), device="cuda").expand(loss(*end).shape)])
    value = value[last] if value.dim() else value
    torch.testing.assert_close(value, expected, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(grads[0][last], exact[0])
    assert not grads[0][: last.start].any()


@pytest.mark.parametrize("reduction", ["sum", "sample", "dim"])
def test_the_divergence_of_more_elements_than_32_bits_count(gpu, reduction, large_memory):
    """Every row but the last is standard normal: of no divergence."""
    large_memory(40)
    whole, end, last = all_but_the_end(VAST["rows"], torch.bfloat16, latents)

    def loss(m, v):
        return pyaegpu.gaussian_kl(m, v, reduction=reduction).sum()

    (value,), grads = run(loss, whole, upstream=[torch.ones((), device="cuda")])
    (expected,), exact = run(loss, end, upstream=[torch.ones((), device="cuda")])
    batch = len(whole[0]) if reduction == "dim" else 1
    torch.testing.assert_close(value * batch, expected, rtol=1e-2, atol=1e-2)
    for ours, one in zip(grads, exact, strict=True):
        torch.testing.assert_close(ours[last] * batch, one, rtol=2e-2, atol=1e-3)
        assert not ours[: last.start].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reduction", ["sum", "sample"])
def test_a_vae_of_more_elements_than_32_bits_count(gpu, reduction, dtype, large_memory):
    large_memory(40)
    whole, end, last = all_but_the_end(VAST["rows"], dtype, lambda *place: images("mse", *place))
    mu, logvar = latents((VAST["rows"][0], 33), dtype, "cuda")
    mu[:-1], logvar[:-1] = 0, 0

    def loss(x, t, m, v):
        options = {"kind": "mse", "recon_reduction": reduction, "kl_reduction": reduction}
        return pyaegpu.vae_loss(x, t, m, v, **options).sum()

    wanted, upstream = (0, 2, 3), [torch.full((), 0.75, device="cuda")]
    (value,), grads = run(loss, (*whole, mu, logvar), wanted, upstream)
    (expected,), exact = run(loss, (*end, mu[-1:], logvar[-1:]), wanted, upstream)
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)
    for ours, one in zip(grads, exact, strict=True):
        torch.testing.assert_close(ours[last], one)
        assert not ours[: last.start].any()
