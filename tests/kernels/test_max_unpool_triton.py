"""The Triton launchers of max-pooling and max-unpooling against stock PyTorch, and against loops in order."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
import triton.language as tl
from convolutions import NAN, layouts
from pyaegpu.kernels import max_unpool as kernels
from pyaegpu.kernels.windows import Pooling

pytestmark = [pytest.mark.filterwarnings("ignore::RuntimeWarning:triton"), pytest.mark.usefixtures("device")]

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
NO_INDICES, CODES, PLANE_INDICES = range(3)
INF = float("inf")
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
SENTINEL = 12345.0

# Shape; kernel, stride, padding and dilation; ceil_mode.
TWO_BY_TWO = [2, 2], [2, 2], [0, 0], [1, 1]
OVERLAPPING = [3, 3], [2, 2], [1, 1], [1, 1]
CASES = [
    ((2, 3, 4, 64), TWO_BY_TWO, False),
    ((1, 16, 4, 28), TWO_BY_TWO, False),
    ((2, 3, 9, 13), TWO_BY_TWO, False),
    ((2, 3, 9, 13), TWO_BY_TWO, True),
    ((1, 20, 5, 14), ([3, 2], [2, 2], [1, 0], [1, 1]), True),
    ((1, 5, 7, 9), OVERLAPPING, False),
    ((1, 16, 6, 4), OVERLAPPING, True),
    ((1, 3, 6, 7), ([3, 3], [1, 1], [1, 1], [1, 1]), False),
    ((1, 2, 5, 6), ([2, 2], [1, 1], [0, 0], [1, 1]), False),
    ((2, 3, 10, 12), ([3, 3], [3, 3], [0, 0], [1, 1]), True),
    ((1, 3, 11, 9), ([2, 3], [1, 2], [1, 1], [3, 2]), True),
    ((1, 3, 10, 12), ([2, 3], [2, 3], [0, 0], [1, 1]), False),
    ((1, 2, 7, 7), ([7, 6], [4, 3], [3, 0], [1, 1]), False),
    ((3, 4, 32), ([2], [2], [0], [1]), False),
    ((3, 4, 31), ([3], [2], [1], [1]), True),
    ((2, 3, 4, 5, 6), ([2, 2, 2], [2, 2, 2], [0, 0, 0], [1, 1, 1]), True),
    ((2, 2, 4, 5, 6), ([1, 3, 2], [2, 2, 1], [0, 1, 1], [2, 1, 1]), False),
]


def orders(shape):
    return (False, True) if len(shape) in CHANNELS_LAST else (False,)


def values(shape, dtype):
    """With ties, infinities and NaN."""
    x = torch.randint(-9, 10, shape).to(dtype)
    flat = x.view(-1)
    flat[::7] = NAN
    flat[1::5] = -INF
    x[0, 0] = -INF
    x[-1, -1] = torch.randn(shape[2:]).to(dtype)
    return x


def stock_pool(x, window, ceil):
    """Values and plane indices."""
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[x.dim() - 3]
    kernel, stride, padding, dilation = window
    found = pool(x.cpu(), kernel, stride, padding, dilation, ceil_mode=ceil, return_indices=True)
    return [t.to(x.device) for t in found]


def codes_of(indices, window, image):
    """The position of each index in the window of its element."""
    code, rest = torch.zeros_like(indices), indices
    coordinates = []
    for size in reversed(image):
        coordinates.insert(0, rest % size)
        rest = rest // size
    for axis, (i, *numbers) in enumerate(zip(coordinates, *window, strict=True)):
        kernel, stride, padding, dilation = numbers
        p = torch.arange(indices.shape[2 + axis]).view(-1, *(1,) * (len(image) - 1 - axis))
        code = code * kernel + (i - (p * stride - padding)) // dilation
    return code.to(torch.uint8)


def scattered(x, indices, image):
    """Element after element, without those whose index is outside the image."""
    out = torch.zeros(*x.shape[:2], math.prod(image) + 1, dtype=x.dtype)
    x, indices = x.flatten(2), indices.flatten(2).long()
    indices = torch.where((indices < 0) | (indices >= math.prod(image)), math.prod(image), indices)
    for p in range(x.shape[2]):
        out.scatter_(2, indices[..., p : p + 1], x[..., p : p + 1])
    return out[..., :-1].view(*x.shape[:2], *image)


def collected(g, indices):
    inside = (indices >= 0) & (indices < g[0, 0].numel())
    found = g.flatten(2).gather(2, indices.long().where(inside, 0).flatten(2)).view(indices.shape)
    return torch.where(inside, found, 0)


def summed(g, indices, image):
    out = torch.zeros(*g.shape[:2], math.prod(image), dtype=torch.float64)
    return out.scatter_add_(2, indices.flatten(2), g.double().flatten(2)).view(*g.shape[:2], *image)


def assert_same(ours, truth, channels_last):
    assert ours.dtype == truth.dtype and ours.shape == truth.shape
    order = CHANNELS_LAST[ours.dim()] if channels_last else torch.contiguous_format
    assert ours.stride() == torch.empty(ours.shape, memory_format=order).stride()
    torch.testing.assert_close(ours, truth, rtol=0, atol=0, equal_nan=True)


@pytest.fixture
def flags(monkeypatch):
    """The flag of each unpooling."""
    launched, found = kernels.scatter_kernel, []

    class Recorder:
        def __getitem__(self, grid):
            def launch(*args, **options):
                found.append(bool(args[3]))
                launched[grid](*args, **options)

            return launch

    monkeypatch.setattr(kernels, "scatter_kernel", Recorder())
    return found


@pytest.fixture
def surrounded(monkeypatch):
    """Results lie within memory that holds sentinels; the list has that before and after them."""
    made = kernels.empty_images
    margins = []

    def make(like, sizes, channels_last):
        model = made(like, sizes, channels_last)
        memory = torch.full((model.numel() + 512,), SENTINEL, dtype=model.dtype)
        margins.extend((memory[:256], memory[-256:]))
        return memory.as_strided(model.shape, model.stride(), 256).fill_(NAN)

    monkeypatch.setattr(kernels, "empty_images", make)
    return margins


def check_pool(x, window, ceil, channels_last, kinds=(CODES, PLANE_INDICES)):
    """Returns the plane indices and the codes."""
    out, indices = stock_pool(x, window, ceil)
    found = {CODES: codes_of(indices, window, x.shape[2:]), PLANE_INDICES: indices}
    for kind in kinds:
        ours = kernels.max_pool_fwd(x, out.shape[2:], *window, kind, channels_last)
        for our, truth in zip(ours, (out, found[kind]), strict=True):
            assert_same(our, truth, channels_last)
    return indices, found[CODES]


def check_pool_backward(g, indices, image, window, channels_last):
    truth = summed(g, indices, image)
    d_inputs = [
        kernels.max_pool_bwd(g, each, image, *window, channels_last)
        for each in (indices, codes_of(indices, window, image))
    ]
    assert_same(d_inputs[0], d_inputs[1], channels_last)
    # Sums of up to nine windows in float32, rounded once; the interpreter truncates to bfloat16.
    rtol = torch.finfo(g.dtype).eps
    torch.testing.assert_close(d_inputs[0].double(), truth, rtol=rtol, atol=1e-5 if g.dtype != torch.float64 else 1e-12)


def check_unpool(x, g, indices, window, channels_last, *same):
    """indices: of planes; and the same in other forms."""
    image = g.shape[2:]
    for each in (indices, *same):
        assert_same(
            kernels.max_unpool_fwd(x, each, image, *window, channels_last), scattered(x, indices, image), channels_last
        )
        assert_same(kernels.max_unpool_bwd(g, each, *window, channels_last), collected(g, indices), channels_last)


@pytest.mark.parametrize("case", CASES)
def test_windows(case, flags):
    """The windows, layouts and dtypes; no index is outside its own window."""
    shape, window, ceil = case
    dtypes = itertools.cycle(DTYPES[CASES.index(case) % 2 :: 2])
    for channels_last, dtype in zip(orders(shape), dtypes, strict=False):
        indices, codes = check_pool(values(shape, dtype), window, ceil, channels_last)
        g = torch.randn(indices.shape).to(dtype)
        check_pool_backward(g, indices, shape[2:], window, channels_last)
        check_unpool(g, torch.randn(shape).to(dtype), indices, window, channels_last, codes)
    assert flags and not any(flags)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype, flags):
    for window, channels_last in itertools.product((TWO_BY_TWO, OVERLAPPING), (False, True)):
        x = torch.randn(2, 3, 4, 6).to(dtype)
        indices, codes = check_pool(x, window, False, channels_last)
        g = torch.randn(indices.shape).to(dtype)
        check_pool_backward(g, indices, x.shape[2:], window, channels_last)
        check_unpool(g, x, indices, window, channels_last, codes, indices.int())
    assert flags and not any(flags)


def test_pooling_without_indices():
    for (shape, window, ceil), channels_last in itertools.product((CASES[2], CASES[5]), (False, True)):
        x = values(shape, torch.float32)
        out, _ = stock_pool(x, window, ceil)
        ours, indices = kernels.max_pool_fwd(x, out.shape[2:], *window, NO_INDICES, channels_last)
        assert_same(ours, out, channels_last)
        assert indices.shape == (0,) and indices.dtype == torch.uint8


@pytest.mark.parametrize("channels", [1, 2, 18, 24, 25, 33])
def test_channels(channels):
    """Innermost, of every alignment."""
    for shape, window in (((1, channels, 2, 4), TWO_BY_TWO), ((1, channels, 3, 2), OVERLAPPING)):
        indices, codes = check_pool(torch.randn(shape), window, False, True)
        g = torch.randn(indices.shape)
        check_pool_backward(g, indices, shape[2:], window, True)
        check_unpool(g, torch.randn(shape), indices, window, True, codes)


@pytest.mark.parametrize("window", [TWO_BY_TWO, OVERLAPPING])
def test_any_layout(window):
    for x, channels_last in zip(layouts(torch.randn(2, 3, 4, 6)), itertools.cycle((False, True)), strict=False):
        indices, codes = check_pool(x, window, False, channels_last, (CODES,))
        for places, g in zip((indices, codes), layouts(torch.randn(indices.shape)), strict=False):
            spread = places.repeat_interleave(2, 3)[..., ::2]
            ours = kernels.max_unpool_fwd(g, spread, x.shape[2:], *window, channels_last)
            assert_same(ours, scattered(g, indices, x.shape[2:]), channels_last)
            d_input = kernels.max_pool_bwd(g, spread, x.shape[2:], *window, channels_last)
            torch.testing.assert_close(d_input.double(), summed(g, indices, x.shape[2:]), rtol=1e-6, atol=1e-6)
            ours = kernels.max_unpool_bwd(x, spread, *window, channels_last)
            assert_same(ours, collected(x, indices), channels_last)


def test_windows_that_hold_nothing():
    """A dilated window may step over a small image: -inf, and the first position that is not before the image."""
    window = [2, 2], [1, 1], [2, 1], [4, 3]
    x = torch.randn(2, 3, 1, 2)
    for channels_last in (False, True):
        out, codes = kernels.max_pool_fwd(x, [1, 1], *window, CODES, channels_last)
        _, indices = kernels.max_pool_fwd(x, [1, 1], *window, PLANE_INDICES, channels_last)
        assert (out == -INF).all() and (codes == 3).all() and (indices == 2 * 2 + 2).all()
        assert not kernels.max_pool_bwd(out, codes, [1, 2], *window, channels_last).any()
        assert not kernels.max_pool_bwd(out, indices, [1, 2], *window, channels_last).any()


# Window, image, pooled: windows that reach beyond the image, or leave much of it, along either axis.
FOREIGN = [
    (TWO_BY_TWO, (6, 8), (3, 4)),
    (TWO_BY_TWO, (8, 6), (5, 5)),
    (TWO_BY_TWO, (7, 14), (3, 5)),
    (TWO_BY_TWO, (3, 8), (2, 4)),
    (OVERLAPPING, (7, 9), (4, 6)),
    (OVERLAPPING, (12, 5), (4, 2)),
    (([2], [2], [0], [1]), (300,), (140,)),
    (([1, 2, 2],) * 2 + ([0] * 3, [1] * 3), (2, 3, 4), (3, 2, 2)),
]


@pytest.mark.parametrize("window, image, pooled", FOREIGN)
def test_indices_outside_their_windows(window, image, pooled, flags, surrounded):
    """Any place, the last of those with one place; what is outside the image is dropped and nothing written there."""
    size, shape = math.prod(image), (3, 5, *pooled)
    outside = torch.tensor([-1, -size, size, size + 1, -(2**40), 2**40, 2**32, 2**31 + 1, -(2**31)])
    for channels_last, some in itertools.product(orders(shape), (False, True)):
        indices = torch.randint(0, size, shape)
        if some:
            where = torch.rand(shape) < 0.3
            indices = torch.where(where, outside[torch.randint(0, len(outside), shape)], indices)
        x, g = torch.randn(shape), torch.randn(3, 5, *image)
        arguments = *window, channels_last
        assert_same(kernels.max_unpool_fwd(x, indices, image, *arguments), scattered(x, indices, image), channels_last)
        assert_same(kernels.max_unpool_bwd(g, indices, *arguments), collected(g, indices), channels_last)
        narrow = indices.clamp(-(2**31), 2**31 - 1).int()
        assert_same(kernels.max_unpool_fwd(x, narrow, image, *arguments), scattered(x, narrow, image), channels_last)
        assert_same(kernels.max_unpool_bwd(g, narrow, *arguments), collected(g, narrow), channels_last)
        kernels.max_pool_bwd(x, indices, image, *arguments)
    assert all(flags) and surrounded and all((margin == SENTINEL).all() for margin in surrounded)


@pytest.mark.parametrize("window, image, pooled", FOREIGN)
def test_codes_outside_their_windows_or_the_image(window, image, pooled, surrounded):
    shape = (2, 3, *pooled)
    for channels_last in orders(shape):
        codes = torch.randint(0, math.prod(window[0]) + 2, shape, dtype=torch.uint8)
        codes.view(-1)[::11] = 255
        places = torch.zeros(shape, dtype=torch.int64)
        inside = codes < math.prod(window[0])
        rest = codes.long()
        for axis in reversed(range(len(image))):
            kernel, stride, padding, dilation = (numbers[axis] for numbers in window)
            p = torch.arange(pooled[axis]).view(-1, *(1,) * (len(image) - 1 - axis))
            i = p * stride - padding + rest % kernel * dilation
            inside &= (i >= 0) & (i < image[axis])
            places += i * math.prod(image[axis + 1 :])
            rest = rest // kernel
        indices = torch.where(inside, places, -1)
        x, g = torch.randn(shape), torch.randn(2, 3, *image)
        arguments = *window, channels_last
        assert_same(kernels.max_unpool_fwd(x, codes, image, *arguments), scattered(x, indices, image), channels_last)
        assert_same(kernels.max_unpool_bwd(g, codes, *arguments), collected(g, indices), channels_last)
        d_input = kernels.max_pool_bwd(x, codes, image, *arguments)
        padded = summed(x.where(inside, 0.0), indices.clamp(0), image)
        torch.testing.assert_close(d_input.double(), padded)
    assert surrounded and all((margin == SENTINEL).all() for margin in surrounded)


@pytest.mark.parametrize("window, image, pooled", FOREIGN)
def test_one_index_outside_its_window_is_noticed(window, image, pooled, flags):
    """Wherever it is, and also where none of the image would ask it."""
    shape = (1, 2, *pooled)
    own = torch.zeros(shape, dtype=torch.int64)
    for axis in range(len(image)):
        _, stride, padding, _ = (numbers[axis] for numbers in window)
        i = (torch.arange(pooled[axis]) * stride - padding).clamp(0, image[axis] - 1)
        own += (i * math.prod(image[axis + 1 :])).view(-1, *(1,) * (len(image) - 1 - axis))
    x = torch.randn(shape)
    size = math.prod(image)
    for channels_last in orders(shape):
        for place in (0, own.numel() // 2, own.numel() - 1):
            indices = own.clone()
            indices.view(-1)[place] = (indices.view(-1)[place] + size // 2) % size
            ours = kernels.max_unpool_fwd(x, indices, image, *window, channels_last)
            assert_same(ours, scattered(x, indices, image), channels_last)
    assert all(flags)


@pytest.mark.parametrize(
    "window, image, pooled, place, index",
    [
        (TWO_BY_TWO, (4, 5), (2, 3), (0, 2), 5),
        (OVERLAPPING, (6, 6), (3, 3), (1, 0), 11),
        (OVERLAPPING, (6, 5), (3, 3), (1, 2), 15),
    ],
)
def test_an_index_where_its_window_would_go_on_in_another_row(window, image, pooled, place, index, flags):
    """Its distance from the start of the window is right, but that position of the window is outside the image."""
    shape = (1, 2, *pooled)
    x = torch.randn(shape)
    rows, columns = (torch.arange(size) * 2 for size in pooled)
    indices = (rows[:, None] * image[1] + columns).expand(shape).clone()
    for channels_last in (False, True):
        assert_same(
            kernels.max_unpool_fwd(x, indices, image, *window, channels_last),
            scattered(x, indices, image),
            channels_last,
        )
        foreign = indices.clone()
        foreign[(0, 1, *place)] = index
        ours = kernels.max_unpool_fwd(x, foreign, image, *window, channels_last)
        assert_same(ours, scattered(x, foreign, image), channels_last)
    assert flags == [False, True] * 2


def test_many_elements_in_one_place():
    """More than are told apart at a time, in every plane, whatever programs take it."""
    x = torch.arange(2 * 3 * 20 * 20.0).view(2, 3, 20, 20)
    for channels_last, places in itertools.product((False, True), (1, 3)):
        indices = torch.randint(0, places, x.shape)
        ours = kernels.max_unpool_fwd(x, indices, [40, 40], *TWO_BY_TWO, channels_last)
        assert_same(ours, scattered(x, indices, (40, 40)), channels_last)


def test_few_programs_scatter_many_planes(monkeypatch, flags):
    monkeypatch.setattr(kernels, "SCATTER_PROGRAMS", 2)
    monkeypatch.setattr(kernels, "FILL", 16)
    monkeypatch.setattr(kernels, "CHUNK", 8)
    x, indices = torch.randn(2, 3, 4, 5), torch.randint(0, 70, (2, 3, 4, 5))
    for channels_last in (False, True):
        ours = kernels.max_unpool_fwd(x, indices, [7, 10], *OVERLAPPING, channels_last)
        assert_same(ours, scattered(x, indices, (7, 10)), channels_last)
    assert all(flags)


def test_indices_of_64_bits(monkeypatch):
    """As in tensors of more than 2^31 elements."""
    monkeypatch.setattr(Pooling, "index", lambda *_: tl.int64)
    cases = ((1, 3, 4, 8), TWO_BY_TWO, False), ((1, 3, 4, 8), TWO_BY_TWO, True), ((1, 2, 5, 3), OVERLAPPING, False)
    for shape, window, channels_last in cases:
        indices, codes = check_pool(values(shape, torch.float32), window, False, channels_last)
        g = torch.randn(indices.shape)
        check_pool_backward(g, indices, shape[2:], window, channels_last)
        check_unpool(g, torch.randn(shape), indices, window, channels_last, codes)
        foreign = torch.randint(0, math.prod(shape[2:]), indices.shape)
        check_unpool(g, torch.randn(shape), foreign, window, channels_last)


def test_nothing():
    for channels_last in (False, True):
        arguments = *TWO_BY_TWO, channels_last
        for shape, image in (
            ((0, 3, 2, 2), (4, 4)),
            ((2, 0, 2, 2), (4, 4)),
            ((2, 3, 0, 2), (1, 4)),
            ((2, 3, 1, 1), (0, 4)),
        ):
            x, g = torch.randn(shape), torch.randn(*shape[:2], *image)
            for dtype in (torch.uint8, torch.int64):
                indices = torch.zeros(shape, dtype=dtype)
                for launcher in (kernels.max_unpool_fwd, kernels.max_pool_bwd):
                    assert_same(launcher(x, indices, image, *arguments), torch.zeros_like(g), channels_last)
                assert_same(kernels.max_unpool_bwd(g, indices, *arguments), torch.zeros_like(x), channels_last)
        out, codes = kernels.max_pool_fwd(torch.randn(0, 3, 4, 4), [2, 2], *TWO_BY_TWO, CODES, channels_last)
        assert out.shape == codes.shape == (0, 3, 2, 2)


def test_more_than_2_to_the_31_elements(device, large_memory):
    if device == "cpu":
        pytest.skip("too large for the interpreter")
    large_memory(60)
    for shape, channels_last in (((2**13 + 1, 2**8, 2**5, 2**5), False), ((2**13 + 1, 2**8, 2**5, 2**5), True)):
        x = torch.zeros(shape, dtype=torch.bfloat16)
        x[..., 1::2, ::2] = 1
        out, codes = kernels.max_pool_fwd(x, [2**4, 2**4], *TWO_BY_TWO, CODES, channels_last)
        assert (out == 1).all() and (codes == 2).all()
        assert torch.equal(kernels.max_unpool_fwd(out, codes, shape[2:], *TWO_BY_TWO, channels_last), x)
        assert (kernels.max_unpool_bwd(x, codes, *TWO_BY_TWO, channels_last) == 1).all()
