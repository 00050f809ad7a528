"""torch.compile: whole graphs, values and gradients, dynamic shapes and the choice of backend."""

import oracle
import pytest
import torch
from calls import CALLS, FEW, KL, RECONSTRUCTION, VAE
from graphs import ops_of
from oracle import images, latents, run
from torch import func
from torch._dynamo.testing import CompileCounter

import pyaegpu

BETA = VAE[6]


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(fn, backend="aot_eager", **options):
    return torch.compile(fn, fullgraph=True, backend=backend, **options)


def assert_same(ours, stock):
    for a, b in zip(ours, stock, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-5, atol=1e-6)


def compare(call, device, backend):
    inputs = call.inputs(device=device)
    results = [run(fn, inputs, call.wanted) for fn in (compiled(call.ours, backend), call.stock)]
    for ours, stock in zip(*results, strict=True):
        assert_same(ours, stock)


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_values_and_gradients(kernel_device, call):
    compare(call, kernel_device, "aot_eager")


@pytest.mark.parametrize("call", [RECONSTRUCTION[0], KL[1], BETA], ids=str)
def test_values_and_gradients_of_the_reference(call):
    with pyaegpu.backend("reference"):
        compare(call, "cpu", "aot_eager")


@pytest.mark.parametrize("call", [RECONSTRUCTION[0], KL[3], BETA, VAE[5]], ids=str)
def test_inductor(kernel_device, call):
    compare(call, kernel_device, "inductor")


def test_a_training_step_with_inductor(kernel_device):
    generator = torch.Generator().manual_seed(0)
    weights = [
        torch.randn(8, 6, generator=generator).to(kernel_device),
        torch.randn(3, 8, generator=generator).to(kernel_device),
    ]
    x = torch.rand(5, 8, generator=generator).to(kernel_device)

    def step(fn):
        def loss(encoder, decoder):
            mu, logvar = (x @ encoder).chunk(2, 1)
            value = fn(mu @ decoder, x, mu, logvar, kind="bce_logits", kl_reduction="mean")
            return value[0] if isinstance(value, tuple) else value

        return loss

    ours = run(compiled(step(pyaegpu.vae_loss), "inductor"), weights)
    stock = run(step(oracle.vae), weights)
    assert_same(ours[0] + ours[1], stock[0] + stock[1])


def test_channels_last(kernel_device):
    recon, target = (t.to(memory_format=torch.channels_last) for t in images("mse", (2, 3, 4, 5), device=kernel_device))
    for reduction in ("none", "sum", "sample"):
        fn = compiled(lambda x, r=reduction: pyaegpu.reconstruction_loss(x * 1.0, target, "mse", reduction=r))
        (value,), (grad,) = run(fn, (recon,))
        torch.testing.assert_close(value, oracle.reconstruction(recon, target, "mse", reduction=reduction))
        assert grad.is_contiguous(memory_format=torch.channels_last)


def test_half_precision(kernel_device):
    for dtype in (torch.float16, torch.bfloat16):
        recon, target = images("mse", (4, 9), dtype, kernel_device)
        mu, logvar = latents((4, 3), dtype, kernel_device)
        fn = compiled(lambda x, m, v, t=target: pyaegpu.vae_loss(x, t, m, v, kind="mse"))
        (loss,), grads = run(fn, (recon, mu, logvar))
        (eager,), eager_grads = run(
            lambda x, m, v, t=target: pyaegpu.vae_loss(x, t, m, v, kind="mse"), (recon, mu, logvar)
        )
        assert loss.dtype == torch.float32 and torch.equal(loss, eager)
        for a, b in zip(grads, eager_grads, strict=True):
            torch.testing.assert_close(a, b)


def test_autocast(kernel_device):
    x, w = torch.rand(4, 6, device=kernel_device), torch.rand(6, 6, device=kernel_device)

    def step(w):
        with torch.autocast(kernel_device.type, torch.bfloat16):
            return pyaegpu.reconstruction_loss(x @ w, x, "bce_logits")

    (loss,), (grad,) = run(compiled(step), (w,))
    (eager,), (eager_grad,) = run(step, (w,))
    assert loss.dtype == eager.dtype == torch.float32
    torch.testing.assert_close(loss, eager)
    torch.testing.assert_close(grad, eager_grad)


def test_batch_sizes_do_not_recompile_without_bound(kernel_device):
    counter = CompileCounter()

    def loss(recon, target, mu, logvar):
        return pyaegpu.vae_loss(
            recon, target, mu, logvar, kind="mse", recon_reduction="mean", kl_reduction="batchmean", clamp=(-10, 10)
        )

    fn = torch.compile(loss, fullgraph=True, backend=counter)
    for size in (4, 7, 9, 12, 15, 18):
        inputs = (*images("mse", (size, 5), device=kernel_device), *latents((size, 3), device=kernel_device))
        expected = oracle.vae(*inputs, kind="mse", recon_reduction="mean", kl_reduction="batchmean")[0]
        torch.testing.assert_close(fn(*inputs), expected)
    assert counter.frame_count <= 2


def test_dynamic_shapes_with_gradients(kernel_device):
    fn = compiled(pyaegpu.vae_loss, dynamic=True)
    for size in (4, 7, 1, 9):
        recon, target = images("bce", (size, 5), device=kernel_device)
        mu, logvar = latents((size, 3), device=kernel_device)
        for reduction in ("batchmean", "sample"):
            options = {"recon_reduction": reduction, "kl_reduction": reduction}
            results = [
                run(lambda x, m, v, f=f, t=target, o=options: f(x, t, m, v, **o), (recon, mu, logvar))
                for f in (fn, lambda *a, **o: oracle.vae(*a, **o)[0])
            ]
            assert_same(results[0][0] + results[0][1], results[1][0] + results[1][1])


