"""The loss family as registered ops: schemas, fake kernels and the derivatives that compiled graphs take."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyaegpu.ops import library
from pyaegpu.ops.layout import dense
from pyaegpu.reference.vae_loss import COLUMNS, NONE, ROWS, TOTAL, accumulator

FAMILY = "vae_loss"

_SCHEMAS = {
    "reconstruction_loss_fwd": "(Tensor recon, Tensor target, Tensor? weight, int kind, float threshold, "
    "int reduction, float factor, bool store_grad) -> (Tensor value, Tensor grad)",
    "reconstruction_loss_bwd": "(Tensor g, Tensor recon, Tensor target, Tensor? weight, int kind, float threshold, "
    "int reduction, float factor) -> Tensor",
    "reconstruction_loss_scale_": "(Tensor(a!) grad, Tensor g, int reduction) -> ()",
    "gaussian_kl_fwd": "(Tensor mu, Tensor spread, Tensor? mu2, Tensor? logvar2, int form, float lo, float hi, "
    "float log_eps, int reduction, float factor) -> Tensor",
    "gaussian_kl_bwd": "(Tensor g, Tensor mu, Tensor spread, Tensor? mu2, Tensor? logvar2, int form, float lo, "
    "float hi, float log_eps, int reduction, float factor) -> (Tensor, Tensor, Tensor, Tensor)",
    "vae_loss_fwd": "(Tensor recon, Tensor target, Tensor? weight, Tensor mu, Tensor logvar, Tensor? beta, "
    "float beta_value, int kind, int reduction, float recon_factor, float kl_factor, float lo, float hi, "
    "bool store_grad) -> (Tensor loss, Tensor reconstruction, Tensor kl, Tensor grad)",
    "vae_loss_bwd": "(Tensor? g_loss, Tensor? g_recon, Tensor? g_kl, Tensor recon, Tensor target, Tensor? weight, "
    "Tensor mu, Tensor logvar, Tensor? beta, float beta_value, int kind, int reduction, float recon_factor, "
    "float kl_factor, float lo, float hi) -> (Tensor, Tensor, Tensor)",
    "vae_loss_bwd_stored_": "(Tensor(a!) grad, Tensor? g_loss, Tensor? g_recon, Tensor? g_kl, Tensor mu, "
    "Tensor logvar, Tensor? beta, float beta_value, int reduction, float kl_factor, float lo, float hi) "
    "-> (Tensor, Tensor)",
}


def where_given(inputs: tuple[Tensor | None, ...], grads: tuple[Tensor, ...]) -> list[Tensor | None]:
    """``grads``, with None for the inputs that were None."""
    return [None if t is None else g for t, g in zip(inputs, grads, strict=True)]


def _empty(tensor: Tensor) -> Tensor:
    return tensor.new_empty((0,))


def _reduced(tensor: Tensor, reduction: int) -> Tensor:
    shapes = {TOTAL: (), ROWS: tensor.shape[:1], COLUMNS: tensor.shape[1:], NONE: tensor.shape}
    return tensor.new_empty(shapes[reduction], dtype=accumulator(tensor.dtype))


def _like(recon: Tensor, reduction: int) -> Tensor:
    return torch.empty_like(dense(recon, reduction == ROWS))


def _fake_reconstruction_fwd(recon: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *_, reduction, _factor, store_grad = rest
    value = _like(recon, reduction) if reduction == NONE else _reduced(recon, reduction)
    return value, _like(recon, reduction) if store_grad else _empty(recon)


def _fake_reconstruction_bwd(g: Tensor, recon: Tensor, *rest: Any) -> Tensor:
    *_, reduction, _factor = rest
    return _like(recon, reduction)


def _fake_scale(grad: Tensor, g: Tensor, reduction: int) -> None:
    return None


def _fake_kl_fwd(mu: Tensor, *rest: Any) -> Tensor:
    *_, reduction, _factor = rest
    return _reduced(mu, reduction)


def _fake_kl_bwd(g: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    mu = rest[0]
    return tuple(_empty(mu) if t is None else mu.new_empty(mu.shape) for t in rest[:4])


def _fake_vae_fwd(recon: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    reduction, store_grad = rest[7], rest[-1]
    loss, reconstruction, kl = (_reduced(recon, reduction) for _ in range(3))
    return loss, reconstruction, kl, _like(recon, reduction) if store_grad else _empty(recon)


def _fake_vae_bwd(
    g_loss: Tensor | None, g_recon: Tensor | None, g_kl: Tensor | None, recon: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    mu, reduction = rest[2], rest[7]
    return _like(recon, reduction), mu.new_empty(mu.shape), mu.new_empty(mu.shape)


def _fake_vae_bwd_stored(grad: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    mu = rest[3]
    return mu.new_empty(mu.shape), mu.new_empty(mu.shape)


def _setup_reconstruction(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.args = inputs[3:7]


def _reconstruction_backward(ctx: Any, g: Tensor, g_grad: Tensor | None) -> tuple[Tensor | None, ...]:
    grad = torch.ops.pyaegpu.reconstruction_loss_bwd(g, *ctx.saved_tensors, *ctx.args)
    return grad, None, None, None, None, None, None, None


def _setup_kl(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.args = inputs[4:]


def _kl_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.pyaegpu.gaussian_kl_bwd(g, *ctx.saved_tensors, *ctx.args)
    return *where_given(ctx.saved_tensors, grads), None, None, None, None, None, None


def _setup_vae(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:6], output[2].clone() if ctx.needs_input_grad[5] else None)
    ctx.args = inputs[6:13]


def _vae_backward(ctx: Any, *g: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, kl = ctx.saved_tensors
    grad, d_mu, d_logvar = torch.ops.pyaegpu.vae_loss_bwd(*g[:3], *inputs, *ctx.args)
    d_beta = None if kl is None else (g[0] * kl).sum().to(kl.dtype)
    return grad, None, None, d_mu, d_logvar, d_beta, *(None,) * 8


library.define(
    FAMILY,
    _SCHEMAS,
    {
        "reconstruction_loss_fwd": _fake_reconstruction_fwd,
        "reconstruction_loss_bwd": _fake_reconstruction_bwd,
        "reconstruction_loss_scale_": _fake_scale,
        "gaussian_kl_fwd": _fake_kl_fwd,
        "gaussian_kl_bwd": _fake_kl_bwd,
        "vae_loss_fwd": _fake_vae_fwd,
        "vae_loss_bwd": _fake_vae_bwd,
        "vae_loss_bwd_stored_": _fake_vae_bwd_stored,
    },
)
library.register_autograd("reconstruction_loss_fwd", _reconstruction_backward, _setup_reconstruction)
library.register_autograd("gaussian_kl_fwd", _kl_backward, _setup_kl)
library.register_autograd("vae_loss_fwd", _vae_backward, _setup_vae)
for _op in ("reconstruction_loss_bwd", "gaussian_kl_bwd", "vae_loss_bwd"):
    library.refuse_autograd(_op)
