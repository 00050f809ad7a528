"""A checksum of tensors."""

import zlib
from collections.abc import Iterable

import torch
from torch import Tensor


def checksum(tensors: Iterable[Tensor]) -> str:
    """CRC-32 of the bytes of all the tensors (on the CPU) in turn, as eight hexadecimal digits."""
    value = 0
    for tensor in tensors:
        value = zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"
