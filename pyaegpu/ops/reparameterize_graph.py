"""Gaussian sampling as registered ops: schemas, fake kernels and the derivatives that compiled graphs take."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyaegpu.ops import library
from pyaegpu.reference.vae_loss import NONE, ROWS, accumulator

FAMILY = "reparameterize"

_NOISE = "Tensor? eps, Tensor? seed, int seed_value, int offset"

_SCHEMAS = {
    "reparameterize_fwd": f"(Tensor mu, Tensor spread, {_NOISE}, int form, float lo, float hi, bool return_eps) "
    "-> (Tensor z, Tensor eps)",
    "reparameterize_bwd": f"(Tensor g, Tensor? spread, {_NOISE}, int form, float lo, float hi, bool eps_grad) "
    "-> (Tensor, Tensor)",
    "reparameterize_kl_fwd": f"(Tensor mu, Tensor logvar, {_NOISE}, float lo, float hi, int reduction, "
    "float factor) -> (Tensor z, Tensor kl)",
    "reparameterize_kl_bwd": f"(Tensor? g_z, Tensor? g_kl, Tensor mu, Tensor logvar, {_NOISE}, float lo, float hi, "
    "int reduction, float factor, bool eps_grad) -> (Tensor, Tensor, Tensor)",
}


def _like(tensor: Tensor, wanted: bool = True) -> Tensor:
    return tensor.new_empty(tensor.shape if wanted else (0,))


def _fake_fwd(mu: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _like(mu), _like(mu, rest[-1])


def _fake_bwd(g: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _like(g), _like(g, rest[-1])


def _fake_kl_fwd(mu: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    reduction = rest[-2]
    shape = mu.shape if reduction == NONE else mu.shape[:1] if reduction == ROWS else ()
    return _like(mu), mu.new_empty(shape, dtype=accumulator(mu.dtype))


def _fake_kl_bwd(g_z: Tensor | None, g_kl: Tensor | None, mu: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _like(mu), _like(mu), _like(mu, rest[-1])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, spread, eps, seed, *ctx.args = inputs
    ctx.save_for_backward(spread, eps, seed)


def _backward(ctx: Any, g: Tensor, g_eps: Tensor | None) -> tuple[Tensor | None, ...]:
    seed_value, offset, form, lo, hi, _ = ctx.args
    needed = ctx.needs_input_grad
    numbers = (seed_value, offset, form, lo, hi, needed[2])
    d_spread, d_eps = torch.ops.pyaegpu.reparameterize_bwd(g, *ctx.saved_tensors, *numbers)
    return g, d_spread, d_eps if needed[2] else None, *(None,) * 7


def _setup_kl(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)  # a result that is not used sends nothing, not 0 times what may be infinite
    *tensors, seed_value, offset, lo, hi, reduction, factor = inputs
    ctx.save_for_backward(*tensors)
    ctx.args = (seed_value, offset, lo, hi, reduction, factor)


def _kl_backward(ctx: Any, g_z: Tensor | None, g_kl: Tensor | None) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad
    grads = torch.ops.pyaegpu.reparameterize_kl_bwd(g_z, g_kl, *ctx.saved_tensors, *ctx.args, needed[2])
    return grads[0], grads[1], grads[2] if needed[2] else None, *(None,) * 7


library.define(
    FAMILY,
    _SCHEMAS,
    {
        "reparameterize_fwd": _fake_fwd,
        "reparameterize_bwd": _fake_bwd,
        "reparameterize_kl_fwd": _fake_kl_fwd,
        "reparameterize_kl_bwd": _fake_kl_bwd,
    },
)
library.register_autograd("reparameterize_fwd", _backward, _setup)
library.register_autograd("reparameterize_kl_fwd", _kl_backward, _setup_kl)
for _op in ("reparameterize_bwd", "reparameterize_kl_bwd"):
    library.refuse_autograd(_op)
