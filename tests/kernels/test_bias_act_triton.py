"""The Triton launchers of the pointwise pass against stock PyTorch."""

import itertools

import oracle
import pytest
import torch
from accuracy import acc_of
from convolutions import ACTIVATIONS, NAN, layouts
from pyaegpu.kernels import bias_act as kernels
from pyaegpu.kernels.layout import is_dense

from pyaegpu.reference.activations import gradient

pytestmark = pytest.mark.usefixtures("device")

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SLOPE = 0.25
INF = float("inf")
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}

SHAPES = [
    (2, 5, 12, 16),
    (1, 16, 5, 7),
    (1, 1, 1, 1),
    (1, 3, 1, 1),
    (4, 1, 3, 1),
    (5, 2, 31),
    (2, 17, 1, 3, 2),
    (1, 3, 33, 65),
]


def orders(shape, make=torch.randn):
    """The dense layouts of a shape: contiguous, channels last, and others that a permutation gives."""
    yield make(shape)
    if len(shape) in CHANNELS_LAST:
        yield make(shape).contiguous(memory_format=CHANNELS_LAST[len(shape)])
    yield make(shape).transpose(0, 1).contiguous().transpose(0, 1)
    yield make(shape).transpose(1, -1).contiguous().transpose(1, -1)
    yield make(shape).transpose(0, -1).contiguous().transpose(0, -1)


def broadcast(bias, y):
    return bias.view(-1, *(1,) * (y.dim() - 2))


def check_forward(y, bias, activation):
    truth, near = (
        ACTIVATIONS[activation](y.to(dtype) + (0 if bias is None else broadcast(bias.to(dtype), y)), SLOPE)
        for dtype in (torch.float64, y.dtype)
    )
    strides = y.stride()
    assert kernels.bias_act_(y, bias, activation, SLOPE) is None
    assert y.stride() == strides
    oracle.assert_accurate(y, near, truth, f"{tuple(y.shape)}, {strides}, activation {activation}")


def check_backward(g, out, need_bias, activation):
    """d_y as stock rounds it; the sums against those of stock's d_y."""
    d_y, d_bias = kernels.bias_act_bwd(g, out, need_bias, activation, SLOPE)
    assert d_y.dtype == d_bias.dtype == out.dtype
    assert not is_dense(out) or d_y.stride() == out.stride()
    truth, near = (gradient(g.to(dtype), out.to(dtype), activation, SLOPE) for dtype in (torch.float64, out.dtype))
    name = f"{tuple(out.shape)}, {out.stride()}, activation {activation}"
    oracle.assert_accurate(d_y, near, truth, name)
    if need_bias:
        dims = [d for d in range(out.dim()) if d != 1]
        oracle.assert_accurate(d_bias, near.sum(dims), truth.sum(dims), f"{name}, bias")
    else:
        assert d_bias.shape == (0,)


@pytest.mark.parametrize("dtype", DTYPES)
def test_forward(dtype):
    for i, shape in enumerate(SHAPES):
        for j, y in enumerate(orders(shape)):
            bias = torch.randn(shape[1]).to(dtype)
            check_forward(y.to(dtype), None if (i + j) % 4 == 0 else bias, (i + j) % len(ACTIVATIONS))


@pytest.mark.parametrize("dtype", DTYPES)
def test_backward(dtype):
    for i, shape in enumerate(SHAPES):
        for j, out in enumerate(orders(shape)):
            check_backward(torch.randn(shape).to(dtype), out.to(dtype), (i + j) % 4 != 0, 1 + (i + j) % 4)


@pytest.mark.parametrize("activation", range(len(ACTIVATIONS)))
def test_activations(activation):
    for dtype, order in itertools.product(DTYPES, (torch.contiguous_format, torch.channels_last)):
        y = torch.randn(2, 16, 3, 16).to(dtype).contiguous(memory_format=order)
        bias = torch.full((32,), NAN, dtype=dtype)[::2].copy_(torch.randn(16))
        check_forward(y, bias, activation)
        if activation:
            check_backward(torch.randn(y.shape).to(dtype), y, True, activation)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", range(len(ACTIVATIONS)))
