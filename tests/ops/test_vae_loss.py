"""Values and gradients of vae_loss."""

import itertools

import oracle
import pytest
import torch
from oracle import DTYPES, KINDS, check, images, latents, run

import pyaegpu

SUMS = ("sum", "mean", "batchmean")


def compare(inputs, beta=None, **options):
    """The three results and the gradients at recon, mu, logvar and, where ``beta`` is a tensor, at beta."""
    recon, target, mu, logvar = inputs
    kept = {k: options.pop(k) for k in ("weight",) if options.get(k) is not None}

    def ours(x, m, v, b=1.0):
        return pyaegpu.vae_loss(x, target.to(x.dtype), m, v, beta=b, return_parts=True, **options, **kept)

    def stock(x, m, v, b=1.0):
        # As a careful user of half precision writes it: the parts are summed in float32.
        dtype = torch.promote_types(x.dtype, torch.float32)
        given = {k: w.to(dtype) for k, w in kept.items()}
        x, t, m, v = (a.to(dtype) for a in (x, target, m, v))
        return oracle.vae(x, t, m, v, beta=b, **options, **given)

    return check(ours, stock, (recon, mu, logvar) if beta is None else (recon, mu, logvar, beta))


def batch(kind, dtype=torch.float32, device="cpu", shape=(5, 3, 7, 2), latent=11):
    return (*images(kind, shape, dtype, device), *latents((shape[0], latent), dtype, device))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients(device, kind, dtype):
    inputs = batch(kind, dtype, device)
    for reductions in [*itertools.product(SUMS, SUMS), ("sample", "sample")]:
        results, _ = compare(inputs, kind=kind, recon_reduction=reductions[0], kl_reduction=reductions[1])
        accumulator = torch.float64 if dtype == torch.float64 else torch.float32
        assert all(r.dtype == accumulator for r in results)


@pytest.mark.parametrize("weight", [(3, 1, 1), (5, 1, 1, 1), (5, 3, 7, 2)], ids=str)
@pytest.mark.parametrize("kind", ["bce", "mse", "l1"])
def test_weight_scale_and_clamp(device, kind, weight):
    weight = (torch.rand(weight, generator=torch.Generator().manual_seed(3)) + 0.5).to(device)
    for reduction in (*SUMS, "sample"):
        options = {"kl_reduction": reduction if reduction == "sample" else "sum", "recon_reduction": reduction}
        compare(batch(kind, device=device), kind=kind, weight=weight, clamp=(-0.5, 0.5), recon_scale=0.3, **options)


@pytest.mark.parametrize("reduction", SUMS)
def test_free_bits(device, reduction):
    inputs = batch("mse", device=device)
    least = oracle.kl_terms(*inputs[2:]).mean(0).median().item() * 1.001
    beta = torch.tensor(0.7, device=device)
    compare(inputs, beta, kind="mse", recon_reduction="mean", kl_reduction=reduction, free_bits=least)


@pytest.mark.parametrize(
    "options", [{}, {"kl_reduction": "mean"}, {"recon_reduction": "sample", "kl_reduction": "sample"}]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_tensor_beta_and_its_gradient(device, dtype, options):
    beta = torch.tensor(2.5, device=device)
    _, grads = compare(batch("bce_logits", dtype, device), beta, kind="bce_logits", **options)
    assert grads[3].shape == ()


def test_beta_weighs_the_kl_part_only(device):
    recon, target, mu, logvar = batch("mse", device=device)
    for beta in (0.0, 4, -1.5, torch.tensor(4.0), torch.tensor(0.5, dtype=torch.float64)):
        loss, part, kl = pyaegpu.vae_loss(recon, target, mu, logvar, kind="mse", beta=beta, return_parts=True)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, part + float(beta) * kl)
        torch.testing.assert_close(pyaegpu.vae_loss(recon, target, mu, logvar, kind="mse", beta=beta), loss)


def test_parts_are_those_of_the_single_functions(device):
    recon, target, mu, logvar = batch("bce", device=device)
    _, part, kl = pyaegpu.vae_loss(
        recon, target, mu, logvar, recon_reduction="mean", kl_reduction="batchmean", recon_scale=2.0, return_parts=True
    )
    torch.testing.assert_close(part, pyaegpu.reconstruction_loss(recon, target, reduction="mean", scale=2.0))
    torch.testing.assert_close(kl, pyaegpu.gaussian_kl(mu, logvar))


