"""Values and gradients of reparameterize and reparameterize_kl."""

import math

import oracle
import pytest
import torch
from oracle import DTYPES, check, latents, run

import pyaegpu

SHAPES = [(), (1,), (7,), (3, 5), (1, 1), (70001, 1), (3, 40001), (2, 513), (4, 3, 5, 2)]
REDUCTIONS = ("none", "sum", "mean", "batchmean", "sample", "dim")
BOUNDS = [(-0.5, 0.75), (-30.0, 20.0), (-math.inf, 0.0), (0.25, 0.25)]
INF, NAN = math.inf, math.nan


def triple(shape, dtype=torch.float32, device="cpu"):
    """A mean, a log variance (or a standard deviation of either sign) and noise."""
    return *latents(shape, dtype, device), latents(shape, dtype, device, seed=6)[0]


def compare(inputs, form="logvar", wanted=None, upstream=None, **options):
    def call(fn):
        return lambda mu, spread, eps: fn(mu, **{form: spread}, eps=eps, **options)

    ours, stock = (getattr(m, "reparameterize_kl" if "reduction" in options else "reparameterize") for m in MODULES)
    return check(call(ours), call(stock), inputs, wanted, upstream)


MODULES = pyaegpu, oracle


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", ["logvar", "std"])
def test_values_and_gradients(device, form, dtype):
    for shape in SHAPES:
        (z,), _ = compare(triple(shape, dtype, device), form)
        assert z.dtype == dtype


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1), (1, 2)], ids=str)
@pytest.mark.parametrize("options", [{}, {"form": "std"}, {"reduction": "sum"}], ids=str)
def test_some_gradients_only(device, options, wanted):
    compare(triple((5, 7), device=device), wanted=wanted, **options)


@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
def test_clamp(device, bounds):
    for dtype in DTYPES:
        compare(triple((9, 33), dtype, device), clamp=bounds)
    for reduction in ("none", "sum"):
        compare(triple((9, 33), device=device), clamp=bounds, reduction=reduction)


@pytest.mark.parametrize("upstream", [1.0, INF, -INF, NAN])
@pytest.mark.parametrize("noise", ["given", "drawn"])
def test_the_gradient_passes_on_the_bounds_only(device, noise, upstream):
    logvar = torch.tensor([-INF, -2.5, -2.0, 1.0, 2.0, 2.5, INF], device=device)
    for fn in (pyaegpu.reparameterize, lambda *a, **o: pyaegpu.reparameterize_kl(*a, **o)[0]):
        eps = torch.full_like(logvar, -0.5) if noise == "given" else None
        (_,), (grad,) = run(
            lambda v, fn=fn, eps=eps: fn(torch.zeros_like(v), v, eps=eps, clamp=(-2.0, 2.0)),
            (logvar,),
            upstream=[torch.full_like(logvar, upstream)],
        )
        assert not grad[[0, 1, 5, 6]].any()
        assert grad[2:5].all() and (math.isfinite(upstream) == grad[2:5].isfinite().all())


@pytest.mark.parametrize("form", ["logvar", "std"])
def test_nan_and_inf_propagate_as_in_stock(device, form):
    values = torch.tensor([0.0, 1.5, INF, -INF, NAN])
    inputs = tuple(t.reshape(-1).to(device) for t in torch.meshgrid(values, values, values, indexing="ij"))
    for clamp in (None, (-1.0, 1.0)) if form == "logvar" else (None,):
        options = {} if clamp is None else {"clamp": clamp}
        # The gradient at a NaN between bounds is NaN here and 0 in stock, which loses the NaN.
        kept = inputs if clamp is None else tuple(t[~inputs[1].isnan()] for t in inputs)
        compare(kept, form, **options)
        z = pyaegpu.reparameterize(inputs[0], **{form: inputs[1]}, eps=inputs[2], **options)
        expected = oracle.reparameterize(inputs[0], **{form: inputs[1]}, eps=inputs[2], **options)
        torch.testing.assert_close(z, expected, equal_nan=True)
        if form == "logvar":
            z = pyaegpu.reparameterize_kl(*inputs[:2], eps=inputs[2], **options)[0]
            torch.testing.assert_close(z, expected, equal_nan=True)


