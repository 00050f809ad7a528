"""The launches of the sampling and corruption families that are compiled ahead of time."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from aot_calls import DTYPES, IMAGES, INF, MNIST, NARROW, NONE, ODD, ROWS, TOTAL, Calls, acc_of, meta
from pyaegpu.kernels import corrupt, reparameterize
from torch import Tensor

LOGVAR, STD = range(2)
GAUSSIAN, MASKING, SALT_AND_PEPPER = range(3)
LONG = (64, 4096)
DRAWN = (None, None, -1, 1)

# Of the configurations, all of which float32 has, those of the other dtypes.
COMMON = {"logvar", "logvar backward", "kl sum", "kl sum backward", "gaussian", "masking"}
CHOSEN = {
    "bf16": COMMON | {"clamped short rows", "kl short rows", "kl clamped elements backward", "std odd rows backward"},
    "f16": {"logvar", "kl sum backward"},
    "f64": COMMON | {"kl odd rows", "kl odd rows backward"},
}


def apart(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Rows with a gap between them, so that they are not taken as one."""
    return meta((shape[0], 2 * shape[1]), dtype)[:, : shape[1]]


def from_tensor() -> tuple[Any, ...]:
    """The arguments for noise from a seed tensor."""
    return None, meta((1,), torch.int64), 0, 1


def both(label: str, forward: Callable[..., Any], backward: Callable[..., Any], *arguments: Any) -> Calls:
    yield label, lambda: forward(*arguments)
    yield f"{label} backward", lambda: backward(*arguments)


def reparameterize_calls(dtype: torch.dtype) -> Calls:
    def forward(x: Tensor, form: int, drawn: Any = DRAWN, lo: float = -INF, with_eps: bool = False) -> Any:
        return reparameterize.reparameterize_fwd(x, x, *drawn, form, lo, INF, with_eps)

    def backward(x: Tensor, form: int, drawn: Any = DRAWN, lo: float = -INF, with_eps: bool = False) -> Any:
        spread = None if form == STD else x
        return reparameterize.reparameterize_bwd(x, spread, *drawn, form, lo, INF, with_eps)

    yield from both("logvar", forward, backward, meta(IMAGES, dtype), LOGVAR)
    yield from both("std long rows", forward, backward, apart(LONG, dtype), STD)
    given = (apart(MNIST, dtype), None, 0, 0)
    yield from both("eps given", forward, backward, apart(MNIST, dtype), LOGVAR, given, -INF, True)
    yield from both("clamped short rows", forward, backward, apart(NARROW, dtype), LOGVAR, from_tensor(), -1.0, True)
    yield from both("std odd rows", forward, backward, apart(ODD, dtype), STD)


def reparameterize_kl_calls(dtype: torch.dtype) -> Calls:
    def forward(x: Tensor, reduction: int, drawn: Any = DRAWN, lo: float = -INF) -> Any:
        return reparameterize.reparameterize_kl_fwd(x, x, *drawn, lo, INF, reduction, 1.0)

    def backward(x: Tensor, reduction: int, drawn: Any = DRAWN, lo: float = -INF, z: bool = True) -> Any:
        shape = {TOTAL: (), ROWS: tuple(x.shape[:1]), NONE: tuple(x.shape)}[reduction]
        g_z, g_kl = meta(tuple(x.shape), dtype) if z else None, meta(shape, acc_of(dtype))
        return reparameterize.reparameterize_kl_bwd(g_z, g_kl, x, x, *drawn, lo, INF, reduction, 1.0, lo > -INF)

    x = meta(IMAGES, dtype)
    yield from both("kl sum", forward, backward, x, TOTAL)
    yield from both("kl clamped elements", forward, backward, x, NONE, from_tensor(), -1.0)
    yield from both("kl long rows", forward, backward, apart(LONG, dtype), ROWS)
    yield from both("kl short rows", forward, backward, apart(NARROW, dtype), ROWS)
    yield from both("kl odd rows", forward, backward, apart(ODD, dtype), ROWS)
    yield "kl alone backward", lambda: backward(x, TOTAL, z=False)


def corrupt_calls(dtype: torch.dtype) -> Calls:
    def forward(x: Tensor, kind: int) -> Any:
        return corrupt.corrupt_fwd(x, None, -1, 1, kind, 0.3, 0.0, 1.0)

    x = meta(IMAGES, dtype)
    yield "gaussian", lambda: forward(x, GAUSSIAN)
    yield "masking", lambda: forward(x, MASKING)
    yield "salt and pepper", lambda: forward(x, SALT_AND_PEPPER)
    yield "gaussian odd rows", lambda: forward(apart(ODD, dtype), GAUSSIAN)
    yield "masking short rows", lambda: forward(apart(NARROW, dtype), MASKING)
    yield "masking backward", lambda: corrupt.corrupt_bwd(x, meta((1,), torch.int64), 0, 1, MASKING, 0.3)


def calls(name: str) -> Calls:
    dtype = DTYPES[name]
    found = itertools.chain(reparameterize_calls(dtype), reparameterize_kl_calls(dtype), corrupt_calls(dtype))
    return (each for each in found if each[0] in CHOSEN.get(name, {each[0]}))
