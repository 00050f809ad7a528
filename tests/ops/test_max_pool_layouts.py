"""Memory layouts of pooling and unpooling: of inputs, indices and upstream gradients; the results' are stock's."""

import pytest
import torch
from layouts import LAYOUTS
from pool_cases import (
    CASES,
    CODES,
    INT64,
    assert_equal,
    assert_strides,
    channels_last,
    few_cases,
    outcome,
    upstream_of,
)

EVERY = LAYOUTS | {
    "channels_last": channels_last,
    "channels_last, sliced": lambda t: LAYOUTS["sliced"](channels_last(t)),
    "channels_last, pixels swapped": lambda t: channels_last(t.transpose(-1, -2)).transpose(-1, -2),
    "pixels swapped": lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2),
    "expanded_channels": lambda t: t[:, :1].expand_as(t),
    "expanded to a channels_last": lambda t: channels_last(t)[:, :, :1].expand_as(t),
    "negated": lambda t: torch._neg_view(-t),
}
each_layout = pytest.mark.parametrize("change", EVERY.values(), ids=EVERY)
FORMATS = (torch.clone, channels_last)


def pair(index_dtype):
    """A pooling and its unpooling, which has stock's format only for contiguous and channels_last inputs."""

    def ours(case):
        return lambda t: case.unpool(*case.pool(t, index_dtype))

    def stock(case):
        return lambda t: case.stock_unpool(*case.stock_pool(t))

    return ours, stock


@each_layout
@few_cases
def test_layouts_of_a_pooled_input(device, case, change):
    input = change(case.input(device=device, ties=True))
    values, indices = case.stock_pool(input.contiguous())
    placed, stock_grad = outcome(lambda t: case.stock_pool(t, False), input)
    assert_equal(values, placed, strides=False)
    for index_dtype in (CODES, INT64):
        ours, found = case.pool(input, index_dtype)
        # Stock's lines with channels innermost stay so where it pools them as images.
        assert_equal(ours, placed, strides=case.dims > 1)
        assert_strides(found, ours)
        assert_equal(case.decode(found) if index_dtype == CODES else found, indices, strides=False)
        _, grad = outcome(lambda t, d=index_dtype: case.pool(t, d), input)
        torch.testing.assert_close(grad, stock_grad)
    half = input.bfloat16()
    assert_equal(case.pool(half, CODES)[0], case.stock_pool(half)[0], strides=case.dims > 1)


@pytest.mark.parametrize("index_dtype", [CODES, INT64], ids=str)
@each_layout
@few_cases
def test_layouts_of_an_unpooled_input(device, case, change, index_dtype):
    """And those of its indices, which need not be the same."""
    values, indices = case.pool(case.input(device=device), index_dtype)
    values = change(torch.arange(1.0, values.numel() + 1, device=device).view_as(values))
    expected = case.stock_unpool(values.contiguous().cpu(), case.stock_pool(case.input())[1])
    for given in (indices, laid_out(indices, values), channels_last(indices)):
        assert_equal(case.unpool(values, given).cpu(), expected, strides=False)


def laid_out(t, like):
    """``t`` with the strides of ``like``, unless those repeat elements."""
    if 0 in like.stride():
        return t
    return torch.empty_strided(like.shape, like.stride(), dtype=t.dtype, device=t.device).copy_(t)


@each_layout
@few_cases
def test_layouts_of_the_upstream_gradient(device, case, change):
    for memory in FORMATS:
        input = memory(case.input(device=device))
        values, codes = case.pool(input, CODES)
        upstream = change(upstream_of(values))
        ours, stock = (outcome(fn, input, upstream) for fn in (case.pool, lambda t: case.stock_pool(t, False)))
        torch.testing.assert_close(ours[1], stock[1])
        indices = case.stock_pool(input)[1]
        for given in (codes, indices):
            upstream = change(upstream_of(case.unpool(values, given)))
            ours = outcome(lambda t, i=given: case.unpool(t, i), values, upstream)
            stock = outcome(lambda t, i=indices: case.stock_unpool(t, i), values, upstream.contiguous())
            assert_equal(ours[1], stock[1], strides=False)


@few_cases
def test_an_expanded_number_as_upstream_gradient(device, case):
    for memory in FORMATS:
        input = memory(case.input(device=device))
        one = torch.ones((), device=device)
        ours, stock = (
            outcome(fn, input, one.expand(case.pool(input).shape))
            for fn in (case.pool, lambda t: case.stock_pool(t, False))
        )
        torch.testing.assert_close(ours[1], stock[1])
        values, codes = case.pool(input, CODES)
        _, grad = outcome(lambda t, c=codes: case.unpool(t, c), values, one.expand(case.shape))
        assert_equal(grad, torch.ones_like(values), strides=False)


@pytest.mark.parametrize("index_dtype", [CODES, INT64], ids=str)
@pytest.mark.parametrize("name", ["2/2", "3/2/1", "one channel", "one window", "17 channels", "line", "volume"])
def test_strides_of_an_unpooling_are_stocks(device, name, index_dtype):
    """On a CPU: contiguous in three dimensions, also of channels_last."""
    case = CASES[name]
    for memory in FORMATS:
        input = memory(case.input(device=device))
        values, indices = case.pool(input, index_dtype)
        stock = case.stock_unpool(*(t.cpu() for t in case.stock_pool(input)))
        for given in (indices, indices.contiguous(), channels_last(indices)):
            result = case.unpool(values, given)
            assert_equal(result.cpu(), stock)
            assert case.dims < 3 or result.is_contiguous()
        ours, theirs = pair(index_dtype)
        assert_strides(ours(case)(input).cpu(), theirs(case)(input.cpu()))


@few_cases
def test_strides_of_the_gradient_of_an_unpooling(kernel_device, case):
    """Those of a dense result: of the format of the input."""
    for memory in FORMATS:
        values, codes = case.pool(memory(case.input(device=kernel_device)), CODES)
        _, grad = outcome(lambda t, c=codes: case.unpool(t, c), values)
        if case.dims < 3:
            assert_strides(grad, values)


@few_cases
def test_inputs_are_read_where_they_lie(device, case):
    """A view at any offset of its storage, and nothing beside it."""
    input = case.input(device=device)
    expected = case.stock_pool(input)
    whole = torch.full((input.numel() + 14,), float("nan"), device=device)
    for offset in (0, 1, 3, 7):
        view = whole[offset : offset + input.numel()].view(case.shape)
        view.copy_(input)
        values, codes = case.pool(view, CODES)
        assert_equal(values, expected[0])
        flat = torch.full((codes.numel() + 9,), 255, dtype=CODES, device=device)
        places = flat[offset : offset + codes.numel()].view(codes.shape)
        places.copy_(codes)
        assert_equal(case.unpool(values, places), case.stock_unpool(*expected), strides=False)
        whole.fill_(float("nan"))
