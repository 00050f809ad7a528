"""The reference formula's branch for devices that must not be handed values outside [0, 1]."""

import torch
import torch.nn.functional as F

from pyaegpu.reference.vae_loss import _unchecked_binary_cross_entropy


def test_unchecked_bce_has_stocks_gradients_where_it_is_defined():
    recon = torch.tensor([0.0, 0.2, 0.7, 1.0, 1.0], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([1.0, 0.3, 1.0, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    ours, stock = (
        _unchecked_binary_cross_entropy(recon, target),
        F.binary_cross_entropy(recon, target, reduction="none"),
    )
    torch.testing.assert_close(ours, stock)
    for a, b in zip(
        torch.autograd.grad(ours.sum(), (recon, target)), torch.autograd.grad(stock.sum(), (recon, target)), strict=True
    ):
        torch.testing.assert_close(a, b)
    inner = [torch.tensor(t, dtype=torch.float64, requires_grad=True) for t in ([0.2, 0.7], [0.3, 0.6])]
    assert torch.autograd.gradgradcheck(_unchecked_binary_cross_entropy, inner)


def test_unchecked_bce_is_nan_outside_and_only_there():
    recon = torch.tensor([0.5, 1.5, 0.5, float("nan")], requires_grad=True)
    target = torch.tensor([0.5, 0.5, -0.1, 0.5])
    loss = _unchecked_binary_cross_entropy(recon, target)
    (grad,) = torch.autograd.grad(loss.sum(), recon)
    assert loss.isnan().tolist() == [False, True, True, True]
    assert grad.isnan().tolist() == [False, True, True, True]
