"""What the lists of calls to compile have in common: dtypes, shapes, tensors without data."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "f64": torch.float64}
NONE, TOTAL, ROWS, COLUMNS = range(4)
INF = float("inf")

# Shapes that take each tile: one long row, long rows, middling rows, short rows.
IMAGES = (1024, 3, 64, 64)
MNIST = (128, 784)
NARROW = (4096, 64)
LATENT = (128, 64)
# Rows that no 16-byte access can follow: narrow tiles.
ODD = (127, 785)
ODD_LATENT = (127, 20)

# What is called, and the call.
Calls = Iterator[tuple[str, Callable[[], Any]]]


def acc_of(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def meta(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")
