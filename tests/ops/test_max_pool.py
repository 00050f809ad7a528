"""Maxima, indices, codes and gradients of max_pool1d, max_pool2d and max_pool3d against stock PyTorch and loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from layouts import LAYOUTS
from oracle import DTYPES, assert_accurate
from pool_cases import (
    CASES,
    CODES,
    FEW,
    IMAGES,
    INT64,
    Case,
    assert_equal,
    assert_strides,
    channels_last,
    each_case,
    each_index_dtype,
    few_cases,
    outcome,
    pool_by_loops,
    upstream_of,
)

import pyaegpu
from pyaegpu import backends

NAN, INF = math.nan, math.inf
# Those of which each window has an element inside.
FULL = {name: case for name, case in CASES.items() if name != "dilation over the image"}


def with_dtypes(cases):
    """All of them in float32, few in each dtype."""
    pairs = [(case, dtype) for name, case in cases.items() for dtype in (DTYPES if name in FEW else DTYPES[:1])]
    return pytest.mark.parametrize(("case", "dtype"), pairs, ids=str)


def assert_pools(case, input):
    """Maxima, indices and codes of a pooling are stock's; its indices are those of a contiguous input, since in
    channels_last of three dimensions they forget the depth of windows of minus infinities."""
    values, indices = case.stock_pool(input.contiguous())
    placed = case.stock_pool(input)[0]
    for ours, expected in zip(case.pool(input, INT64), (values, indices), strict=True):
        assert_equal(ours, expected, strides=False)
        assert_strides(ours, placed)
    coded, codes = case.pool(input, CODES)
    assert_equal(coded, placed)
    assert codes.dtype == torch.uint8
    assert_strides(codes, placed)
    assert_equal(case.decode(codes), indices, strides=False)
    assert_equal(case.pool(input), placed)


@each_case
def test_loops(device, case):
    for ties in (False, True):
        input = case.input(device=device, ties=ties)
        values, indices = case.pool(input, INT64)
        _, codes = case.pool(input, CODES)
        expected = pool_by_loops(input.cpu(), case, values.shape[2:])
        for ours, wanted in zip((values, indices, codes), expected, strict=True):
            assert_equal(ours.cpu(), wanted, strides=False)


@with_dtypes(CASES)
def test_values_and_indices(device, case, dtype):
    for ties, change in ((False, torch.clone), (True, channels_last)):
        assert_pools(case, change(case.input(dtype, device, ties)))


@each_case
def test_without_a_batch(device, case):
    assert_pools(case, case.input(device=device)[0])
    assert_pools(case, channels_last(case.input(device=device))[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@few_cases
def test_nan_and_infinities(device, case, dtype):
    """The last NaN of a window is taken, and of nothing but minus infinities the first."""
    generator = torch.Generator().manual_seed(3)
    special = torch.tensor([NAN, -INF, INF, 0.0, -0.0, 1.0])
    for weights in ([1, 1, 1, 1, 1, 1], [1, 9, 0, 0, 0, 0], [0, 9, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0]):
        chosen = torch.tensor(weights, dtype=torch.float).multinomial(
            math.prod(case.shape), replacement=True, generator=generator
        )
        input = special[chosen].view(case.shape).to(device, dtype)
        assert_pools(case, input)
        if case.dims < 3 or backends.selected() != "reference":
            assert_pools(case, channels_last(input))
        zeros = [t.signbit() & (t == 0) for t in (case.pool(input, CODES)[0], case.stock_pool(input)[0])]
        assert torch.equal(*zeros)  # the sign is that of the first
    for value in (NAN, -INF):
        assert_pools(case, torch.full(case.shape, value, dtype=dtype, device=device))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_window_without_an_element(device, dims):
    """Whose dilation skips the only one; the index, which may lie beyond the image, is stock's."""
    for size, stride in ((1, 2), (1, 1), (2, 1), (3, 2)):
        case = Case((2, 3, *[size] * dims), 2, stride, 1, 2)
        assert_pools(case, case.input(device=device))
        assert case.pool(case.input(device=device)).isneginf().all() == (size == 1)


