"""The launches of the loss family that are compiled ahead of time."""

import itertools
from typing import Any

import torch
from aot_calls import (
    COLUMNS,
    DTYPES,
    IMAGES,
    INF,
    LATENT,
    MNIST,
    NARROW,
    NONE,
    ODD,
    ODD_LATENT,
    ROWS,
    TOTAL,
    Calls,
    acc_of,
    meta,
)
from pyaegpu.kernels import vae_loss as kernels
from torch import Tensor

KINDS = {"bce": 0, "bce_logits": 1, "mse": 2, "l1": 3, "smooth_l1": 4}
FORMS = {"logvar": 0, "std": 1, "var": 2}


def reconstruction_calls(kind: str, dtype: torch.dtype) -> Calls:
    number = KINDS[kind]

    def forward(shape: tuple[int, ...], reduction: int, store: bool, weighted: bool = False) -> Any:
        x = meta(shape, dtype)
        return kernels.reconstruction_loss_fwd(x, x, x if weighted else None, number, 1.0, reduction, 1.0, store)

    def backward(shape: tuple[int, ...], reduction: int) -> Any:
        x = meta(shape, dtype)
        g = x if reduction == NONE else meta((), acc_of(dtype))
        return kernels.reconstruction_loss_bwd(g, x, x, None, number, 1.0, reduction, 1.0)

    yield f"{kind} sum+grad", lambda: forward(IMAGES, TOTAL, True)
    yield f"{kind} rows, weight", lambda: forward(MNIST, ROWS, True, weighted=True)
    yield f"{kind} short rows", lambda: forward(NARROW, ROWS, False)
    yield f"{kind} odd rows, weight", lambda: forward(ODD, ROWS, True, weighted=True)
    yield f"{kind} elements", lambda: forward(IMAGES, NONE, True)
    yield f"{kind} sum backward", lambda: backward(IMAGES, TOTAL)
    yield f"{kind} elements backward", lambda: backward(IMAGES, NONE)


def vae_calls(kind: str, dtype: torch.dtype) -> Calls:
    acc = acc_of(dtype)

    def pass_(shape: tuple[int, ...], reduction: int, stored: bool | None) -> Any:
        x, mu = meta(shape, dtype), meta((shape[0], 64), dtype)
        beta, g = meta((), acc), meta((shape[0],) if reduction == ROWS else (), acc)
        latents = (mu, mu, beta, 1.0)
        if stored is None:
            return kernels.vae_loss_fwd(x, x, None, *latents, KINDS[kind], reduction, 1.0, 1.0, -INF, INF, True)
        if stored:
            return kernels.vae_loss_bwd_stored_(x, g, None, None, *latents, reduction, 1.0, -INF, INF)
        return kernels.vae_loss_bwd(g, None, None, x, x, None, *latents, KINDS[kind], reduction, 1.0, 1.0, -INF, INF)

    yield f"{kind} sum", lambda: pass_(IMAGES, TOTAL, None)
    yield f"{kind} rows", lambda: pass_(MNIST, ROWS, None)
    yield f"{kind} sum backward", lambda: pass_(IMAGES, TOTAL, False)
    if kind == "bce_logits":
        yield "stored sum backward", lambda: pass_(IMAGES, TOTAL, True)
        yield "stored rows backward", lambda: pass_(MNIST, ROWS, True)


def kl_calls(form: str, dtype: torch.dtype, other: bool) -> Calls:
    label = f"{form}{', other' if other else ''}"

    def operands(shape: tuple[int, ...]) -> tuple[Tensor | None, ...]:
        mu = meta(shape, dtype)
        return (mu, mu, mu if other else None, mu if other else None)

    numbers = (FORMS[form], -INF, INF, 0.0)

    def forward(shape: tuple[int, ...], reduction: int) -> Any:
        return kernels.gaussian_kl_fwd(*operands(shape), *numbers, reduction, 1.0)

    def backward(shape: tuple[int, ...], reduction: int) -> Any:
        g = meta({TOTAL: (), COLUMNS: shape[1:], NONE: shape}[reduction], acc_of(dtype))
        return kernels.gaussian_kl_bwd(g, *operands(shape), *numbers, reduction, 1.0)

    yield f"{label} sum", lambda: forward(IMAGES, TOTAL)
    yield f"{label} sum backward", lambda: backward(IMAGES, TOTAL)
    yield f"{label} odd columns backward", lambda: backward(ODD_LATENT, COLUMNS)
    if form == "logvar" and not other:
        yield f"{label} rows", lambda: forward(MNIST, ROWS)
        yield f"{label} short rows", lambda: forward(LATENT, ROWS)
        yield f"{label} columns", lambda: forward(NARROW, COLUMNS)
        yield f"{label} elements", lambda: forward(IMAGES, NONE)
        yield f"{label} columns backward", lambda: backward(LATENT, COLUMNS)
        yield f"{label} elements backward", lambda: backward(IMAGES, NONE)


def scale_calls(dtype: torch.dtype) -> Calls:
    for label, shape, reduction in [("sum", IMAGES, TOTAL), ("rows", MNIST, ROWS), ("short rows", NARROW, ROWS)]:
        grad, g = meta(shape, dtype), meta(shape[:1] if reduction == ROWS else (), acc_of(dtype))
        yield label, lambda grad=grad, g=g, r=reduction: kernels.reconstruction_loss_scale_(grad, g, r)


def calls(name: str) -> Calls:
    """All kinds and forms in float32, the common ones else."""
    dtype = DTYPES[name]
    kinds = KINDS if name == "f32" else {"f16": []}.get(name, ["bce_logits", "mse"])
    forms = FORMS if name == "f32" else ["logvar"]
    return itertools.chain(
        *(reconstruction_calls(kind, dtype) for kind in kinds),
        *(vae_calls(kind, dtype) for kind in kinds or ["bce_logits"]),
        *(kl_calls(form, dtype, other) for form in forms for other in (False, True)),
        scale_calls(dtype),
    )
