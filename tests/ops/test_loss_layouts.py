"""Memory layouts of the loss family's inputs: values, gradients and the layout of gradients."""

import oracle
import pytest
import torch
from layouts import DENSE, LAYOUTS, every_second, permuted, sliced
from oracle import check, images, latents, run

import pyaegpu

SHAPE = (6, 4, 10, 14)


@pytest.mark.parametrize("target_layout", ["contiguous", "channels_last", "sliced", "expanded_batch"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_reconstruction_loss(device, layout, target_layout):
    recon, target = images("bce", SHAPE, device=device)
    recon, target = LAYOUTS[layout](recon), LAYOUTS[target_layout](target)
    weight = LAYOUTS[layout](torch.rand(SHAPE, device=device) + 0.5)
    for reduction in ("none", "sum", "sample"):
        for w in (None, weight):
            _, (grad,) = check(
                lambda x, r=reduction, w=w: pyaegpu.reconstruction_loss(x, target.to(x.dtype), reduction=r, weight=w),
                lambda x, r=reduction, w=w: oracle.reconstruction(
                    x, target.to(x.dtype), "bce", reduction=r, weight=w if w is None else w.to(x.dtype)
                ),
                (recon,),
            )
            # With "sample" a kernel may copy what does not keep a sample together.
            if layout in DENSE and (reduction != "sample" or layout in ("contiguous", "channels_last", "offset")):
                assert grad.stride() == recon.stride()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reduction", ["none", "sum", "sample"])
def test_gradient_and_value_keep_channels_last(kernel_device, reduction, dtype):
    for shape, memory_format in ((SHAPE, torch.channels_last), ((2, 3, 4, 5, 6), torch.channels_last_3d)):
        recon, target = (t.to(memory_format=memory_format) for t in images("mse", shape, dtype, kernel_device))
        (value,), (grad,) = run(
            lambda x, t=target: pyaegpu.reconstruction_loss(x, t, "mse", reduction=reduction), (recon,)
        )
        assert grad.is_contiguous(memory_format=memory_format)
        assert reduction != "none" or value.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("reduction", ["sum", "sample"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_vae_loss(device, layout, reduction):
    recon, target = (LAYOUTS[layout](t) for t in images("bce_logits", SHAPE, device=device))
    mu, logvar = latents((6, 10), device=device)
    options = {"kind": "bce_logits", "recon_reduction": reduction, "kl_reduction": reduction}
    weight = torch.rand(4, 1, 1, device=device)
    _, grads = check(
        lambda x, m, v: pyaegpu.vae_loss(x, target, m, v, weight=weight, return_parts=True, **options),
        lambda x, m, v: oracle.vae(x, target.to(x.dtype), m, v, weight=weight.to(x.dtype), **options),
        (recon, mu, logvar),
    )
    if layout in ("contiguous", "channels_last", "offset"):
        assert grads[0].stride() == recon.stride()


def latent_layouts(device):
    """Pairs of a mean and a log variance as encoders produce them."""
    mu, logvar = latents((6, 10), device=device)
    both = torch.cat([mu, logvar], 1)
    yield "halves", both.chunk(2, 1)
    yield "slices", (sliced(mu), sliced(logvar))
    yield "every_second", (every_second(mu), logvar)
    yield "transposed", (mu.t().contiguous().t(), logvar.t().contiguous().t())
    yield "mixed", (mu.t().contiguous().t(), logvar)
    yield "expanded_batch", (mu[:1].expand(6, 10), logvar)
    yield "expanded_latent", (mu[:, :1].expand(6, 10), logvar[:, 3:4].expand(6, 10))
    yield "every_second_sample", (torch.cat([mu, mu])[::2], torch.cat([logvar, logvar])[::2])
    yield "one_column", (both[:, 3:4], both[:, 4:5])
    yield "column_vectors", (both[:, 3], both[:, 4])
    images_, _ = latents((6, 10, 4, 4), device=device)
    yield "channels_last", images_.to(memory_format=torch.channels_last).chunk(2, 1)
    yield "feature_maps", images_.chunk(2, 1)


@pytest.mark.parametrize("reduction", ["none", "sum", "sample", "dim"])
def test_gaussian_kl(device, reduction):
    for name, (mu, logvar) in latent_layouts(device):
        for clamp in (None, (-0.5, 0.5)):
            _, grads = check(
                lambda m, v, c=clamp: pyaegpu.gaussian_kl(m, v, reduction=reduction, clamp=c),
                lambda m, v, c=clamp: oracle.kl(m, v, reduction=reduction, clamp=c),
                (mu, logvar),
            )
            assert grads[0].shape == mu.shape, name


@pytest.mark.parametrize("reduction", ["none", "sample", "dim"])
def test_gaussian_kl_against_another_in_any_layout(device, reduction):
    for _, pair in latent_layouts(device):
        other = tuple(t.flip(0) for t in pair)
        for mu2, logvar2 in (other, pair, tuple(t[:1] for t in other)):
            check(
                lambda m, v, m2, v2: pyaegpu.gaussian_kl(m, v, other=(m2, v2), reduction=reduction),
                lambda m, v, m2, v2: oracle.kl(m, v, other=(m2, v2), reduction=reduction),
                (*pair, mu2, logvar2),
            )


def test_gaussian_kl_over_dims_of_a_permuted_tensor(device):
    mu, logvar = (permuted(t) for t in latents((4, 3, 5), device=device))
    for dims in (0, (0, 2), (1, 2)):
        check(
            lambda m, v, d=dims: pyaegpu.gaussian_kl(m, v, reduction="sample", dims=d),
            lambda m, v, d=dims: oracle.kl(m, v, dims=d),
            (mu, logvar),
        )


@pytest.mark.parametrize("reduction", ["none", "sum", "sample"])
def test_upstream_gradients_of_any_layout(device, reduction):
    recon, target = images("mse", SHAPE, device=device)
    shape = {"none": SHAPE, "sum": (), "sample": (6,)}[reduction]
    expanded = torch.full((), 1.5, device=device).expand(shape)
    strided = torch.randn((*shape, 2), device=device)[..., 0]
    for upstream in (expanded, strided):
        check(
            lambda x: pyaegpu.reconstruction_loss(x, target.to(x.dtype), "mse", reduction=reduction),
            lambda x: oracle.reconstruction(x, target.to(x.dtype), "mse", reduction=reduction),
            (recon,),
            upstream=[upstream],
        )


def test_upstream_gradients_of_the_kl_of_any_layout(device):
    pair = latents((6, 10), device=device)
    for reduction, shape in (("none", (6, 10)), ("sample", (6,)), ("dim", (10,))):
        for upstream in (
            torch.full((), 1.5, device=device).expand(shape),
            torch.randn((*shape, 2), device=device)[..., 0],
        ):
            check(
                lambda m, v, r=reduction: pyaegpu.gaussian_kl(m, v, reduction=r),
                lambda m, v, r=reduction: oracle.kl(m, v, reduction=r),
                pair,
                upstream=[upstream],
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_every_output_element_is_written(device, dtype, nan_filled):
    recon, target = images("mse", (7, 3, 11, 5), dtype, device)
    mu, logvar = latents((7, 13), dtype, device)
    for layout in ("contiguous", "channels_last", "sliced", "transposed_batch"):
        x = LAYOUTS[layout](recon)
        for reduction in ("none", "sum", "mean", "batchmean", "sample"):
            for kind in oracle.KINDS:
                y = x.clamp(0, 1) if kind == "bce" else x
                results, grads = run(
                    lambda x, k=kind, r=reduction: pyaegpu.reconstruction_loss(x, target, k, reduction=r), (y,)
                )
                assert not any(t.isnan().any() for t in (*results, *grads))
        results, grads = run(
            lambda x, m, v: pyaegpu.vae_loss(x, target, m, v, kind="mse", return_parts=True), (x, mu, logvar)
        )
        assert not any(t.isnan().any() for t in (*results, *grads))
    for reduction in ("none", "sum", "mean", "batchmean", "sample", "dim"):
        for form in ("logvar", "std", "var"):
            spread = logvar if form == "logvar" else logvar.exp()
            results, grads = run(
                lambda m, s, m2, v2, f=form, r=reduction: pyaegpu.gaussian_kl(m, **{f: s}, other=(m2, v2), reduction=r),
                (mu, spread, mu.flip(0), logvar),
            )
            assert not any(t.isnan().any() for t in (*results, *grads))


@pytest.mark.parametrize("shape", [(0, 4), (0, 3, 5)], ids=str)
def test_an_empty_batch_writes_its_outputs(device, shape, nan_filled):
    mu, logvar = (torch.zeros(shape, device=device) for _ in range(2))
    assert pyaegpu.gaussian_kl(mu, logvar, reduction="sum") == 0
    assert pyaegpu.vae_loss(mu, logvar, mu, logvar, kind="mse") == 0
    assert pyaegpu.gaussian_kl(mu, logvar, reduction="dim").isnan().all()


def test_elementwise_kl_keeps_the_memory_format():
    mu, logvar = (torch.randn(3, 5, 4, 2).to(memory_format=torch.channels_last).requires_grad_() for _ in range(2))
    value = pyaegpu.gaussian_kl(mu, logvar, reduction="none")
    assert value.stride() == mu.stride()
    torch.testing.assert_close(value, 0.5 * (mu**2 + logvar.exp() - 1 - logvar), atol=1e-5, rtol=1e-5)
    for grad in torch.autograd.grad(value.sum(), (mu, logvar)):
        assert grad.stride() == mu.stride()
