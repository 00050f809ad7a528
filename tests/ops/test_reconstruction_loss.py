"""Values and gradients of reconstruction_loss."""

import itertools

import oracle
import pytest
import torch
import torch.nn.functional as F
from oracle import DTYPES, KINDS, check, images

import pyaegpu

REDUCTIONS = ("none", "sum", "mean", "batchmean", "sample")
WEIGHTS = {"none": None, "channel": (3, 1, 1), "sample": (5, 1, 1, 1), "pixel": (1, 1, 7, 2), "full": (5, 3, 7, 2)}


def compare(recon, target, kind, wanted=(0,), **options):
    return check(
        lambda x, t: pyaegpu.reconstruction_loss(x, t, kind, **options),
        lambda x, t: oracle.reconstruction(x, t, kind, **cast(options, x)),
        (recon, target),
        wanted,
    )


def cast(options, like):
    weight = options.get("weight")
    return options if weight is None else options | {"weight": weight.to(like.dtype)}


def weight_of(name, dtype, device, seed=3):
    shape = WEIGHTS[name]
    if shape is None:
        return None
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator) + 0.5).to(device, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients(device, kind, dtype):
    recon, target = images(kind, (5, 3, 7, 2), dtype, device)
    for reduction, weight in itertools.product(REDUCTIONS, WEIGHTS):
        options = {"reduction": reduction, "weight": weight_of(weight, dtype, device)}
        (value,), _ = compare(recon, target, kind, **options)
        assert value.dtype == dtype


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_target_and_weight(device, kind):
    recon, target = images(kind, (5, 3, 7, 2), device=device)
    for name in ("channel", "full"):
        weight = weight_of(name, torch.float32, device)
        for reduction in REDUCTIONS:
            check(
                lambda x, t, w, r=reduction: pyaegpu.reconstruction_loss(x, t, kind, reduction=r, weight=w),
                lambda x, t, w, r=reduction: oracle.reconstruction(x, t, kind, reduction=r, weight=w),
                (recon, target, weight),
            )


@pytest.mark.parametrize(
    "shape", [(), (1,), (7,), (70001,), (3, 40000), (1, 1), (2, 513), (17, 31, 3), (513, 1)], ids=str
)
@pytest.mark.parametrize("kind", ["bce_logits", "smooth_l1"])
def test_shapes(device, kind, shape):
    recon, target = images(kind, shape, device=device)
    for reduction in REDUCTIONS:
        compare(recon, target, kind, reduction=reduction)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_more_than_one_block_of_half_precision_rows(kernel_device, dtype):
    recon, target = images("mse", (3, 40000), dtype, kernel_device)
    for reduction in ("mean", "sample"):
        compare(recon, target, "mse", reduction=reduction)


@pytest.mark.parametrize("threshold", [0.0, 0.01, 1.0, 2.5])
def test_smooth_l1_threshold(device, threshold):
    recon, target = images("smooth_l1", (64, 33), device=device)
    recon[0] = target[0]
    for reduction in ("none", "sum"):
        compare(recon, target, "smooth_l1", reduction=reduction, beta=threshold)


@pytest.mark.parametrize("kind", KINDS)
def test_scale_multiplies_every_reduction(device, kind):
    recon, target = images(kind, (5, 3, 7, 2), device=device)
    weight = weight_of("channel", torch.float32, device)
    for reduction in REDUCTIONS:
        compare(recon, target, kind, reduction=reduction, scale=-2.5)
        compare(recon, target, kind, reduction=reduction, scale=0.25, weight=weight)


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_weighted_reductions_are_those_of_stock(device, reduction):
    recon, target = images("mse", (5, 3, 7, 2), device=device)
    weight = weight_of("full", torch.float32, device)
    for kind, stock in (("mse", F.mse_loss), ("l1", F.l1_loss)):
        ours = pyaegpu.reconstruction_loss(recon, target, kind, reduction=reduction, weight=weight)
        torch.testing.assert_close(ours, stock(recon, target, reduction=reduction, weight=weight))
    ours = pyaegpu.reconstruction_loss(recon, target, "bce_logits", reduction=reduction, weight=weight)
    stock = F.binary_cross_entropy_with_logits(recon, target, weight, reduction=reduction)
    torch.testing.assert_close(ours, stock)


def saturated(device):
    corners = torch.tensor([0.0, 1.0, 1e-38, 1 - 2**-24, 1e-13, 0.5])
    recon, target = torch.meshgrid(corners, torch.tensor([0.0, 1.0, 0.5]), indexing="ij")
    return recon.reshape(-1).to(device), target.reshape(-1).to(device)


def test_saturated_bce_equals_stock(device):
    recon, target = saturated(device)
    results = []
    for fn in (pyaegpu.reconstruction_loss, F.binary_cross_entropy):
        x = recon.clone().requires_grad_()
        value = fn(x, target, reduction="none")
        results.append((value, *torch.autograd.grad(value.sum(), x)))
    (ours, grad), (stock, stock_grad) = results
    torch.testing.assert_close(ours, stock, rtol=1e-6, atol=0)
    torch.testing.assert_close(grad, stock_grad, rtol=1e-6, atol=0)
    assert ours.max() == 100 and grad.max() == 1e12 and grad.min() == -1e12


@pytest.mark.parametrize("reduction", ["sum", "mean", "sample"])
def test_saturated_bce_through_the_fused_gradient(device, reduction):
    recon, target = saturated(device)
    x, y = (recon.clone().requires_grad_() for _ in range(2))
    pyaegpu.reconstruction_loss(x[None], target[None], reduction=reduction).sum().backward()
    F.binary_cross_entropy(y, target, reduction="mean" if reduction == "mean" else "sum").backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-6, atol=0)


