"""The Triton launchers of a transposed convolution's reconstruction loss against stock PyTorch."""

import itertools

import oracle
import pytest
import torch
import torch.nn.functional as F
from convolutions import ACTIVATIONS, DTYPES, NAN, Case, aside, layouts, operands
from pyaegpu.kernels import conv_transpose_loss as kernels

pytestmark = pytest.mark.usefixtures("device")

KINDS = oracle.KINDS
BCE, BCE_LOGITS = 0, 1
NONE, RELU, LEAKY_RELU, TANH, SIGMOID = range(5)
SLOPE, FACTOR = 0.25, 0.7
DTYPES = (*DTYPES, torch.float64)

DCGAN = Case((2, 17, 6, 5), 3, (4, 4), (2, 2), (1, 1))
UPSAMPLING = Case((2, 5, 5, 7), 1, (3, 3), (2, 2), (1, 1), (1, 1))
CASES = [
    DCGAN,
    UPSAMPLING,
    # More slots than a tile holds, more channels than one product, more phases than one program takes.
    Case((1, 3, 13, 11), 3, (3, 3), (2, 2), (1, 1), (0, 1)),
    Case((1, 100, 3, 1), 3, (4, 4), (2, 2), (1, 1)),
    Case((2, 4, 3, 2), 1, (5, 3), (6, 5), (2, 1), (1, 4)),
    Case((5, 3, 1, 1), 4, (4, 4)),
    Case((1, 1, 1, 1), 1, (1, 1)),
    # Outputs without a tap.
    Case((2, 3, 3, 4), 4, (1, 2), (2, 3), (0, 0), (1, 2)),
]


def target_of(logits):
    return torch.rand(logits.shape, generator=torch.Generator(logits.device).manual_seed(4), device=logits.device)


def loss_of(logits, target, activation, kind):
    """Of stock PyTorch, with the gradient at the logits."""
    logits = logits.detach().requires_grad_()
    recon = ACTIVATIONS[activation](logits, SLOPE)
    loss = FACTOR * oracle.reconstruction(recon, target.to(logits.dtype), KINDS[kind])
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


def compare(found, logits_of, target, activation, kind, dtype, label):
    value, grad = found
    acc = torch.promote_types(dtype, torch.float32)
    assert value.shape == () and value.dtype == acc and grad.dtype == dtype
    truth, near = (loss_of(logits_of(each), target, activation, kind) for each in (torch.float64, acc))
    slack = torch.finfo(acc).eps * truth[1].abs().sum().item()
    oracle.assert_accurate(value, near[0], truth[0], f"{label}, value", slack)
    oracle.assert_accurate(grad, near[1].to(dtype), truth[1], f"{label}, gradient", torch.finfo(acc).eps * 8)


def small(case, tensors, target, activation, kind, channels_last=False, need_grad=True):
    return kernels.conv_transpose2d_small_loss_fwd(
        *tensors, target, *case.geometry, activation, SLOPE, kind, FACTOR, need_grad, False, channels_last
    )


def check_small(case, tensors, activation, kind, channels_last=False, target=None):
    def logits(dtype):
        return F.conv_transpose2d(*(t if t is None else t.to(dtype).contiguous() for t in tensors), *case.geometry)

    target = target_of(logits(torch.float64)).to(tensors[0].dtype) if target is None else target
    found = small(case, tensors, target, activation, kind, channels_last)
    order = torch.channels_last if channels_last else torch.contiguous_format
    assert found[1].is_contiguous(memory_format=order)
    compare(found, logits, target, activation, kind, tensors[0].dtype, case)
    alone, none = small(case, tensors, target, activation, kind, channels_last, need_grad=False)
    assert torch.equal(alone, found[0]) and none.shape == (0,)


@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes(dtype):
    for i, case in enumerate(CASES):
        tensors = operands(case, dtype, bias=i % 3 != 0)
        check_small(case, tensors, (NONE, TANH, SIGMOID)[i % 3], BCE_LOGITS, channels_last=i % 2 == 0)