def test_one_tensor_in_every_place(device):
    for form in ("logvar", "std"):
        results = []
        for module, dtype in ((pyaegpu, torch.float32), (oracle, torch.float64)):
            x = torch.linspace(-1, 1, 6, dtype=dtype, device=device).requires_grad_()
            z = module.reparameterize(x, **{form: x}, eps=x)
            results.append(torch.autograd.grad(z.square().sum(), x)[0].double())
        torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", ["logvar", "std"])
def test_returned_noise_gives_the_sample_again(device, form, dtype):
    for shape in SHAPES:
        mu, spread = latents(shape, dtype, device)
        torch.manual_seed(1)
        z, eps = pyaegpu.reparameterize(mu, **{form: spread}, return_eps=True)
        assert eps.dtype == dtype and eps.shape == mu.shape and not eps.requires_grad
        assert torch.equal(pyaegpu.reparameterize(mu, **{form: spread}, eps=eps), z)
        torch.manual_seed(1)
        assert torch.equal(pyaegpu.reparameterize(mu, **{form: spread}), z)


def test_given_noise_is_returned(device):
    mu, logvar, eps = triple((3, 5), device=device)
    eps.requires_grad_()
    z, returned = pyaegpu.reparameterize(mu, logvar, eps=eps, return_eps=True)
    assert torch.equal(returned, eps)
    torch.testing.assert_close(torch.autograd.grad((z + returned).sum(), eps)[0], 1 + (0.5 * logvar).exp())


def test_without_training_the_mean_is_the_sample(device):
    for dtype in DTYPES:
        mu, logvar = latents((3, 5), dtype, device)
        for options in (
            {"logvar": logvar},
            {"std": logvar},
            {"logvar": logvar, "clamp": (-1, 1)},
            {"std": logvar, "eps": mu},
        ):
            assert torch.equal(pyaegpu.reparameterize(mu, **options, training=False), mu)
            z, eps = pyaegpu.reparameterize(mu, **options, training=False, return_eps=True)
            assert torch.equal(z, mu) and torch.equal(eps, torch.zeros_like(mu))
    mu.requires_grad_()
    (grad,) = torch.autograd.grad(pyaegpu.reparameterize(mu, logvar, training=False).sum(), mu)
    assert torch.equal(grad, torch.ones_like(mu))
    wide = pyaegpu.reparameterize(mu, logvar.double(), training=False)
    assert wide.dtype == torch.float64


def test_a_sample_may_be_changed_in_place(device):
    for fn in (
        pyaegpu.reparameterize,
        lambda m, v: pyaegpu.reparameterize(m, v, return_eps=True)[0],
        lambda m, v: pyaegpu.reparameterize_kl(m, v)[0],
        lambda m, v: pyaegpu.corrupt(m, "masking", 0.0),
    ):
        for shape in ((5,), (3, 5)):
            mu, logvar = (t.requires_grad_() for t in latents(shape, device=device))
            fn(mu, logvar).mul_(2.0).sum().backward()
            torch.testing.assert_close(mu.grad, torch.full_like(mu, 2.0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_sample_and_divergence(device, reduction, dtype):
    for shape in SHAPES:
        if reduction == "dim" and dtype == torch.float64 and shape == (70001, 1):
            continue  # Stock is the truth there, and a sum in another order rounds otherwise.
        (z, kl), _ = compare(triple(shape, dtype, device), reduction=reduction)
        assert z.dtype == dtype and kl.dtype == torch.promote_types(dtype, torch.float32)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_sample_and_divergence_are_those_of_the_functions(device, reduction):
    for shape in (*SHAPES, (0, 4), (4, 0), (0,)):
        mu, logvar = latents(shape, device=device)
        torch.manual_seed(2)
        z, kl = pyaegpu.reparameterize_kl(mu, logvar, reduction=reduction, clamp=(-1.0, 1.0))
        torch.manual_seed(2)
        torch.testing.assert_close(z, pyaegpu.reparameterize(mu, logvar, clamp=(-1.0, 1.0)), rtol=1e-6, atol=1e-6)
        expected = pyaegpu.gaussian_kl(mu, logvar, reduction=reduction, clamp=(-1.0, 1.0))
        torch.testing.assert_close(kl, expected, equal_nan=True, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 2e-15)], ids=str)
