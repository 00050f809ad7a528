"""How the backward is used: kept graphs, upstream gradients, accumulation, shared arguments, hooks and checkpoints."""

import copy

import oracle
import pytest
import torch
from calls import FEW
from oracle import images, latents, upstreams
from torch.utils.checkpoint import checkpoint

import pyaegpu

few_calls = pytest.mark.parametrize("call", FEW, ids=str)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


def weighted(outputs, factor=1.0):
    """A scalar from the outputs whose upstream gradients are not 1."""
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return factor * sum((o.double() * g.double()).sum() for o, g in zip(outputs, upstreams(outputs), strict=True))


def wanted(call, leaves):
    return [leaves[i] for i in call.wanted]


def stock_gradients(call, leaves, factor=1.0):
    copies = [t.detach().double().requires_grad_(t.requires_grad) for t in leaves]
    return torch.autograd.grad(weighted(call.stock(*copies), factor), wanted(call, copies))


def assert_same(ours, stock, dtype=torch.float32):
    tolerance = 16 * torch.finfo(dtype).eps
    for a, b in zip(ours, stock, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance)


@dtypes
@few_calls
def test_kept_graph_gives_equal_gradients_each_time(device, call, dtype):
    leaves = call.leaves(dtype, device)
    value = weighted(call.ours(*leaves), 3.0)
    runs = [torch.autograd.grad(value, wanted(call, leaves), retain_graph=True) for _ in range(3)]
    runs.append(torch.autograd.grad(value, wanted(call, leaves)))
    # The last run scales the stored gradient, the ones before recompute it: bfloat16 rounds the stored one twice.
    for run in runs[1:3]:
        assert all(map(torch.equal, run, runs[0]))
    assert_same(runs[0], stock_gradients(call, leaves, 3.0), dtype)
    assert_same(runs[3], stock_gradients(call, leaves, 3.0), dtype)


@few_calls
def test_returned_gradients_are_not_changed_by_a_later_backward(device, call):
    leaves = call.leaves(device=device)
    value = weighted(call.ours(*leaves), 3.0)
    first = torch.autograd.grad(value, wanted(call, leaves), retain_graph=True)
    kept = [g.clone() for g in first]
    torch.autograd.grad(value, wanted(call, leaves))
    assert all(map(torch.equal, first, kept))


@few_calls
def test_a_graph_is_freed(device, call):
    leaves = call.leaves(device=device)
    value = weighted(call.ours(*leaves))
    value.backward()
    with pytest.raises(RuntimeError, match="second time"):
        value.backward()


@few_calls
def test_gradients_accumulate(device, call):
    leaves = call.leaves(device=device)
    for factor in (3.0, -1.0, 0.5):
        weighted(call.ours(*leaves), factor).backward()
    assert_same([t.grad for t in wanted(call, leaves)], stock_gradients(call, leaves, 2.5))


@few_calls
def test_not_the_last_nor_the_first_layer(device, call):
    """The gradient is neither an upstream of 1 nor handed to a leaf, and a second use of the input adds to it."""
    results = []
    for fn, dtype in ((call.ours, torch.float32), (call.stock, torch.float64)):
        leaves = [t.to(dtype).detach().requires_grad_(t.requires_grad) for t in call.leaves(device=device)]
        inner = [t * 0.9 + 0.01 if t.requires_grad else t for t in leaves]
        value = weighted(fn(*inner), 2.0).exp().clamp(max=1e3) + sum((t**2).sum() for t in inner)
        results.append(torch.autograd.grad(torch.tanh(0.01 * value), wanted(call, leaves)))
    assert_same(*results)


@pytest.mark.parametrize("factor", [0.0, float("nan"), float("inf")])
def test_upstream_of_zero_nan_and_inf(device, factor):
    recon, target = images("mse", (4, 5), device=device)
    recon.requires_grad_()
    for keep in (True, False):
        value = pyaegpu.reconstruction_loss(recon, target, "mse", reduction="sample") * factor
        (grad,) = torch.autograd.grad(value.sum(), recon, retain_graph=keep)
        torch.testing.assert_close(grad, 2 * (recon - target).detach() * factor, equal_nan=True)


def test_one_sample_scaled_by_one_and_the_next_by_another(device):
    recon, target = images("mse", (3, 700), device=device)
    upstream = torch.tensor([1.0, 1.0, -2.0], device=device)
    recon.requires_grad_()
    pyaegpu.reconstruction_loss(recon, target, "mse", reduction="sample").backward(upstream)
    torch.testing.assert_close(recon.grad, 2 * (recon - target).detach() * upstream[:, None])


@pytest.mark.parametrize("kind", oracle.KINDS)
@pytest.mark.parametrize("reduction", ["none", "sum", "sample"])
def test_one_tensor_as_reconstruction_and_target(device, kind, reduction):
    results = []
    for fn, dtype in ((pyaegpu.reconstruction_loss, torch.float32), (oracle.reconstruction, torch.float64)):
        x = torch.linspace(0.1, 0.9, 12, dtype=dtype, device=device).view(3, 4).requires_grad_()
        value = fn(x, x, kind, reduction=reduction)
        results.append(torch.autograd.grad(weighted(value), x))
    assert_same(*results)


def test_one_tensor_as_weight_and_reconstruction(device):
    results = []
    for fn, dtype in ((pyaegpu.reconstruction_loss, torch.float32), (oracle.reconstruction, torch.float64)):
        x, t = (a.to(dtype) for a in images("bce", (3, 4), device=device))
        x.requires_grad_()
        results.append(torch.autograd.grad(fn(x, t, "bce", weight=x), x))
    assert_same(*results)