def test_a_tensor_beta_does_not_recompile(kernel_device):
    counter = CompileCounter()
    fn = torch.compile(pyaegpu.vae_loss, fullgraph=True, backend=counter)
    inputs = (*images("mse", (4, 5), device=kernel_device), *latents((4, 3), device=kernel_device))
    for beta in (0.1, 0.2, 0.7, 1.0):
        loss = fn(*inputs, kind="mse", beta=torch.tensor(beta, device=kernel_device))
        torch.testing.assert_close(loss, oracle.vae(*inputs, kind="mse", beta=beta)[0])
    assert counter.frame_count == 1


def test_the_graph_holds_the_registered_op(kernel_device):
    recon, target = images("bce", (4, 5), device=kernel_device)
    mu, logvar = latents((4, 3), device=kernel_device)
    assert ops_of(pyaegpu.reconstruction_loss, recon, target) == ["pyaegpu.reconstruction_loss_fwd"]
    assert ops_of(pyaegpu.gaussian_kl, mu, logvar) == ["pyaegpu.gaussian_kl_fwd"]
    assert ops_of(pyaegpu.vae_loss, recon, target, mu, logvar) == ["pyaegpu.vae_loss_fwd"]


def test_the_backend_is_chosen_anew_when_it_changes(kernel_device):
    recon, target = images("bce", (4, 5), device=kernel_device)
    fn = compiled(pyaegpu.reconstruction_loss)
    expected = fn(recon, target)
    with pyaegpu.backend("reference"):
        assert ops_of(pyaegpu.reconstruction_loss, recon, target) == []
        torch.testing.assert_close(fn(recon, target), expected)
    assert len(ops_of(pyaegpu.reconstruction_loss, recon, target)) == 1
    torch.testing.assert_close(fn(recon, target), expected)


def test_a_backend_selected_inside_a_compiled_function(kernel_device):
    recon, target = images("bce", (4, 5), device=kernel_device)

    def both(recon, target):
        with pyaegpu.backend("reference"):
            first = pyaegpu.reconstruction_loss(recon, target)
        return first + pyaegpu.reconstruction_loss(recon, target)

    assert ops_of(both, recon, target) == ["pyaegpu.reconstruction_loss_fwd"]
    torch.testing.assert_close(compiled(both)(recon, target), both(recon, target))


def test_a_backend_that_is_not_there_raises_when_compiled():
    name = "cuda" if not torch.cuda.is_available() else "cpu"
    device = "cpu" if name == "cuda" else "cuda"
    with pyaegpu.backend(name), pytest.raises(Exception, match=f"backend '{name}' was selected but cannot run"):
        compiled(pyaegpu.reconstruction_loss)(torch.rand(3, device=device), torch.rand(3, device=device))


@pytest.mark.parametrize("call", [c for c in FEW if c.is_scalar()], ids=str)
def test_compiled_grad_transform(kernel_device, call):
    inputs = call.inputs(device=kernel_device)

    def first(fn):
        return lambda *a: fn(*a)[0] if isinstance(fn(*a), tuple) else fn(*a)

    ours = compiled(func.grad(first(call.ours), argnums=call.wanted))(*inputs)
    stock = func.grad(first(call.stock), argnums=call.wanted)(*inputs)
    assert_same(ours, stock)


def test_compiled_vmap_and_per_sample_gradients(kernel_device):
    recon, target = images("bce", (4, 5), device=kernel_device)
    ours = compiled(func.vmap(func.grad(pyaegpu.reconstruction_loss)))(recon, target)
    stock = func.vmap(func.grad(lambda x, t: oracle.reconstruction(x, t, "bce")))(recon, target)
    torch.testing.assert_close(ours, stock)
    ours = compiled(func.vmap(pyaegpu.reconstruction_loss))(recon, target)
    torch.testing.assert_close(ours, oracle.reconstruction(recon, target, "bce", reduction="sample"))


@pytest.mark.parametrize("call", FEW, ids=str)
def test_second_derivatives_through_a_compiled_graph_are_refused_or_right(kernel_device, call):
    def second(fn, leaves):
        outputs = fn(*leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        wanted = [leaves[i] for i in call.wanted]
        grads = torch.autograd.grad(sum((o**2).sum() for o in outputs), wanted, create_graph=True)
        return torch.autograd.grad(sum((g**2).sum() for g in grads), wanted)

    stock = second(call.stock, call.leaves(device=kernel_device))
    for backend in ("aot_eager", "eager"):
        try:
            ours = second(compiled(call.ours, backend), call.leaves(device=kernel_device))
        except RuntimeError as error:
            assert "derivative" in str(error) or "double backward" in str(error)
        else:
            assert_same(ours, stock)


def test_modules(kernel_device):
    recon, target = images("bce", (4, 5), device=kernel_device)
    mu, logvar = latents((4, 3), device=kernel_device)
    module = pyaegpu.nn.VAELoss(beta=torch.tensor(0.5), return_parts=True).to(kernel_device)
    expected = oracle.vae(recon, target, mu, logvar, beta=0.5)
    assert_same(torch.compile(module, fullgraph=True, backend="aot_eager")(recon, target, mu, logvar), expected)
    module = pyaegpu.nn.ReconstructionLoss("mse", weight=torch.rand(5)).to(kernel_device)
    ours = torch.compile(module, fullgraph=True, backend="aot_eager")(recon, target)
    torch.testing.assert_close(ours, oracle.reconstruction(recon, target, "mse", weight=module.weight))