def test_divergence_without_cancellation(device, dtype, tolerance):
    sizes = torch.logspace(-8, 0, 100, dtype=torch.float64)
    logvar = torch.cat([sizes, -sizes]).to(device, dtype).requires_grad_()
    _, kl = pyaegpu.reparameterize_kl(torch.zeros_like(logvar), logvar, reduction="none")
    expected = pyaegpu.gaussian_kl(torch.zeros_like(logvar), logvar, reduction="none")
    torch.testing.assert_close(kl, expected, rtol=2 * tolerance, atol=0)
    slope = torch.autograd.grad(kl.sum(), logvar)[0].double()
    torch.testing.assert_close(slope, 0.5 * torch.expm1(logvar.detach().double()), rtol=tolerance, atol=0)


@pytest.mark.parametrize("noise", ["given", "drawn"])
@pytest.mark.parametrize("reduction", ["none", "sum", "sample", "dim"])
def test_what_is_not_used_contributes_nothing(device, reduction, noise):
    """Not even where its gradient would be infinite."""
    mu = torch.tensor([[INF, 1.0], [-INF, 2.0]], device=device)
    logvar = torch.tensor([[0.5, INF], [0.5, 0.5]], device=device)
    eps = torch.full_like(mu, 0.25) if noise == "given" else None
    for clamp in (None, (-1.0, 1.0)):

        def call(m, v, clamp=clamp):
            return pyaegpu.reparameterize_kl(m, v, eps=eps, clamp=clamp, reduction=reduction)

        (_,), (d_mu, d_logvar) = run(lambda *a, f=call: f(*a)[0], (mu, logvar), upstream=[torch.ones_like(mu)])
        assert torch.equal(d_mu, torch.ones_like(mu)) and d_logvar[1].isfinite().all()
        endless = None if eps is None else torch.full_like(mu, INF)
        _, (d_mu, d_logvar) = run(
            lambda m, v, c=clamp, e=endless: pyaegpu.reparameterize_kl(m, v, eps=e, clamp=c, reduction=reduction)[1],
            (torch.ones_like(mu), torch.zeros_like(mu)),
        )
        assert d_mu.isfinite().all() and not d_logvar.any()


def test_second_use_of_either_result(device):
    for index in (0, 1):
        mu, logvar, eps = triple((4, 6), device=device)
        check(
            lambda m, v, e, i=index: pyaegpu.reparameterize_kl(m, v, eps=e)[i].square(),
            lambda m, v, e, i=index: oracle.reparameterize_kl(m, v, eps=e)[i].square() + 0 * e.sum().to(m.dtype),
            (mu, logvar, eps),
            wanted=(0, 1) if index else None,
        )


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0,)], ids=str)
def test_empty(device, shape, nan_filled):
    mu, logvar = (torch.empty(shape, device=device, requires_grad=True) for _ in range(2))
    for fn in (pyaegpu.reparameterize, lambda m, v: pyaegpu.reparameterize_kl(m, v, reduction="sum")[0]):
        z = fn(mu, logvar)
        assert z.shape == shape
        assert all(g.shape == shape for g in torch.autograd.grad(z.sum(), (mu, logvar)))
    assert pyaegpu.reparameterize_kl(mu, logvar, reduction="sum")[1] == 0
    assert pyaegpu.reparameterize_kl(mu, logvar, reduction="sample")[1].shape == shape[:1] or shape == (0,)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_output_element_is_written(device, dtype, nan_filled):
    for shape in ((7, 33), (3, 40001)):
        mu, spread = latents(shape, dtype, device)
        for fn in (
            lambda m, s: pyaegpu.reparameterize(m, s, return_eps=True),
            lambda m, s: pyaegpu.reparameterize(m, std=s, return_eps=True),
            *(lambda m, s, r=r: pyaegpu.reparameterize_kl(m, s, reduction=r) for r in REDUCTIONS),
        ):
            values, grads = run(fn, (mu, spread))
            assert not any(t.isnan().any() for t in (*values, *grads))