def test_one_tensor_as_mean_and_log_variance(device):
    for options in ({}, {"create_graph": True}, {"retain_graph": True}):
        results = []
        for fn, dtype in ((pyaegpu.vae_loss, torch.float32), (oracle.vae, torch.float64)):
            recon, target = (t.to(dtype) for t in images("mse", (3, 4), device=device))
            m = latents((3, 5), dtype, device)[0].requires_grad_()
            value = fn(recon, target, m, m, kind="mse")
            value = value[0] if isinstance(value, tuple) else value
            results.append([g.detach() for g in torch.autograd.grad(3 * value, m, **options)])
        assert_same(*results)


def test_one_tensor_as_both_gaussians(device):
    m, v = (t.requires_grad_() for t in latents((3, 5), device=device))
    value = pyaegpu.gaussian_kl(m, v, other=(m, v))
    assert value == 0
    assert all(not g.any() for g in torch.autograd.grad(value, (m, v)))


@few_calls
def test_an_input_changed_in_place_is_noticed(kernel_device, call):
    leaves = call.leaves(device=kernel_device)
    inner = [t * 1.0 if t.requires_grad else t for t in leaves]
    value = weighted(call.ours(*inner))
    # A folded weight is a copy.
    which = call.wanted[-1] if call.name.startswith("kl") else 0 if call.name.startswith("upsample") else 1
    inner[which].mul_(0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


@few_calls
def test_only_some_gradients_wanted(device, call):
    expected = stock_gradients(call, call.leaves(device=device))
    for index, position in enumerate(call.wanted):
        leaves = [t.requires_grad_(i == position) for i, t in enumerate(call.inputs(device=device))]
        assert_same(torch.autograd.grad(weighted(call.ours(*leaves)), leaves[position]), expected[index : index + 1])
        leaves = call.leaves(device=device)
        grads = torch.autograd.grad(weighted(call.ours(*leaves)), leaves[position])
        assert_same(grads, expected[index : index + 1])


@few_calls
def test_saved_tensor_hooks(device, call):
    """As offloading does: what comes back is another tensor than what was saved."""
    leaves = call.leaves(device=device)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.to("cpu", copy=True), lambda t: t.to(device).clone()):
        value = weighted(call.ours(*leaves))
    kept = torch.autograd.grad(value, wanted(call, leaves), retain_graph=True)
    grads = torch.autograd.grad(value, wanted(call, leaves))
    assert_same(kept, stock_gradients(call, leaves))
    assert_same(grads, stock_gradients(call, leaves))


def test_saved_tensors_can_be_kept_off_the_graph(device):
    recon, target = images("mse", (4, 5), device=device)
    recon.requires_grad_()
    with torch.autograd.graph.save_on_cpu():
        value = 2 * pyaegpu.reconstruction_loss(recon, target, "mse")
    value.backward()
    torch.testing.assert_close(recon.grad, 4 * (recon - target).detach())


@pytest.mark.parametrize("use_reentrant", [False, True])
@few_calls
def test_checkpoint(device, call, use_reentrant):
    leaves = call.leaves(device=device)
    weighted(checkpoint(call.ours, *leaves, use_reentrant=use_reentrant), 2.0).backward()
    assert_same([t.grad for t in wanted(call, leaves)], stock_gradients(call, leaves, 2.0))


@few_calls
def test_no_graph_without_gradients(device, call):
    inputs = call.inputs(device=device)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            outputs = call.ours(*(t.clone().requires_grad_() for t in inputs))
        assert not any(o.requires_grad for o in (outputs if isinstance(outputs, tuple) else (outputs,)))


def test_values_do_not_depend_on_gradients_being_wanted(device):
    recon, target = images("bce", (5, 1031), device=device)
    for reduction in ("none", "sum", "sample"):
        with_gradient = pyaegpu.reconstruction_loss(recon.clone().requires_grad_(), target, reduction=reduction)
        assert torch.equal(with_gradient, pyaegpu.reconstruction_loss(recon, target, reduction=reduction))


@few_calls
def test_inputs_are_not_changed(device, call):
    leaves = call.leaves(device=device)
    before = copy.deepcopy(leaves)
    weighted(call.ours(*leaves), 3.0).backward()
    assert all(map(torch.equal, leaves, before))


def test_multi_threaded_backward(device):
    """The graph of one loss in the graph of another, both run by one engine call."""
    recon, target = images("mse", (4, 5), device=device)
    recon.requires_grad_()
    total = sum(pyaegpu.reconstruction_loss(recon * k, target, "mse") * k for k in (1.0, 2.0, 3.0))
    stock = sum(oracle.reconstruction(recon * k, target, "mse") * k for k in (1.0, 2.0, 3.0))
    torch.testing.assert_close(torch.autograd.grad(total, recon), torch.autograd.grad(stock, recon))


def test_kept_and_last_backward_round_alike():
    x = torch.rand(64, 33, dtype=torch.bfloat16, requires_grad=True)
    mu, logvar = torch.randn(2, 64, 5)
    target = torch.rand_like(x)
    for loss in (
        pyaegpu.reconstruction_loss(x, target, "mse", reduction="mean") * 3,
        pyaegpu.vae_loss(x, target, mu, logvar, kind="bce_logits") * 0.37,
    ):
        first = torch.autograd.grad(loss, x, retain_graph=True)[0]
        assert torch.equal(first, torch.autograd.grad(loss, x)[0])
