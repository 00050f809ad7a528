"""The IDX reader on good and on damaged files."""

import gzip
import random

import pytest
import torch

from pyaegpu.data import DataError
from pyaegpu.data.idx import read_idx

SIZES = (2, 3, 4)
VALUES = range(24)


@pytest.fixture
def write(tmp_path):
    def write(content, name="images-ubyte"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def packed(content, zipped):
    return gzip.compress(content) if zipped else content


both = pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])


@pytest.mark.parametrize(
    ("name", "zipped"), [("images-ubyte", False), ("images-ubyte", True), ("images-ubyte.gz", True)]
)
def test_reads_the_values_in_order(write, make_idx, zipped, name):
    path = write(packed(make_idx(VALUES, SIZES), zipped), name)
    values = read_idx(path, ndim=3)
    assert values.dtype == torch.uint8
    assert torch.equal(values, torch.arange(24, dtype=torch.uint8).reshape(SIZES))


def test_file_larger_than_one_piece(write, make_idx):
    sizes = (3, 1000, 700)
    values = read_idx(write(make_idx(bytes([7]) * 2_100_000, sizes)), ndim=3)
    assert values.shape == sizes
    assert bool((values == 7).all())


@both
@pytest.mark.parametrize("magic", [b"\x00\x00\x08\x01", b"\x00\x00\x0d\x03", b"\x01\x00\x08\x03", b"\x03\x08\x00\x00"])
def test_wrong_magic(write, make_idx, magic, zipped):
    path = write(packed(make_idx(VALUES, SIZES, magic=magic), zipped))
    with pytest.raises(DataError, match=f"{path}: wrong magic number 0x{magic.hex()}, expected 0x00000803"):
        read_idx(path, ndim=3)


@both
@pytest.mark.parametrize("kept", [0, 3, 4, 15])
def test_truncated_header(write, make_idx, kept, zipped):
    path = write(packed(make_idx(VALUES, SIZES)[:kept], zipped))
    with pytest.raises(DataError, match=f"{path}: truncated, {kept} bytes .* header"):
        read_idx(path, ndim=3)


@both
@pytest.mark.parametrize("missing", [1, 24])
def test_truncated_data(write, make_idx, missing, zipped):
    path = write(packed(make_idx(VALUES, SIZES)[:-missing], zipped))
    with pytest.raises(DataError, match=f"{path}: truncated, {24 - missing} of the 24 data bytes"):
        read_idx(path, ndim=3)


@both
def test_absurd_header_needs_no_memory(write, make_idx, zipped):
    path = write(packed(make_idx(VALUES, (2**32 - 1,) * 3), zipped))
    with pytest.raises(DataError, match="truncated, 24 of the"):
        read_idx(path, ndim=3)


@both
def test_trailing_bytes(write, make_idx, zipped):
    path = write(packed(make_idx(VALUES, SIZES) + b"\x00", zipped))
    with pytest.raises(DataError, match=f"{path}: trailing bytes after the 24"):
        read_idx(path, ndim=3)


@both
def test_no_samples(write, make_idx, zipped):
    path = write(packed(make_idx((), (0, 3, 4)), zipped))
    with pytest.raises(DataError, match=f"{path}: holds no samples"):
        read_idx(path, ndim=3)


def damage_checksum(content):
    return content[:-8] + bytes(4) + content[-4:]


def damage_body(content):
    return content[:200] + bytes(byte ^ 0xFF for byte in content[200:210]) + content[210:]


@pytest.mark.parametrize(
    "damage",
    [damage_checksum, damage_body, lambda content: content[:-12], lambda content: content[:5]],
    ids=["checksum", "body", "cut short", "header only"],
)
def test_corrupt_gzip(write, make_idx, damage):
    incompressible = random.Random(0).randbytes(600)
    path = write(damage(gzip.compress(make_idx(incompressible, (6, 10, 10)))), "images-ubyte.gz")
    with pytest.raises(DataError, match=f"{path}: corrupt gzip file"):
        read_idx(path, ndim=3)


def test_file_named_gz_that_is_not(write, make_idx):
    path = write(make_idx(VALUES, SIZES), "images-ubyte.gz")
    with pytest.raises(DataError, match=f"{path}: corrupt gzip file"):
        read_idx(path, ndim=3)


def test_missing_file_and_folder_in_its_place(tmp_path):
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(DataError, match=f"{path}: cannot be read"):
            read_idx(path, ndim=3)
