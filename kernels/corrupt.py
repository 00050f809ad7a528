"""Corruption of a tensor by noise: the launchers of the Triton kernel.

A launcher has the name and arguments of the registered op it serves.
"""

from torch import Tensor

from .corrupt_kernels import corrupt_kernel
from .layout import TRITON_DTYPES, WARPS, accumulation_dtype, contiguous_like, cut_latents, latents, on_device

GAUSSIAN, MASKING, SALT_AND_PEPPER = range(3)


def corrupt_fwd(
    input: Tensor,
    seed: Tensor | None,
    seed_value: int,
    offset: int,
    kind: int,
    amount: float,
    low: float,
    high: float,
) -> Tensor:
    acc = accumulation_dtype(input)
    with on_device(input):
        x = latents(True, input)
        cut = cut_latents(x, acc)
        threshold = 0 if kind == GAUSSIAN else round(amount * 2**32)
        out = contiguous_like(input)
        if cut.programs:
            corrupt_kernel[(cut.programs,)](
                *x.tensors, seed, out, seed_value, offset, *x.strides, *cut.sizes,
                threshold, amount, low, high, kind, x.whole_quads, TRITON_DTYPES[acc], *cut.tile, num_warps=WARPS,
            )  # fmt: skip
    return out


def corrupt_bwd(g: Tensor, seed: Tensor | None, seed_value: int, offset: int, kind: int, amount: float) -> Tensor:
    """Nothing flows through a replaced element: masking, applied to g."""
    return corrupt_fwd(g, seed, seed_value, offset, MASKING, amount, 0.0, 0.0)