@pytest.mark.parametrize("reduction", ["sum", "sample"])
@pytest.mark.parametrize("used", [(0,), (1,), (2,), (1, 2), (0, 2), (0, 1), (0, 1, 2)], ids=str)
def test_gradients_through_the_parts(device, used, reduction):
    recon, target, mu, logvar = batch("bce_logits", device=device)
    options = {"kind": "bce_logits", "recon_reduction": reduction, "kl_reduction": reduction}
    beta = torch.tensor(0.5, device=device)

    def gradients(fn, dtype, **more):
        leaves = [t.detach().to(dtype).requires_grad_() for t in (recon, mu, logvar, beta)]
        x, m, v, b = leaves
        outputs = fn(x, target.to(dtype), m, v, beta=b, **options, **more)
        weights = [torch.linspace(0.5, 2.0, outputs[i].numel(), device=device, dtype=dtype) for i in used]
        scalar = sum((i + 2) * (outputs[i].reshape(-1) * w).sum() for i, w in zip(used, weights, strict=True))
        grads = torch.autograd.grad(scalar, leaves, allow_unused=True)
        return [torch.zeros_like(t) if g is None else g for g, t in zip(grads, leaves, strict=True)]

    ours = gradients(pyaegpu.vae_loss, torch.float32, return_parts=True)
    stock, truth = (gradients(oracle.vae, dtype) for dtype in (torch.float32, torch.float64))
    for name, *columns in zip(("recon", "mu", "logvar", "beta"), ours, stock, truth, strict=True):
        oracle.assert_accurate(*columns, name)


def test_gradients_of_target_and_weight(device):
    recon, target, mu, logvar = batch("mse", device=device)
    weight = torch.rand(3, 1, 1, device=device) + 0.5
    for reduction in (*SUMS, "sample"):
        options = {
            "kind": "mse",
            "recon_reduction": reduction,
            "kl_reduction": "sample" if reduction == "sample" else "sum",
        }
        check(
            lambda x, t, m, v, w, o=options: pyaegpu.vae_loss(x, t, m, v, weight=w, return_parts=True, **o),
            lambda x, t, m, v, w, o=options: oracle.vae(x, t, m, v, weight=w, **o),
            (recon, target, mu, logvar, weight),
        )


@pytest.mark.parametrize("reduction", [*SUMS, "sample"])
@pytest.mark.parametrize("latent", [(), (11,)], ids=str)
@pytest.mark.parametrize("shape", [(), (13,), (3, 7, 2)], ids=str)
def test_one_sample_without_a_batch_dimension(device, shape, latent, reduction):
    recon, target = images("bce", shape, device=device)
    mu, logvar = latents(latent, device=device)
    compare((recon, target, mu, logvar), recon_reduction=reduction, kl_reduction=reduction)
    if shape == (3, 7, 2):
        weight = torch.rand(3, 1, 1, device=device) + 0.5
        compare((recon, target, mu, logvar), weight=weight, recon_reduction=reduction, kl_reduction=reduction)
    if reduction != "sample":
        options = {"free_bits": 0.5, "recon_reduction": reduction, "kl_reduction": reduction}
        compare((recon, target, mu, logvar), kind="mse", **options)


@pytest.mark.parametrize(
    "shape, latent", [((1, 1), 1), ((1, 70001), 3), ((3, 40000), 5), ((31, 17, 13), 37), ((513, 2), 129)], ids=str
)
def test_shapes(device, shape, latent):
    inputs = batch("bce_logits", device=device, shape=shape, latent=latent)
    for reduction in ("sum", "mean", "sample"):
        compare(inputs, kind="bce_logits", recon_reduction=reduction, kl_reduction=reduction)


def test_latents_of_any_rank(device):
    recon, target = images("mse", (6, 10), device=device)
    for shape in ((6, 3, 5), (6, 2, 2, 2)):
        mu, logvar = latents(shape, device=device)
        for reduction in ("batchmean", "sample"):
            compare((recon, target, mu, logvar), kind="mse", recon_reduction=reduction, kl_reduction=reduction)


@pytest.mark.parametrize("shapes", [((0, 3, 4), (0, 5)), ((4, 0), (4, 5)), ((4, 3), (4, 0))], ids=str)
@pytest.mark.parametrize("reduction", [*SUMS, "sample"])
def test_empty(device, shapes, reduction):
    recon = torch.full(shapes[0], 0.5, device=device, requires_grad=True)
    mu, logvar = (torch.zeros(shapes[1], device=device, requires_grad=True) for _ in range(2))
    options = {"recon_reduction": reduction, "kl_reduction": reduction}
    results = pyaegpu.vae_loss(recon, recon.detach(), mu, logvar, return_parts=True, **options)
    part = oracle.reconstruction(recon, recon.detach(), "bce", reduction=reduction)
    kl = oracle.kl(mu, logvar, reduction=reduction)
    if reduction == "batchmean":
        nothing = float("nan") if shapes[0][0] == 0 else 0.0
        part = part if part.numel() and shapes[0][1] else torch.tensor(nothing, device=device)
        kl = kl if shapes[1][0] else torch.tensor(nothing, device=device)
    for ours, expected in zip(results, (part + kl, part, kl), strict=True):
        torch.testing.assert_close(ours, expected, equal_nan=True)
    results[0].sum().backward()
    assert recon.grad.shape == shapes[0] and mu.grad.shape == shapes[1]