def test_large_logits_equal_stock(device):
    logits = torch.tensor([1e4, -1e4, 88.0, -88.0, 104.5, -104.5, 17.0, -17.0, 1e-8, 3e38, -3e38], device=device)
    for label in (0.0, 1.0, 0.3):
        x, y = (logits.clone().requires_grad_() for _ in range(2))
        ours = pyaegpu.reconstruction_loss(x, torch.full_like(x, label), "bce_logits", reduction="none")
        stock = F.binary_cross_entropy_with_logits(y, torch.full_like(y, label), reduction="none")
        ours.sum().backward()
        stock.sum().backward()
        # Where stock's two large terms cancel to 0, a kernel may still have the tail.
        tail = (stock == 0) & (ours.abs() <= torch.finfo(ours.dtype).eps * logits.abs())
        torch.testing.assert_close(ours, ours.where(tail, stock), rtol=1e-6, atol=1e-37)
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("kind", ["bce_logits", "mse", "l1", "smooth_l1"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_and_inf_propagate_as_in_stock(device, kind, dtype):
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.5], dtype=dtype, device=device)
    recon, target = (t.reshape(-1).contiguous() for t in torch.meshgrid(special, special, indexing="ij"))
    for beta in (1.0, 0.0) if kind == "smooth_l1" else (1.0,):
        x, y = (recon.clone().requires_grad_() for _ in range(2))
        ours = pyaegpu.reconstruction_loss(x, target, kind, reduction="none", beta=beta)
        stock = oracle.elementwise(y, target, kind, beta)
        ours.sum().backward()
        stock.sum().backward()
        torch.testing.assert_close(ours, stock, equal_nan=True)
        torch.testing.assert_close(x.grad, y.grad, equal_nan=True)
    assert pyaegpu.reconstruction_loss(recon, target, kind).isnan()


def test_bce_outside_the_unit_interval_gives_nan_on_a_gpu(kernel_device):
    if kernel_device.type == "cpu":
        pytest.skip("the CPU raises: tests/ops/test_loss_errors.py")
    recon = torch.tensor([0.5, 1.5, 0.5, float("nan"), -0.1], device=kernel_device, requires_grad=True)
    target = torch.tensor([0.5, 0.5, -0.5, 0.5, 0.5], device=kernel_device)
    loss = pyaegpu.reconstruction_loss(recon, target, reduction="none")
    loss.sum().backward()
    expected = torch.tensor([False, True, True, True, True], device=kernel_device)
    assert torch.equal(loss.isnan(), expected)
    assert torch.equal(recon.grad.isnan(), expected)


def test_half_precision_sum_saturates_as_stock(device):
    recon, target = torch.full((64, 1024), 100.0, dtype=torch.float16, device=device), torch.zeros(1, device=device)
    target = target.half().expand(64, 1024)
    assert pyaegpu.reconstruction_loss(recon, target, "mse") == F.mse_loss(recon, target, reduction="sum")
    assert F.mse_loss(recon, target, reduction="sum").isinf()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(0, 3, 4), (4, 0, 3), (0,)], ids=str)
def test_empty(device, shape, reduction):
    for kind in ("bce", "mse"):
        recon = torch.empty(shape, device=device, requires_grad=True)
        loss = pyaegpu.reconstruction_loss(recon, torch.empty(shape, device=device), kind, reduction=reduction)
        expected = oracle.reconstruction(recon, recon, kind, reduction=reduction)
        if reduction == "batchmean" and shape != (0,):
            expected = torch.zeros((), device=device) / shape[0]
        torch.testing.assert_close(loss, expected, equal_nan=True)
        loss.sum().backward()
        assert recon.grad.shape == shape
