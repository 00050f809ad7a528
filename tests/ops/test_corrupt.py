"""Values and gradients of corrupt; tests/ops/test_sampling_noise.py has its noise."""

import oracle
import pytest
import torch
from oracle import DTYPES, latents, run
from torch.autograd import gradcheck, gradgradcheck

import pyaegpu

KINDS = ("gaussian", "masking", "salt_and_pepper")
SHAPES = [(), (1,), (7,), (3, 5), (70001, 1), (3, 40001), (4, 3, 5, 2), (0, 4)]


def seeded(x, kind, amount=0.5, **options):
    torch.manual_seed(4)
    return pyaegpu.corrupt(x, kind, amount, **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gaussian_adds_noise(device, shape, dtype, nan_filled):
    x = latents(shape, dtype, device)[0]
    noise = seeded(torch.zeros_like(x), "gaussian", 1.0)
    for amount in (0.0, 0.3, 2.5):
        (value,), (grad,) = run(lambda x, a=amount: seeded(x, "gaussian", a), (x,), upstream=[noise])
        stock, truth = x + amount * noise, x.double() + amount * noise.double()
        assert value.dtype == dtype
        oracle.assert_accurate(value, stock, truth)
        assert torch.equal(grad, noise)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_replaced_and_kept(device, shape, dtype, nan_filled):
    x = latents(shape, dtype, device)[0]
    upstream = latents(shape, dtype, device, seed=9)[0]
    hit = seeded(torch.ones_like(x), "masking") == 0
    salt = seeded(torch.full_like(x, 0.5), "salt_and_pepper") == 1
    (value,), (grad,) = run(lambda x: seeded(x, "masking"), (x,), upstream=[upstream])
    assert torch.equal(value, x.masked_fill(hit, 0.0))
    assert torch.equal(grad, upstream.masked_fill(hit, 0.0))
    (value,), (grad,) = run(lambda x: seeded(x, "salt_and_pepper", low=-0.25, high=7.0), (x,), upstream=[upstream])
    assert torch.equal(value, x.masked_fill(hit, -0.25).masked_fill(salt, 7.0))
    assert torch.equal(grad, upstream.masked_fill(hit, 0.0))
    assert value.dtype == grad.dtype == dtype
    if x.numel() > 1000:
        assert 0.4 < hit.double().mean() < 0.6 and 0.4 < salt.sum() / hit.sum() < 0.6


@pytest.mark.parametrize("kind", KINDS)
def test_amounts_at_the_ends(device, kind):
    x = latents((3, 1031), device=device)[0].requires_grad_()
    nothing = seeded(x, kind, 0.0)
    assert torch.equal(nothing, x) and nothing.data_ptr() != x.data_ptr()
    assert torch.equal(seeded(x, kind, 0), x)
    if kind != "gaussian":
        everything = seeded(x, kind, 1.0, low=2.0, high=3.0)
        expected = {0.0} if kind == "masking" else {2.0, 3.0}
        assert set(everything.unique().tolist()) == expected
        assert not torch.autograd.grad(everything.sum(), x)[0].any()


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_replaced_element_keeps_nothing_of_nan_and_inf(device, kind):
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0] * 16, device=device)
    upstream = torch.tensor([float("inf"), float("nan"), 1.0, -float("inf")] * 16, device=device)
    hit = seeded(torch.full_like(x, 0.5), kind) != 0.5
    (value,), (grad,) = run(lambda x: seeded(x, kind), (x,), upstream=[upstream])
    assert value[hit].isfinite().all() and not grad[hit].any()
    torch.testing.assert_close(value[~hit], x[~hit], equal_nan=True)
    torch.testing.assert_close(grad[~hit], upstream[~hit], equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives(device, kind):
    x = latents((4, 5), torch.float64, device)[0].requires_grad_()
    assert gradcheck(lambda x: seeded(x, kind), x, check_batched_grad=True)
    assert gradgradcheck(lambda x: seeded(x.square(), kind), x, check_batched_grad=True)


@pytest.mark.parametrize("kind", KINDS)
def test_backward_draws_the_same_mask_each_time(device, kind):
    x = latents((3, 1031), device=device)[0].requires_grad_()
    value = seeded(x * 1.0, kind)
    kept = torch.ones_like(x) if kind == "gaussian" else (value == x).to(x.dtype)
    torch.manual_seed(5)
    pyaegpu.corrupt(x, kind, 0.5)
    for options in ({"retain_graph": True}, {"create_graph": True}, {}):
        assert torch.equal(torch.autograd.grad(value.sum(), x, **options)[0], kept)