def test_half_precision_of_a_thousand_images_is_finite(device):
    recon = torch.full((1024, 3, 64, 64), 100.0, dtype=torch.float16, device=device, requires_grad=True)
    target = torch.zeros((), dtype=torch.float16, device=device).expand(recon.shape)
    mu, logvar = (torch.zeros(1024, 20, dtype=torch.float16, device=device) for _ in range(2))
    loss = pyaegpu.vae_loss(recon, target, mu, logvar, kind="mse")
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1024 * 3 * 64 * 64 * 1e4, rel=1e-6)
    loss.backward()
    assert (recon.grad == 200).all()


@pytest.mark.parametrize(
    "recon_dtype, latent_dtype", [(torch.float16, torch.float32), (torch.float32, torch.bfloat16)], ids=str
)
def test_parts_of_different_dtypes(device, recon_dtype, latent_dtype):
    recon, target = images("mse", (4, 9), recon_dtype, device)
    mu, logvar = latents((4, 3), latent_dtype, device)
    (loss, *_), grads = run(
        lambda x, m, v: pyaegpu.vae_loss(x, target, m, v, kind="mse", return_parts=True), (recon, mu, logvar)
    )
    assert loss.dtype == torch.float32
    assert [g.dtype for g in grads] == [recon_dtype, latent_dtype, latent_dtype]
    expected = oracle.vae(*(t.double() for t in (recon, target, mu, logvar)), kind="mse")[0]
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)


def test_half_precision_mean_gradient_does_not_underflow(device):
    recon, target = images("mse", (2048, 64), torch.float16, device)
    mu, logvar = latents((2048, 4), torch.float16, device)
    recon.requires_grad_()
    # As a GradScaler does: the loss is scaled up before the gradients are formed.
    (pyaegpu.vae_loss(recon, target, mu, logvar, kind="mse", recon_reduction="mean") * 65536.0).backward()
    expected = 2 * (recon.detach().double() - target.double()) * 65536.0 / recon.numel()
    torch.testing.assert_close(recon.grad.double(), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"free_bits": 1e-9}, {"kind": "mse", "weight": torch.ones(6)}], ids=str)
def test_one_value_for_each_sample(device, options):
    """The latents say that dim 0 of a 1-D reconstruction is the batch."""
    recon, target = images("bce", (6,), device=device)
    mu, logvar = latents((6, 3), device=device)
    weight = options.get("weight")
    options = options if weight is None else options | {"weight": weight.to(device)}
    _, part, _ = pyaegpu.vae_loss(recon, target, mu, logvar, recon_reduction="batchmean", return_parts=True, **options)
    column = oracle.vae(recon[:, None], target[:, None], mu, logvar, kind=options.get("kind", "bce"))[1]
    torch.testing.assert_close(part, column / 6)


def test_an_unused_part_sends_no_nan(device):
    """Stock's other part is not in the graph at all."""
    recon, target, mu, logvar = batch("mse", device=device)
    recon, mu, logvar = (t.requires_grad_() for t in (recon, mu, logvar))
    infinite = torch.full_like(logvar, float("inf")).requires_grad_()
    part = pyaegpu.vae_loss(recon, target, mu, infinite, kind="mse", return_parts=True)[1]
    for grad in torch.autograd.grad(part, (mu, infinite), allow_unused=True):
        assert grad is None or not grad.any()
    infinite = torch.full_like(recon, float("inf")).requires_grad_()
    kl = pyaegpu.vae_loss(infinite, target, mu, logvar, kind="mse", return_parts=True)[2]
    (grad,) = torch.autograd.grad(kl, infinite, allow_unused=True)
    assert grad is None or not grad.any()


@pytest.mark.parametrize("reduction", ["sum", "sample"])
def test_results_may_be_changed_in_place(device, reduction):
    """As programs do that log a part per sample: no result is needed for the backward."""
    recon, target, mu, logvar = batch("mse", device=device)
    options = {"kind": "mse", "recon_reduction": reduction, "kl_reduction": reduction}
    grads = []
    for change in (False, True):
        x = recon.clone().requires_grad_()
        results = pyaegpu.vae_loss(x, target, mu, logvar.clone().requires_grad_(), return_parts=True, **options)
        if change:
            results[1].div_(5), results[2].div_(5)
        grads.append(torch.autograd.grad(results[0].sum(), x)[0])
    assert torch.equal(*grads)