# Stock's derivative writes beyond the image there.
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_no_gradient_of_a_window_without_an_element(kernel_device, dims):
    case = Case((2, 3, *[1] * dims), 2, 2, 1, 2)
    for index_dtype in (None, CODES, INT64):
        assert not outcome(lambda t, c=case, d=index_dtype: c.pool(t, d), case.input(device=kernel_device))[1].any()


@with_dtypes(FULL)
def test_gradients(device, case, dtype):
    """Equal to stock's where windows are apart, else within the rounding of the sum."""
    _, stride, _, _ = case.numbers()
    disjoint = all(k <= s for k, s in zip(case.numbers()[0], stride, strict=True)) and case.dilation == 1
    for change in (torch.clone, channels_last):
        input = change(case.input(dtype, device, ties=True))
        stock = outcome(lambda t: case.stock_pool(t, False), input)
        truth = outcome(lambda t: case.stock_pool(t, False), input.double(), upstream_of(stock[0]))
        for index_dtype in (None, CODES, INT64):
            value, grad = outcome(lambda t, d=index_dtype: case.pool(t, d), input)
            assert_equal(value, stock[0])
            assert_accurate(grad, stock[1], truth[1])
            assert grad.dtype == dtype and (grad.stride() == stock[1].stride() or 1 in grad.shape)
            if disjoint:
                assert_equal(grad, stock[1])


@few_cases
def test_gradients_at_the_place_of_a_nan(device, case):
    input = case.input(device=device)
    input.view(-1)[::3] = NAN
    for index_dtype in (None, CODES, INT64):
        grads = [outcome(fn, input)[1] for fn in (lambda t, d=index_dtype: case.pool(t, d), case.stock_pool)]
        torch.testing.assert_close(*grads)


@each_index_dtype
@few_cases
def test_every_element_is_written(device, case, index_dtype, nan_filled):
    for dtype in (torch.float32, torch.bfloat16):
        for change in (torch.clone, channels_last):
            input = change(case.input(dtype, device))
            value, grad = outcome(lambda t: case.pool(t, index_dtype), input)
            assert value.isfinite().all() and grad.isfinite().all()
            indices, expected = case.pool(input, index_dtype)[1], case.stock_pool(input)[1]
            assert_equal(case.decode(indices) if index_dtype == CODES else indices, expected, strides=False)


@few_cases
def test_an_empty_batch(device, case):
    for change in (torch.clone, channels_last):
        input = change(case.input(device=device)[:0]).requires_grad_()
        values, indices = case.stock_pool(input)
        for index_dtype in (CODES, INT64):
            ours = case.pool(input, index_dtype)
            assert ours[0].shape == values.shape and ours[1].shape == indices.shape and ours[1].dtype == index_dtype
            (grad,) = torch.autograd.grad(ours[0].sum(), input)
            assert grad.shape == input.shape
        assert case.pool(input).shape == values.shape


@pytest.mark.parametrize("name", ["2/2", "3/2/1", "line", "volume"])
def test_inputs_are_not_changed(device, name):
    case = CASES[name]
    input = case.input(device=device)
    copy = input.clone()
    outcome(lambda t: case.pool(t, CODES), input)
    assert torch.equal(input, copy)


def test_larger_planes(kernel_device):
    """More elements than one thread's share, of more than one tile, with a rest."""
    for case in (
        Case((3, 5, 67, 131), 2),
        Case((2, 33, 35, 33), 3, 2, 1),
        Case((2, 5, 4100), 2),
        Case((2, 3, 17, 23, 21), 2),
    ):
        for change in (torch.clone, channels_last):
            input = change(case.input(device=kernel_device))
            assert_pools(case, input)
            ours, stock = (outcome(fn, input)[1] for fn in (case.pool, lambda t, c=case: c.stock_pool(t, False)))
            torch.testing.assert_close(ours, stock)


