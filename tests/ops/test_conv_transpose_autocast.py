"""dtypes of results and gradients under autocast, which are stock PyTorch's."""

import itertools

import oracle
import pytest
import torch
from conv_cases import CASES
from oracle import DTYPES

import pyaegpu

HALVES = (torch.float16, torch.bfloat16)
NAMES = ("4x4", "dense 4x4", "groups", "1-D", "3-D")


def outcome(fn, tensors, device, half):
    """The result, and the gradients at leaves of the tensors' own dtypes."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    with torch.autocast(device.type, half):
        result = fn(*leaves)
    return [result, *torch.autograd.grad(result, leaves, oracle.upstreams([result])[0])]


def compare(case, tensors, device, half):
    for activation in ({}, {"activation": "relu"}, {"activation": "tanh"}):
        ours, stock = (outcome(fn(**activation), tensors, device, half) for fn in (case.ours, case.stock))
        for a, b in zip(ours, stock, strict=True):
            assert a.dtype == b.dtype
            scale = b.double().abs().max().item()
            tolerance = 4 * scale * torch.finfo(half).eps if ours[0].dtype == half else 1e-6 * scale
            torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_one_dtype(device, name, dtype, half):
    compare(CASES[name], CASES[name].tensors(dtype, device), device, half)


@pytest.mark.parametrize("enabled", [True, False], ids=["autocast", "plain"])
@pytest.mark.parametrize("name", ["4x4", "dense 4x4"])
def test_mixed_dtypes_are_taken_where_stock_takes_them(device, name, enabled):
    """Under autocast all but float64 are cast; beside float64 parameters, stock's kernels on the CPU take any bias."""
    case, taken = CASES[name], 0
    for dtypes in itertools.product(DTYPES, repeat=3):
        tensors = [t.to(d) for t, d in zip(case.tensors(device=device), dtypes, strict=True)]
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            try:
                expected = case.stock(activation="relu")(*tensors)
            except RuntimeError:
                with pytest.raises(RuntimeError, match=r"weight|bias"):
                    case.ours(activation="relu")(*tensors)
                continue
            result = case.ours(activation="relu")(*tensors)
        assert result.dtype == expected.dtype
        tolerance = 4 * torch.finfo(result.dtype).eps * expected.double().max().item()
        torch.testing.assert_close(result, expected, rtol=0, atol=tolerance)
        taken += 1
    assert taken >= (28 if enabled else 4)


@pytest.mark.parametrize("name", ["4x4", "dense 4x4"])
def test_mixed_dtypes_under_autocast_keep_their_gradients_dtypes(device, name):
    case = CASES[name]
    for dtypes in itertools.product((torch.float32, *HALVES), repeat=3):
        tensors = [t.to(d) for t, d in zip(case.tensors(device=device), dtypes, strict=True)]
        compare(case, tensors, device, torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_upsampling(device, dtype):
    tensors = oracle.filters((2, 3, 4, 5), (4, 3, 3, 3), (4,), dtype, device)
    ours, stock = (
        outcome(fn, tensors, device, torch.bfloat16) for fn in (pyaegpu.upsample_conv2d, oracle.upsample_conv2d)
    )
    assert [t.dtype for t in ours] == [t.dtype for t in stock]


def test_autocast_that_is_off(device):
    case = CASES["4x4"]
    tensors = case.tensors(device=device)
    with torch.autocast(device.type, torch.bfloat16), torch.autocast(device.type, enabled=False):
        result = case.ours()(*tensors)
    assert torch.equal(result, case.ours()(*tensors)) and result.dtype == torch.float32


def test_a_training_step(device):
    """Weights keep float32 and their gradients too."""
    torch.manual_seed(0)
    x = torch.randn(3, 6, 4, 4, device=device)
    ours = torch.nn.Sequential(
        pyaegpu.nn.ConvTranspose2d(6, 8, 4, 2, 1, activation="relu"), pyaegpu.nn.ConvTranspose2d(8, 3, 4, 2, 1)
    ).to(device)
    stock = torch.nn.Sequential(
        torch.nn.ConvTranspose2d(6, 8, 4, 2, 1), torch.nn.ReLU(), torch.nn.ConvTranspose2d(8, 3, 4, 2, 1)
    ).to(device)
    for mine, theirs in zip(ours.parameters(), stock.parameters(), strict=True):
        theirs.data.copy_(mine.data)
    for model in (ours, stock):
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(x).float().square().mean()
        loss.backward()
    for mine, theirs in zip(ours.parameters(), stock.parameters(), strict=True):
        assert mine.grad.dtype == torch.float32
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=3e-2, atol=3e-2 * theirs.grad.abs().max().item())
