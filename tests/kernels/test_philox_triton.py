"""The random words and normals of the Triton kernels against published vectors and plain PyTorch."""

import noise
import pytest
import torch
import triton
import triton.language as tl
from pyaegpu.kernels.philox import normal_pair, word_tile, words

pytestmark = pytest.mark.usefixtures("device")

# kat_vectors of Random123, philox4x32 with 10 rounds: counter (four words), key (two words), result.
PUBLISHED = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@triton.jit(do_not_specialize=["seed", "offset", "quad"])
def words_kernel(p_out, seed: tl.int64, offset: tl.int64, quad: tl.int64):
    x0, x1, x2, x3 = words(seed.to(tl.int64), offset.to(tl.int64), quad.to(tl.int64))
    tl.store(p_out, x0.to(tl.int64))
    tl.store(p_out + 1, x1.to(tl.int64))
    tl.store(p_out + 2, x2.to(tl.int64))
    tl.store(p_out + 3, x3.to(tl.int64))


@triton.jit
def pairs_kernel(p_a, p_b, p_first, p_second, ACC: tl.constexpr, N: tl.constexpr):
    o = tl.arange(0, N)
    first, second = normal_pair(tl.load(p_a + o).to(tl.uint32), tl.load(p_b + o).to(tl.uint32), ACC)
    tl.store(p_first + o, first)
    tl.store(p_second + o, second)


@triton.jit(do_not_specialize=["i_row", "i_col", "cols"])
def word_tile_kernel(
    p_out, i_row: tl.int64, i_col: tl.int64, cols: tl.int64, QUADS: tl.constexpr, N: tl.constexpr
):  # fmt: skip
    seed, offset = tl.full((), 77, tl.int64), tl.full((), 9, tl.int64)
    word = word_tile(seed, offset, i_row.to(tl.int64), i_col.to(tl.int64), cols.to(tl.int64), QUADS, 2, N)
    o = tl.arange(0, 2)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(p_out + o, word.to(tl.int64))


def signed(low: int, high: int) -> int:
    value = low | high << 32
    return value - 2**64 if value >= 2**63 else value


@pytest.mark.parametrize(("counter", "key", "result"), PUBLISHED)
def test_published_vectors(counter, key, result):
    c0, c1, c2, c3, k0, k1, *want = (int(word, 16) for word in f"{counter} {key} {result}".split())
    out = torch.zeros(4, dtype=torch.int64)
    words_kernel[(1,)](out, signed(k0, k1), signed(c0, c1), signed(c2, c3))
    assert out.tolist() == want
    oracle = noise.philox(*(torch.tensor([c]) for c in (c0, c1, c2, c3)), signed(k0, k1))
    assert [x.item() for x in oracle] == want


def test_the_oracle_is_normal_and_uniform():
    x = noise.normals(200_001, seed=3, offset=5)
    assert x.shape == (200_001,) and x.isfinite().all()
    assert abs(x.mean()) < 0.01 and abs(x.std() - 1) < 0.01 and abs((x**4).mean() - 3) < 0.1
    assert abs((x[:-1] * x[1:]).mean()) < 0.01
    assert abs(noise.words(200_001, seed=3, offset=5).double().mean() / 2**32 - 0.5) < 0.005


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normals_at_the_ends_and_between_the_quadrants(dtype):
    edges = [k * 2**29 + d for k in range(9) for d in (-1, 0, 1)]
    edges = [0, 1, 2**32 - 1, *(edge for edge in edges if 0 <= edge < 2**32)]
    grid = torch.tensor([(a, b) for a in edges for b in edges] + [(12345, 2**31)] * (1024 - len(edges) ** 2))
    a, b = (column.contiguous() for column in grid.unbind(1))
    first, second = (torch.empty(1024, dtype=dtype) for _ in range(2))
    pairs_kernel[(1,)](a, b, first, second, {torch.float32: tl.float32, torch.float64: tl.float64}[dtype], 1024)
    radius = (-2 * ((a.double() + 0.5) / 2**32).log()).sqrt()
    angle = b.double() * (2 * torch.pi / 2**32)
    # In float32 a word near 2^32 rounds to 2^32, whose logarithm is 0: the radius is right to 3e-4 there.
    tolerance = torch.where(a > 2**31, 4e-4, 2e-6) if dtype == torch.float32 else torch.full((1024,), 1e-13)
    for ours, want in ((first, radius * angle.cos()), (second, radius * angle.sin())):
        assert ((ours.double() - want).abs() <= tolerance).all()


@pytest.mark.parametrize("quads", [True, False])
@pytest.mark.parametrize(("row", "col", "cols"), [(0, 2**36, 2**40), (3, 64, 2**35 + 4), (2**20, 0, 2**17), (6, 8, 92)])
def test_words_of_a_tile_far_from_the_start(row, col, cols, quads):
    n = 16
    out = torch.zeros((2, n), dtype=torch.int64)
    word_tile_kernel[(1,)](out, row, col, cols, quads, n)
    want = [noise.words(n, seed=77, offset=9, start=(row + i) * cols + col) for i in range(2)]
    assert torch.equal(out, torch.stack(want))


def test_words_of_rows_that_split_quads():
    n, row, cols = 16, 5, 2**34 + 3
    out = torch.zeros((2, n), dtype=torch.int64)
    word_tile_kernel[(1,)](out, row, 0, cols, False, n)
    for i in range(2):
        start = (row + i) * cols
        lead = start % 4
        assert torch.equal(out[i], noise.words(n + lead, seed=77, offset=9, start=start - lead)[lead:])
