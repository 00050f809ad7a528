"""The Triton launchers of upsampling without indices against strided assignments."""

import itertools

import pytest
import torch
import triton.language as tl
from convolutions import NAN, layouts
from pyaegpu.kernels import nearest_unpool as kernels
from pyaegpu.kernels.windows import Pooling

pytestmark = [pytest.mark.filterwarnings("ignore::RuntimeWarning:triton"), pytest.mark.usefixtures("device")]

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}

# Shape and window.
CASES = [
    ((2, 3, 4, 32), [2, 2]),
    ((1, 16, 3, 6), [2, 2]),
    ((2, 3, 5, 7), [2, 2]),
    ((2, 3, 3, 5), [3, 2]),
    ((1, 20, 3, 5), [2, 3]),
    ((1, 3, 2, 3), [1, 1]),
    ((1, 2, 2, 2), [6, 7]),
    ((3, 4, 31), [2]),
    ((3, 4, 8), [5]),
    ((2, 3, 2, 3, 4), [2, 2, 2]),
    ((1, 5, 2, 3, 2), [3, 1, 2]),
]


def orders(shape):
    return (False, True) if len(shape) in CHANNELS_LAST else (False,)


def upsampled(x, kernel, nails):
    """Window after window."""
    out = torch.zeros(*x.shape[:2], *(size * k for size, k in zip(x.shape[2:], kernel, strict=True)), dtype=x.dtype)
    for place in itertools.product(*map(range, [1] * len(kernel) if nails else kernel)):
        out[(..., *(slice(first, None, k) for first, k in zip(place, kernel, strict=True)))] = x
    return out


def adjoint(g, kernel, nails):
    places = itertools.product(*map(range, [1] * len(kernel) if nails else kernel))
    return sum(
        g.double()[(..., *(slice(first, None, k) for first, k in zip(place, kernel, strict=True)))] for place in places
    )


def assert_ordered(t, shape, dtype, channels_last):
    assert t.shape == shape and t.dtype == dtype
    order = CHANNELS_LAST[t.dim()] if channels_last else torch.contiguous_format
    assert t.stride() == torch.empty(shape, memory_format=order).stride()


def check(x, g, kernel, nails, channels_last):
    out = kernels.nearest_unpool_fwd(x, kernel, nails, channels_last)
    truth = upsampled(x, kernel, nails)
    assert_ordered(out, truth.shape, x.dtype, channels_last)
    torch.testing.assert_close(out, truth, rtol=0, atol=0, equal_nan=True)
    d_input = kernels.nearest_unpool_bwd(g, kernel, nails, channels_last)
    assert_ordered(d_input, x.shape, g.dtype, channels_last)
    # Sums in float32, rounded once; the interpreter truncates to bfloat16.
    atol = 1e-12 if g.dtype == torch.float64 else 1e-5
    rtol = 0 if nails else torch.finfo(g.dtype).eps
    torch.testing.assert_close(d_input.double(), adjoint(g, kernel, nails), rtol=rtol, atol=0 if nails else atol)


@pytest.mark.parametrize("nails", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_windows(case, nails):
    shape, kernel = case
    dtypes = itertools.cycle(DTYPES[CASES.index(case) % 2 :: 2])
    for channels_last, dtype in zip(orders(shape), dtypes, strict=False):
        x = torch.randn(shape).to(dtype)
        x.view(-1)[::5] = NAN
        g = torch.randn(upsampled(x, kernel, nails).shape).to(dtype)
        check(x, g, kernel, nails, channels_last)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype):
    for kernel, channels_last in itertools.product(([2, 2], [2, 3]), (False, True)):
        x = torch.randn(2, 3, 3, 4).to(dtype)
        g = torch.randn(2, 3, 3 * kernel[0], 4 * kernel[1]).to(dtype)
        check(x, g, kernel, False, channels_last)


@pytest.mark.parametrize("kernel", [[2, 2], [1, 3]])
def test_any_layout(kernel):
    for channels_last in (False, True):
        g = torch.randn(2, 3, 4 * kernel[0], 6 * kernel[1])
        for x, upstream in zip(layouts(torch.randn(2, 3, 4, 6)), layouts(g), strict=True):
            check(x, upstream, kernel, False, channels_last)


def test_what_is_no_nail_does_not_matter():
    g = torch.full((1, 3, 4, 6), NAN)
    g[..., ::2, ::2] = 1
    for channels_last in (False, True):
        assert (kernels.nearest_unpool_bwd(g, [2, 2], True, channels_last) == 1).all()


@pytest.mark.parametrize("channels", [1, 18, 25])
def test_channels(channels):
    x, g = torch.randn(1, channels, 2, 3), torch.randn(1, channels, 4, 6)
    check(x, g, [2, 2], False, True)


def test_offsets_of_64_bits(monkeypatch):
    monkeypatch.setattr(Pooling, "index", lambda *_: tl.int64)
    for kernel, channels_last in itertools.product(([2, 2], [2, 3]), (False, True)):
        check(torch.randn(1, 3, 2, 4), torch.randn(1, 3, 2 * kernel[0], 4 * kernel[1]), kernel, False, channels_last)


def test_nothing():
    for shape in ((0, 3, 2, 2), (2, 0, 2, 2), (2, 3, 0, 2)):
        x, g = torch.randn(shape), torch.randn(*shape[:2], shape[2] * 2, shape[3] * 2)
        check(x, g, [2, 2], False, True)