def test_every_place_of_the_range(activation, dtype):
    """Small, middling and large values, each to a few places of its own; exp's grow with |x| in Triton's interpreter,
    which rounds in the middle of a fused multiply-add."""
    sizes = torch.cat([torch.logspace(-30, 2, 500), torch.linspace(0, 2, 500), torch.tensor([0.0, 88.0, 104.0, 1e30])])
    x = torch.cat([sizes, -sizes]).to(dtype)
    y = x.reshape(1, 1, -1).clone()
    kernels.bias_act_(y, None, activation, SLOPE)
    truth = ACTIVATIONS[activation](x.double(), SLOPE)
    bound = torch.finfo(dtype).eps * (8 + x.abs().clamp(max=110)) * truth.abs() + torch.finfo(dtype).tiny
    assert ((y.flatten().double() - truth).abs() <= bound).all()


@pytest.mark.parametrize("activation", range(len(ACTIVATIONS)))
def test_values_that_are_not_finite(activation):
    values = torch.tensor([NAN, INF, -INF, 0.0, -1.0, 1.0, 1e38, -1e38])
    for dtype in DTYPES:
        y = values.to(dtype).reshape(1, 2, 4).clone()
        check_forward(y, None, activation)
        if activation:
            out, g = (t.flatten() for t in torch.meshgrid(values, values, indexing="ij"))
            out, g = (t.to(dtype).reshape(1, 2, 32) for t in (out, g))
            d_y, _ = kernels.bias_act_bwd(g, out, False, activation, SLOPE)
            want = gradient(g.to(acc_of(dtype)), out.to(acc_of(dtype)), activation, SLOPE).to(dtype)
            assert torch.equal(d_y.isnan(), want.isnan())
            torch.testing.assert_close(d_y, want, equal_nan=True)


def test_upstream_gradients_in_any_layout():
    shape = (2, 3, 4, 8)
    for out in orders(shape):
        for g in [*layouts(torch.randn(shape)), torch.randn(()).expand(shape), torch.randn(1, 3, 1, 1).expand(shape)]:
            check_backward(g, out, True, 1)


def test_results_that_are_not_dense():
    for y in (torch.randn(2, 3, 4, 16)[..., ::2], torch.randn(4, 6, 5)[1:3, 2:, 1:4]):
        whole = y.clone()
        bias = torch.randn(y.shape[1])
        kernels.bias_act_(y, bias, 3, SLOPE)
        torch.testing.assert_close(y, torch.tanh(whole + broadcast(bias, y)))
        check_backward(torch.randn(y.shape), y, True, 3)


@pytest.mark.parametrize("programs", [1, 3, 7])
def test_programs_with_many_tiles(programs, monkeypatch):
    monkeypatch.setattr(kernels, "TOTAL_PROGRAMS", programs)
    for shape in [(5, 3, 7, 9), (70, 20, 2), (3, 16, 32, 16)]:
        for out in orders(shape):
            check_backward(torch.randn(shape), out, True, 2)


def test_results_repeat():
    out, g = torch.randn(2, 6, 8, 9, 11)
    first, second = (kernels.bias_act_bwd(g, out, True, 3, SLOPE) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_more_than_2_to_the_31_elements(device, large_memory):
    if device == "cpu":
        pytest.skip("too large for the interpreter")
    large_memory(40)
    y = torch.zeros(2**16 + 1, 16, 2**11, dtype=torch.bfloat16)
    bias = torch.arange(16, dtype=torch.bfloat16)
    kernels.bias_act_(y, bias, 0, SLOPE)
    assert (y[-1] == bias[:, None]).all() and (y[0] == bias[:, None]).all()
    d_y, d_bias = kernels.bias_act_bwd(y, y, True, 1, SLOPE)
    assert torch.equal(d_y[-1], y[-1])
    assert torch.equal(d_bias, (bias.double() * (2**16 + 1) * 2**11).to(bias.dtype))
