"""Reader of IDX files of unsigned bytes, plain or gzip."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO, cast

import torch
from torch import Tensor

from pyaegpu.data.dataset import DataError

_UBYTE = 0x08
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20


def read_idx(path: str | Path, ndim: int) -> Tensor:
    """The uint8 array of `ndim` dimensions in the IDX file `path`; gzip is recognised by name or content.

    Layout: two zero bytes, the type code 0x08, the number of dimensions, one big-endian uint32 per
    dimension, then the bytes, last dimension fastest. Anything else in the file: DataError naming it.
    Source: http://yann.lecun.com/exdb/mnist/ (the IDX file format).
    """
    path = Path(path)
    try:
        with _open(path) as file:
            sizes = _read_header(file, path, ndim)
            body = _read_body(file, path, sizes)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: corrupt gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not body:
        raise DataError(f"{path}: holds no samples (sizes {_times(sizes)})")
    return torch.frombuffer(body, dtype=torch.uint8).reshape(sizes)


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        zipped = file.read(2) == _GZIP_MAGIC
    return cast(IO[bytes], gzip.open(path, "rb") if zipped or path.suffix == ".gz" else path.open("rb"))


def _read_header(file: IO[bytes], path: Path, ndim: int) -> tuple[int, ...]:
    header = file.read(4 + 4 * ndim)
    wanted = bytes((0, 0, _UBYTE, ndim))
    if len(header) >= 4 and header[:4] != wanted:
        raise DataError(
            f"{path}: wrong magic number 0x{header[:4].hex()}, expected 0x{wanted.hex()}"
            f" (unsigned bytes, {ndim} dimension{'s' if ndim > 1 else ''})"
        )
    if len(header) < 4 + 4 * ndim:
        raise DataError(f"{path}: truncated, {len(header)} bytes where the header alone has {4 + 4 * ndim}")
    return struct.unpack(f">{ndim}I", header[4:])


def _read_body(file: IO[bytes], path: Path, sizes: tuple[int, ...]) -> bytearray:
    """The promised bytes, read piecewise: a damaged header may promise more than the memory holds."""
    wanted = math.prod(sizes)
    body = bytearray()
    while len(body) <= wanted and (piece := file.read(min(_CHUNK, wanted + 1 - len(body)))):
        body += piece
    if len(body) < wanted:
        raise DataError(
            f"{path}: truncated, {len(body)} of the {wanted} data bytes that its header promises"
            f" ({_times(sizes)}); fetch it again"
        )
    if len(body) > wanted:
        raise DataError(f"{path}: trailing bytes after the {wanted} that its header promises ({_times(sizes)})")
    return body


def _times(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes))
