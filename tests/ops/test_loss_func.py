"""torch.func and batched gradients."""

import oracle
import pytest
import torch
from calls import CALLS, FEW
from torch import func

import pyaegpu

few_calls = pytest.mark.parametrize("call", FEW, ids=str)


def scalar(fn):
    def total(*inputs):
        outputs = fn(*inputs)
        return sum(o.sum() * (i + 1) for i, o in enumerate(outputs if isinstance(outputs, tuple) else (outputs,)))

    return total


def assert_same(ours, stock):
    torch.testing.assert_close(ours, stock, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_grad(device, call):
    inputs = call.inputs(torch.float64, device)
    grads = (func.grad(scalar(fn), argnums=call.wanted)(*inputs) for fn in (call.ours, call.stock))
    assert_same(*grads)


@few_calls
@pytest.mark.parametrize("transform", [func.jacrev, func.jacfwd, func.hessian], ids=["jacrev", "jacfwd", "hessian"])
def test_jacobians(device, call, transform):
    inputs = call.inputs(torch.float64, device)
    results = (transform(fn, argnums=call.wanted)(*inputs) for fn in (call.ours, call.stock))
    assert_same(*results)


@few_calls
def test_jvp_and_vjp(device, call):
    inputs = call.inputs(torch.float64, device)
    tangents = tuple(torch.linspace(-1, 1, t.numel(), dtype=t.dtype, device=device).view(t.shape) for t in inputs)
    assert_same(*(func.jvp(fn, inputs, tangents) for fn in (call.ours, call.stock)))
    results = []
    for fn in (call.ours, call.stock):
        output, pullback = func.vjp(fn, *inputs)
        ones = torch.ones_like(output) if isinstance(output, torch.Tensor) else tuple(map(torch.ones_like, output))
        results.append(pullback(ones))
    assert_same(*results)


@few_calls
def test_vmap(device, call):
    inputs = call.inputs(torch.float64, device)
    stacked = tuple(torch.stack([t, t.flip(0) if t.dim() else 2 * t, t]) for t in inputs)
    for in_dims in (0, (0,) + (None,) * (len(inputs) - 1)):
        given = stacked if in_dims == 0 else (stacked[0], *inputs[1:])
        assert_same(*(func.vmap(fn, in_dims=in_dims)(*given) for fn in (call.ours, call.stock)))


@few_calls
def test_vmap_of_an_inner_dimension_and_of_grad(device, call):
    inputs = call.inputs(torch.float64, device)
    last = tuple(torch.stack([t, t], -1) for t in inputs)
    dims = tuple(t.dim() - 1 for t in last)
    assert_same(*(func.vmap(fn, in_dims=dims)(*last) for fn in (call.ours, call.stock)))
    assert_same(*(func.vmap(func.grad(scalar(fn)), in_dims=dims)(*last) for fn in (call.ours, call.stock)))


@few_calls
def test_batched_gradients(device, call):
    results = []
    for fn in (call.ours, call.stock):
        leaves = call.leaves(torch.float64, device)
        output = fn(*leaves)
        output = output[0] if isinstance(output, tuple) else output
        upstream = torch.linspace(-1, 1, 3 * output.numel(), dtype=torch.float64, device=device)
        wanted = [leaves[i] for i in call.wanted]
        results.append(
            torch.autograd.grad(
                output, wanted, upstream.view(3, *output.shape), is_grads_batched=True, allow_unused=True
            )
        )
    assert_same(*results)


def test_per_sample_gradients_of_a_model(device):
    model = torch.nn.Linear(6, 6).to(device, torch.float64)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, 6, generator=generator, dtype=torch.float64).to(device)
    latent = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64).to(device)

    def loss(fn):
        def of_sample(parameters, x, mu, logvar):
            recon = func.functional_call(model, parameters, (x[None],))
            value = fn(recon, x[None], mu[None], logvar[None], kind="bce_logits")
            return value[0] if isinstance(value, tuple) else value

        return func.vmap(func.grad(of_sample), in_dims=(None, 0, 0, 0))

    parameters = dict(model.named_parameters())
    assert_same(*(loss(fn)(parameters, images, *latent) for fn in (pyaegpu.vae_loss, oracle.vae)))


def test_autograd_functional(device):
    from torch.autograd.functional import hvp, jacobian

    recon, target = (t.double() for t in oracle.images("bce", (3, 4), device=device))
    for vectorize in (False, True):
        results = (
            jacobian(lambda x, f=f: f(x, target, reduction="sample"), recon, vectorize=vectorize)
            for f in (
                pyaegpu.reconstruction_loss,
                lambda x, t, reduction: oracle.reconstruction(x, t, "bce", reduction=reduction),
            )
        )
        assert_same(*results)
    ours = hvp(lambda x: pyaegpu.reconstruction_loss(x, target), recon, torch.ones_like(recon))[1]
    stock = hvp(lambda x: oracle.reconstruction(x, target, "bce"), recon, torch.ones_like(recon))[1]
    assert_same(ours, stock)
