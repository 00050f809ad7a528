"""Numerical checks of first and second derivatives, and forward mode."""

import pytest
import torch
from calls import CALLS
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import pyaegpu

each_call = pytest.mark.parametrize("call", CALLS, ids=str)


@each_call
def test_gradcheck(device, call):
    assert gradcheck(call.ours, call.leaves(torch.float64, device), check_batched_grad=True)


@each_call
def test_gradgradcheck(device, call):
    leaves = call.leaves(torch.float64, device)
    assert gradgradcheck(call.ours, leaves, check_batched_grad=True)


@each_call
def test_second_derivatives_equal_stock(device, call):
    """Also with a float32 input, and mixed with another use of the input."""
    results = []
    for fn in (call.ours, call.stock):
        leaves = call.leaves(torch.float32, device)
        wanted = [leaves[i] for i in call.wanted]
        outputs = fn(*leaves)
        total = sum((o**2).sum() for o in (outputs if isinstance(outputs, tuple) else (outputs,)))
        first = torch.autograd.grad(total, wanted, create_graph=True)
        second = torch.autograd.grad(sum((g**2).sum() for g in first), wanted, allow_unused=True)
        results.append([torch.zeros_like(t) if g is None else g for g, t in zip(second, wanted, strict=True)])
    for ours, stock in zip(*results, strict=True):
        torch.testing.assert_close(ours, stock, rtol=2e-4, atol=1e-4)


@each_call
def test_forward_mode_is_right_or_refused(device, call):
    inputs = call.inputs(torch.float64, device)
    tangents = [torch.linspace(-1, 1, t.numel(), dtype=t.dtype, device=device).view(t.shape) for t in inputs]
    for chosen in call.wanted:
        with forward_ad.dual_level():
            duals = [
                forward_ad.make_dual(t, d) if i == chosen else t
                for i, (t, d) in enumerate(zip(inputs, tangents, strict=True))
            ]
            expected = call.stock(*duals)
            try:
                ours = call.ours(*duals)
            except (NotImplementedError, RuntimeError) as error:
                assert "jvp" in str(error) or "forward" in str(error)
                continue
            for a, b in zip(_tuple(ours), _tuple(expected), strict=True):
                tangent = forward_ad.unpack_dual(a).tangent
                wanted = forward_ad.unpack_dual(b).tangent
                tangent, wanted = (torch.zeros_like(a) if t is None else t for t in (tangent, wanted))
                torch.testing.assert_close(tangent, wanted)


def test_forward_mode_on_kernels_is_refused(kernel_device):
    x = torch.rand(4, 3, device=kernel_device)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="jvp"):
        pyaegpu.reconstruction_loss(forward_ad.make_dual(x, x), x)


@pytest.mark.parametrize("op", ["reconstruction_loss_bwd", "gaussian_kl_bwd", "vae_loss_bwd"])
def test_the_registered_backward_refuses_a_second_derivative(op):
    x, t, m, v = (torch.rand(3, 4, requires_grad=True) for _ in range(4))
    g = torch.ones(())
    results = {
        "reconstruction_loss_bwd": lambda: torch.ops.pyaegpu.reconstruction_loss_bwd(g, x, t, None, 2, 1.0, 1, 1.0),
        "gaussian_kl_bwd": lambda: torch.ops.pyaegpu.gaussian_kl_bwd(
            g, m, v, None, None, 0, -float("inf"), float("inf"), 0.0, 1, 1.0
        )[0],
        "vae_loss_bwd": lambda: torch.ops.pyaegpu.vae_loss_bwd(
            g, None, None, x, t, None, m, v, None, 1.0, 2, 1, 1.0, 1.0, -float("inf"), float("inf")
        )[0],
    }[op]()
    with pytest.raises(RuntimeError, match=f"{op} has no derivative"):
        results.sum().backward()


def test_create_graph_through_the_registered_forward_raises():
    x, t = torch.rand(3, 4, requires_grad=True), torch.rand(3, 4)
    value = torch.ops.pyaegpu.reconstruction_loss_fwd(x, t, None, 2, 1.0, 1, 1.0, False)[0]
    (grad,) = torch.autograd.grad(value, x, create_graph=True)
    torch.testing.assert_close(grad, 2 * (x - t))
    with pytest.raises(RuntimeError, match="no derivative"):
        (grad**2).sum().backward()


def _tuple(value):
    return value if isinstance(value, tuple) else (value,)
