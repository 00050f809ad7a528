"""csrc's Philox against the published vectors and against an independent implementation."""

import os
import shutil
import subprocess
from pathlib import Path

import noise
import pytest
import torch

ROOT = Path(__file__).parents[2]
# kat_vectors of Random123 (Salmon et al., SC 2011), philox4x32 with 10 rounds: counter, key, words.
PUBLISHED = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    program = tmp_path_factory.mktemp("philox") / "philox"
    source = ROOT / "tests" / "common" / "philox.cpp"
    subprocess.run([compiler, "-std=c++17", "-O2", f"-I{ROOT / 'csrc'}", source, "-o", program], check=True)

    def run(*numbers):
        text = subprocess.run([program, *map(str, numbers)], check=True, capture_output=True, text=True).stdout
        return torch.tensor([[int(word) for word in line.split()] for line in text.splitlines()])

    return run


@pytest.mark.parametrize(("counter", "key", "words"), PUBLISHED)
def test_published_vectors(driver, counter, key, words):
    assert driver(*counter, *key).tolist() == [words]
    ours = noise.philox(*(torch.tensor([c]) for c in counter), key[0] | key[1] << 32)
    assert [int(word) for word in ours] == words


@pytest.mark.parametrize("quads", [1, 7, 8, 129])
@pytest.mark.parametrize("first", [0, 5, 2**32 - 3, 2**40 + 1])
def test_a_run_of_quads(driver, first, quads):
    """By the vectorised loop and one by one, also where the quad's index passes 32 bits."""
    seed, offset = 0xDEADBEEF12345678, 2**33 + 12
    both = driver(seed, offset, first, quads)
    truth = noise.words(4 * quads, seed, offset, 4 * first).reshape(-1, 4)
    assert torch.equal(both[::2], truth)
    assert torch.equal(both[1::2], truth)
