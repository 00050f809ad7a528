"""Sparsity and contractive penalties."""

import math

import oracle
import pytest
import torch
from oracle import DTYPES, check, run
from torch import func
from torch.autograd import gradcheck, gradgradcheck

import pyaegpu

KINDS = ("l1", "kl", "squared")
SHAPES = [(), (1,), (7,), (1, 5), (9, 5), (4, 3, 5), (129, 67)]


def codes(shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    code = 0.02 + 0.9 * torch.rand(shape, generator=generator)
    return code.to(dtype)


def textbook_sparsity(code, kind="l1", *, target=0.05, reduction="mean"):
    if kind == "l1":
        values = code.abs()
    else:
        q = code.mean(0) if code.dim() > 1 else code
        values = (target - q) ** 2
        if kind == "kl":
            values = target * torch.log(target / q) + (1 - target) * torch.log((1 - target) / (1 - q))
    return getattr(values, reduction)()


def textbook_contraction(hidden, weight, *, reduction="mean"):
    """By the Jacobian itself."""
    slope = hidden * (1 - hidden)
    jacobian = slope[..., :, None] * weight
    values = jacobian.square().sum((-2, -1))
    return getattr(values, reduction)()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sparsity(kind, reduction, dtype):
    for shape in SHAPES:
        code = codes(shape, dtype)
        sign = torch.ones_like(code) if kind == "kl" else torch.where(code > 0.5, -1, 1).to(dtype)
        for target in (0.05, 0.3):
            options = {"target": target, "reduction": reduction}
            (value,), _ = check(
                lambda h, o=options: pyaegpu.sparsity_penalty(h, kind, **o),
                lambda h, o=options: textbook_sparsity(h, kind, **o),
                (code * sign,),
            )
            assert value.shape == () and value.dtype == dtype


def test_sparsity_by_hand():
    code = torch.tensor([[0.5, -1.0], [0.0, 0.5]])
    assert pyaegpu.sparsity_penalty(code) == 0.5
    assert pyaegpu.sparsity_penalty(code, reduction="sum") == 2.0
    assert pyaegpu.sparsity_penalty(code, "squared", target=0.25, reduction="sum") == 0.25
    value = pyaegpu.sparsity_penalty(torch.full((3, 2), 0.5), "kl", target=0.5)
    assert value == 0
    expected = 0.05 * math.log(0.05 / 0.5) + 0.95 * math.log(0.95 / 0.5)
    assert pyaegpu.sparsity_penalty(torch.full((3, 2), 0.5), "kl").item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_of_sparsity(kind):
    code = codes((4, 3), torch.float64).requires_grad_()
    assert gradcheck(lambda h: pyaegpu.sparsity_penalty(h, kind), code, check_batched_grad=True)
    assert gradgradcheck(lambda h: pyaegpu.sparsity_penalty(h.square(), kind), code, check_batched_grad=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dead_and_saturated_units_are_finite(dtype):
    code = torch.tensor([[0.0, 1.0, 0.5], [0.0, 1.0, 0.25]], dtype=dtype)
    (value,), (grad,) = run(lambda h: pyaegpu.sparsity_penalty(h, "kl", reduction="sum"), (code,))
    assert value.isfinite() and value > 1 and grad.isfinite().all()


@pytest.mark.parametrize("outside", [-0.25, 1.25, float("nan")])
def test_an_activation_outside_the_unit_interval_is_nan(outside):
    code = torch.tensor([[0.3, outside], [0.3, outside]])
    assert pyaegpu.sparsity_penalty(code, "kl").isnan()
    assert pyaegpu.sparsity_penalty(code[:, :1], "kl").isfinite()
    assert pyaegpu.sparsity_penalty(torch.tensor([[-0.5], [1.0]]), "kl").isfinite()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_contraction(dtype, reduction):
    for shape in [s for s in SHAPES if s]:
        hidden = codes(shape, dtype)
        weight = (codes((shape[-1], 11), dtype, seed=1) - 0.5).to(dtype)
        (value,), _ = check(
            lambda h, w: pyaegpu.contractive_penalty(h, w, reduction=reduction),
            lambda h, w: textbook_contraction(h, w, reduction=reduction),
            (hidden, weight),
        )
        assert value.shape == () and value.dtype == dtype


def test_contraction_is_the_norm_of_the_layers_jacobian():
    layer = torch.nn.Linear(6, 4).double()
    x = torch.rand(5, 6, dtype=torch.float64)
    jacobian = func.vmap(func.jacrev(lambda x: torch.sigmoid(layer(x))))(x)
    expected = jacobian.square().sum((1, 2))
    hidden = torch.sigmoid(layer(x))
    torch.testing.assert_close(pyaegpu.contractive_penalty(hidden, layer.weight), expected.mean())
    torch.testing.assert_close(pyaegpu.contractive_penalty(hidden, layer.weight, reduction="sum"), expected.sum())


def test_derivatives_of_contraction():
    leaves = [codes((4, 3), torch.float64).requires_grad_(), codes((3, 2), torch.float64, 1).requires_grad_()]
    assert gradcheck(pyaegpu.contractive_penalty, leaves, check_batched_grad=True)
    assert gradgradcheck(pyaegpu.contractive_penalty, leaves, check_batched_grad=True)


def test_layouts():
    code, weight = codes((9, 10)), codes((10, 4), seed=1)
    for h in (code.t().contiguous().t(), torch.cat([code, code], 1)[:, :10], code[:1].expand(9, 10)):
        for kind in KINDS:
            check(lambda h, k=kind: pyaegpu.sparsity_penalty(h, k), lambda h, k=kind: textbook_sparsity(h, k), (h,))
        check(pyaegpu.contractive_penalty, textbook_contraction, (h, weight.t().contiguous().t()))


def test_empty_batches_are_as_in_stock():
    empty, weight = torch.empty(0, 4), torch.ones(4, 3)
    for kind in KINDS:
        for reduction in ("mean", "sum"):
            ours = pyaegpu.sparsity_penalty(empty, kind, reduction=reduction)
            torch.testing.assert_close(ours, textbook_sparsity(empty, kind, reduction=reduction), equal_nan=True)
    assert pyaegpu.contractive_penalty(empty, weight).isnan()
    assert pyaegpu.contractive_penalty(empty, weight, reduction="sum") == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_under_autocast_are_stocks(dtype):
    code, weight = codes((4, 3), dtype), codes((3, 2), dtype, 1)
    with torch.autocast("cpu", torch.bfloat16):
        for kind in KINDS:
            assert pyaegpu.sparsity_penalty(code, kind).dtype == textbook_sparsity(code, kind).dtype
        assert pyaegpu.contractive_penalty(code, weight).dtype == textbook_contraction(code, weight).dtype
        mixed = pyaegpu.contractive_penalty(code.bfloat16(), weight)
        assert mixed.dtype == torch.promote_types(torch.bfloat16, dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_compiled(kind):
    code = codes((4, 3))
    fn = torch.compile(lambda h: pyaegpu.sparsity_penalty(h, kind), fullgraph=True, backend="aot_eager")
    ours, eager = (run(f, (code,)) for f in (fn, lambda h: pyaegpu.sparsity_penalty(h, kind)))
    torch.testing.assert_close(ours, eager)
    fn = torch.compile(pyaegpu.contractive_penalty, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(fn(code, code.t()), oracle.as_tuple(pyaegpu.contractive_penalty(code, code.t()))[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_quiet_units_in_half_precision(dtype):
    """Their activity is far below what the dtype tells from 0 beside 1, and they are the ones to be woken."""
    code = torch.full((8, 3), 0.002, dtype=dtype, requires_grad=True)
    value = pyaegpu.sparsity_penalty(code, "kl", reduction="sum")
    value.backward()
    wide = code.detach().float().requires_grad_()
    expected = pyaegpu.sparsity_penalty(wide, "kl", reduction="sum")
    expected.backward()
    assert value.dtype == dtype
    torch.testing.assert_close(value.float(), expected.detach(), rtol=1e-2, atol=0)
    torch.testing.assert_close(code.grad.float(), wide.grad, rtol=1e-2, atol=0)
