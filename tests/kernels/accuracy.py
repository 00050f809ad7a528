"""How the results of a kernel are held against float64, and the layouts it is tried on."""

import torch
from torch import Tensor


def acc_of(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def differentiate(formula, inputs, dtype, g):
    """formula's value and gradients with the inputs in dtype; None inputs stay."""
    leaves = [None if t is None else t.detach().to(dtype).requires_grad_() for t in inputs]
    value = formula(*leaves)
    present = [t for t in leaves if t is not None]
    grads = iter(torch.autograd.grad(value, present, torch.ones_like(value) if g is None else g.to(dtype)))
    return value.detach(), [None if t is None else next(grads) for t in leaves]


def assert_close(ours: Tensor, truth: Tensor, stock: Tensor) -> None:
    """At most twice stock's error, besides a few roundings of the result (the interpreter truncates to bfloat16)."""
    assert ours.shape == truth.shape
    if not truth.numel():
        return
    truth = truth.double()
    half = ours.dtype in (torch.float16, torch.bfloat16)
    eps = torch.finfo(ours.dtype).eps * (1.5 if half else 8)
    stock_error = (stock.to(ours.dtype).double() - truth).abs().nan_to_num().amax()
    scale = truth.abs().mean() + (ours.dtype == torch.float64)
    error = (ours.double() - truth).abs()
    assert (error <= 2 * stock_error + eps * (truth.abs() + scale)).all(), (ours, truth)


def check(formula, inputs, outputs, g=None):
    """outputs: value, then the gradient of each input (None: not checked)."""
    acc = acc_of(inputs[0].dtype)
    truth, truth_grads = differentiate(formula, inputs, torch.float64, g)
    stock, stock_grads = differentiate(formula, inputs, acc, g)
    if outputs[0] is not None:
        assert_close(outputs[0], truth, stock)
    for ours, want, near in zip(outputs[1:], truth_grads, stock_grads, strict=False):
        if ours is not None:
            assert_close(ours, want, near)


def upstream(value):
    return torch.randn(value.shape, dtype=value.dtype) + 2


def layouts(shape, make):
    """Tensors of one shape in every layout: contiguous, channels_last, permuted, strided, expanded."""
    n, c, h, w = shape
    yield make(shape)
    yield make(shape).contiguous(memory_format=torch.channels_last)
    yield make((h, n, c, w)).permute(1, 2, 0, 3)
    yield make((n, c, h, 2 * w))[..., ::2]
    yield make((n + 2, c, h, w))[1:-1]
    yield make((n, 1, h, w)).expand(shape)
    yield make((1, c, h, w)).expand(shape)