@pytest.mark.parametrize(
    ("kind", "activation"), [(0, SIGMOID), (1, NONE), (1, SIGMOID), (2, TANH), (3, RELU), (4, LEAKY_RELU)]
)
def test_kinds_and_activations(kind, activation):
    """All pairs are those of the pass alone."""
    check_small(UPSAMPLING, operands(UPSAMPLING, torch.float32), activation, kind)


def test_layouts():
    case = Case((2, 5, 4, 6), 3, (4, 4), (2, 2), (1, 1))
    input, weight, bias = operands(case, torch.float32)
    target = target_of(small(case, (input, weight, bias), torch.zeros(2, 3, 8, 12), NONE, 2)[1])
    weights = [weight, weight.contiguous(memory_format=torch.channels_last), aside(weight, (7, 4, 5, 6), (1, 0, 1, 2))]
    apart = torch.full((6,), NAN)[::2].copy_(bias)
    every = zip(layouts(input), [*layouts(target)], itertools.cycle(weights), strict=False)
    for i, (x, t, w) in enumerate(every):
        check_small(case, (x, w, apart if i % 2 else bias), SIGMOID, BCE, i % 2 == 1, t)


def dense_layouts(t):
    yield t
    yield t.contiguous(memory_format=torch.channels_last)
    yield t.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_activation_loss(dtype):
    shapes = ((2, 5, 3, 4), (1, 3, 29, 31), (3, 7, 1, 1))
    every = itertools.product(range(5), range(5))
    for (kind, activation), shape in zip(every, itertools.cycle(shapes), strict=False):
        if kind == BCE and activation != SIGMOID:
            continue
        logits, _ = oracle.filters(shape, (1,), None, dtype, torch.empty(0).device)
        t = target_of(logits).to(dtype)
        for like in list(dense_layouts(logits))[: 3 if activation in (TANH, SIGMOID) else 1]:
            found = kernels.activation_loss_fwd(like, t, activation, SLOPE, kind, FACTOR, True)
            assert found[1].stride() == like.stride()
            compare(found, logits.to, t, activation, kind, dtype, f"{shape} {KINDS[kind]}")
        alone, none = kernels.activation_loss_fwd(logits, t, activation, SLOPE, kind, FACTOR, False)
        assert none.shape == (0,)
        oracle.assert_accurate(alone, alone, found[0].double(), "value without a gradient")


def test_programs_with_many_tiles(monkeypatch):
    monkeypatch.setattr("pyaegpu.kernels.layout.TOTAL_PROGRAMS", 2)
    logits, _ = oracle.filters((2, 3, 41, 37), (1,), None, torch.float32, torch.empty(0).device)
    t = target_of(logits)
    found = kernels.activation_loss_fwd(logits, t, TANH, 0.0, BCE_LOGITS, FACTOR, True)
    compare(found, logits.to, t, TANH, BCE_LOGITS, torch.float32, "many tiles")


def test_far_from_zero():
    """Gradients of bce saturate as those of sigmoid and bce, and what lies outside [0, 1] gives NaN."""
    logits = torch.tensor([-200.0, -90.0, -30.0, -1.0, 0.0, 1.0, 17.0, 30.0, 200.0]).view(1, 1, 3, 3)
    for target in (torch.zeros_like(logits), torch.ones_like(logits), torch.full_like(logits, 0.25)):
        value, grad = kernels.activation_loss_fwd(logits, target, SIGMOID, 0.0, BCE, 1.0, True)
        leaf = logits.detach().requires_grad_()
        stock = F.binary_cross_entropy(leaf.sigmoid(), target, reduction="sum")
        torch.testing.assert_close(value, stock.detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(grad, torch.autograd.grad(stock, leaf)[0], rtol=1e-4, atol=1e-6)
    value, grad = kernels.activation_loss_fwd(logits, target, NONE, 0.0, BCE, 1.0, True)
    assert value.isnan() and torch.equal(grad.isnan(), (logits < 0) | (logits > 1))


def test_results_repeat():
    tensors = operands(DCGAN, torch.float32)
    target = target_of(torch.empty(2, 3, 12, 10))
    first, again = (small(DCGAN, tensors, target, TANH, BCE_LOGITS) for _ in range(2))
    assert all(map(torch.equal, first, again))
