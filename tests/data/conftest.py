"""Made-up IDX files."""

import gzip
import struct

import pytest


def idx_bytes(values, sizes, magic=None):
    header = magic if magic is not None else bytes((0, 0, 8, len(sizes)))
    return header + struct.pack(f">{len(sizes)}I", *sizes) + bytes(values)


@pytest.fixture
def make_idx():
    return idx_bytes


@pytest.fixture
def write_mnist():
    """write(folder, zipped) puts 5 training and 3 test images of 4x2 there; pixel i of a file is i."""

    def write(folder, zipped=False):
        folder.mkdir(parents=True, exist_ok=True)
        for part, count in (("train", 5), ("t10k", 3)):
            contents = {
                f"{part}-images-idx3-ubyte": idx_bytes(range(count * 8), (count, 4, 2)),
                f"{part}-labels-idx1-ubyte": idx_bytes(range(count), (count,)),
            }
            for name, content in contents.items():
                if zipped:
                    (folder / f"{name}.gz").write_bytes(gzip.compress(content))
                else:
                    (folder / name).write_bytes(content)
        return folder

    return write
