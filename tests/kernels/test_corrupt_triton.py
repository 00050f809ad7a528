"""The Triton launchers of the corruption family against plain PyTorch with the oracle's words and noise."""

import noise
import pytest
import torch
from pyaegpu.kernels import corrupt as kernels
from pyaegpu.kernels import layout
from sampling import CASES, DTYPES, OFFSET, SEED, contiguous, normals

pytestmark = pytest.mark.usefixtures("device")

GAUSSIAN, MASKING, SALT_AND_PEPPER = range(3)
DRAWN = (None, SEED, OFFSET)
NAN = float("nan")


def words(shape, seed=SEED, offset=OFFSET):
    return noise.words(torch.Size(shape).numel(), seed, offset).reshape(shape)


def expected(x, kind, amount, low, high):
    word, threshold = words(x.shape), round(amount * 2**32)
    hit = word < threshold
    if kind == MASKING:
        return x.masked_fill(hit, 0.0)
    return torch.where(hit, torch.where(word < threshold // 2, low, high).to(x.dtype), x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [MASKING, SALT_AND_PEPPER])
def test_replaced_elements(kind, dtype):
    for i, (shape, make) in enumerate(CASES):
        x = make(shape).to(dtype)
        amount, extremes = (0.3, 0.5, 0.0, 1.0)[i % 4], (-0.5, 2.0)
        out = kernels.corrupt_fwd(x, *DRAWN, kind, amount, *extremes)
        assert out.dtype == dtype and out.is_contiguous()
        assert torch.equal(out, expected(x, kind, amount, *extremes))
        grad = kernels.corrupt_bwd(x, *DRAWN, kind, amount)
        assert grad.is_contiguous() and torch.equal(grad, expected(x, MASKING, amount, 0.0, 0.0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gaussian(dtype):
    for shape, make in CASES:
        x = make(shape).to(dtype)
        eps = normals(shape).to(dtype)
        out = kernels.corrupt_fwd(x, *DRAWN, GAUSSIAN, 0.3, 0.0, 1.0)
        assert out.dtype == dtype and out.is_contiguous()
        truth = x.double() + 0.3 * eps.double()
        # In a half dtype the noise may be a place off too: the interpreter truncates to bfloat16.
        tolerance = 4 * torch.finfo(dtype).eps * (x.double().abs() + eps.double().abs() + 1)
        assert ((out.double() - truth).abs() <= tolerance).all()


def test_amounts_at_the_ends():
    x = torch.randn(40, 33)
    for amount, share in [(0.0, 0.0), (2.0**-40, 0.0), (1 - 2.0**-40, 1.0), (1.0, 1.0)]:
        out = kernels.corrupt_fwd(x, *DRAWN, MASKING, amount, 0.0, 1.0)
        assert (out == 0).double().mean() == share
    smallest = words(x.shape).min().item()
    for amount, hits in [(smallest / 2**32, 0), ((smallest + 1) / 2**32, 1)]:
        assert (kernels.corrupt_fwd(x, *DRAWN, MASKING, amount, 0.0, 1.0) == 0).sum() == hits


@pytest.mark.parametrize("amount", [float("inf"), NAN, 1e30])
def test_gaussian_takes_any_amount(amount):
    x = torch.zeros(5)
    want = normals((5,)).float() * amount
    torch.testing.assert_close(kernels.corrupt_fwd(x, *DRAWN, GAUSSIAN, amount, 0.0, 1.0), want, equal_nan=True)


def test_nan_is_replaced_where_hit_and_stays_elsewhere():
    x = torch.full((6, 50), NAN)
    for kind in (MASKING, SALT_AND_PEPPER):
        out = kernels.corrupt_fwd(x, *DRAWN, kind, 0.4, 0.0, 1.0)
        assert torch.equal(out.isnan(), words(x.shape) >= round(0.4 * 2**32))
    assert kernels.corrupt_fwd(x, *DRAWN, GAUSSIAN, 0.4, 0.0, 1.0).isnan().all()


def test_a_seed_tensor_and_other_seeds():
    x = torch.ones(5, 21)
    for kind in (GAUSSIAN, MASKING, SALT_AND_PEPPER):
        want = kernels.corrupt_fwd(x, *DRAWN, kind, 0.4, 0.0, 1.0)
        for shape in [(), (1,)]:
            seed = torch.full(shape, SEED, dtype=torch.int64)
            assert torch.equal(kernels.corrupt_fwd(x, seed, 3, OFFSET, kind, 0.4, 0.0, 1.0), want)
            if kind != GAUSSIAN:
                grads = [kernels.corrupt_bwd(x, s, v, OFFSET, kind, 0.4) for s, v in ((seed, 3), (None, SEED))]
                assert torch.equal(*grads)
        for other in [(None, SEED + 1, OFFSET), (None, SEED, OFFSET + 1)]:
            assert not torch.equal(kernels.corrupt_fwd(x, *other, kind, 0.4, 0.0, 1.0), want)


def test_many_tiles_per_program(monkeypatch):
    monkeypatch.setattr(layout, "TOTAL_PROGRAMS", 1)
    for shape in [(4112,), (1031,)]:
        x = contiguous(shape)
        out = kernels.corrupt_fwd(x, *DRAWN, SALT_AND_PEPPER, 0.4, -1.0, 3.0)
        assert torch.equal(out, expected(x, SALT_AND_PEPPER, 0.4, -1.0, 3.0))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (4, 0, 2)])
def test_empty(shape):
    x = torch.empty(shape)
    for kind in (GAUSSIAN, MASKING, SALT_AND_PEPPER):
        assert kernels.corrupt_fwd(x, *DRAWN, kind, 0.4, 0.0, 1.0).shape == shape
        assert kernels.corrupt_bwd(x, *DRAWN, kind, 0.4).shape == shape


def test_more_than_2_to_the_31_elements(device, large_memory):
    if device == "cpu":
        pytest.skip("too large for the interpreter")
    large_memory(20)
    n, last = 2**31 + 4096, 4096
    out = kernels.corrupt_fwd(torch.ones(n, dtype=torch.bfloat16), *DRAWN, MASKING, 0.5, 0.0, 1.0)
    want = noise.words(last, SEED, OFFSET, start=n - last) >= 2**31
    assert torch.equal(out[-last:].bool(), want)