def test_input_sizes_of_a_decoding(device):
    case = IMAGES["3/2/1 ceil"]
    input = case.input(device=device)
    codes, indices = case.pool(input, CODES)[1], case.stock_pool(input)[1]
    for size in (case.image, list(case.image), input.shape, torch.Size(case.image), [*input.shape]):
        assert_equal(case.decode(codes, size), indices)
        assert_equal(case.decode(codes[0], size if len(size) == 2 else size[2:]), indices[0])
        assert_equal(case.decode(LAYOUTS["permuted"](codes), size), indices, strides=False)
    assert case.decode(codes[:0]).shape == (0, *codes.shape[1:])


@pytest.mark.parametrize("case", FULL.values(), ids=FULL)
def test_what_is_decoded_unpools_in_stock(device, case):
    """A pair of a pooling here and an unpooling there."""
    values, codes = case.pool(case.input(device=device), CODES)
    assert_equal(case.unpool(values, codes), case.stock_unpool(values, case.decode(codes)), strides=False)


def test_256_positions_are_the_most():
    input = torch.rand(1, 1, 20, 20)
    for kernel in (16, (8, 32), (1, 256), (256, 1)):
        size = [max(20, n + 1) for n in ((kernel, kernel) if isinstance(kernel, int) else kernel)]
        assert_pools(Case((1, 2, *size), kernel, 1), torch.rand(1, 2, *size).cumsum(-1))
    last = torch.arange(256.0).view(1, 1, 16, 16)
    assert pyaegpu.max_pool2d(last, 16, return_indices=True, index_dtype=CODES)[1].item() == 255
    for call in (
        lambda: pyaegpu.max_pool2d(torch.rand(1, 1, 1, 300), (1, 257), return_indices=True, index_dtype=CODES),
        lambda: pyaegpu.max_pool2d(input, 17, index_dtype=CODES),
        lambda: pyaegpu.max_pool3d(input[None], (1, 17, 16), return_indices=True, index_dtype=CODES),
        lambda: pyaegpu.max_pool1d(torch.rand(1, 1, 300), 257, return_indices=True, index_dtype=CODES),
        lambda: pyaegpu.max_unpool2d(torch.rand(1, 1, 1, 1), torch.zeros(1, 1, 1, 1, dtype=CODES), 17),
    ):
        with pytest.raises(ValueError, match=r"256.*kernel_size|kernel_size.*256"):
            call()


def test_windows_too_large_for_codes_have_gradients(device):
    case = Case((1, 2, 20, 19), 17, 1)
    input = case.input(device=device)
    for index_dtype in (None, INT64):
        results = [outcome(fn, input) for fn in (lambda t, d=index_dtype: case.pool(t, d), case.stock_pool)]
        torch.testing.assert_close(*results)


def test_other_dtypes_are_stocks():
    case = IMAGES["3/2/1"]
    for dtype in (torch.uint8, torch.int8, torch.int32, torch.int64):
        input = torch.arange(math.prod(case.shape)).mul(7).remainder(101).view(case.shape).to(dtype)
        assert_equal(case.pool(input), case.stock_pool(input, False))
        for ours, stock in zip(case.pool(input, INT64), case.stock_pool(input), strict=True):
            assert_equal(ours, stock)
        assert_equal(case.decode(case.pool(input, CODES)[1]), case.stock_pool(input)[1])


def test_numbers_in_every_form(device):
    input = IMAGES["2/2"].input(device=device)
    expected = F.max_pool2d(input, 2, 2, 1)
    for numbers in ((2, 2, 1), ((2, 2), [2, 2], (1, 1)), ([2], None, (1,)), (2, [], 1), (torch.tensor(2), 2, 1)):
        assert_equal(pyaegpu.max_pool2d(input, *numbers), expected)
    assert_equal(pyaegpu.max_pool2d(input, kernel_size=2, stride=2, padding=1, dilation=1, ceil_mode=False), expected)
    assert_equal(pyaegpu.max_pool2d(input, 2, 2, 1, 1, False, True, index_dtype=INT64)[0], expected)


def test_the_few_are_of_every_dimension():
    assert {case.dims for case in FEW.values()} == {1, 2, 3}
