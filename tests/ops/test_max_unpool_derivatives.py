"""Derivatives of pooling and unpooling in eager: second ones, kept graphs, what is stored, torch.func, autocast."""

import itertools

import oracle
import pytest
import torch
import torch.nn.functional as F
from pool_cases import CODES, FEW, INT64, assert_equal, each_index_dtype, ours, upstream_of
from torch import func
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import pyaegpu

# Small ones, of which windows overlap, are apart, or are dilated.
SMALL = {name: FEW[name] for name in ("2/2", "dilation", "line 3/2/1", "volume (1, 2, 3)")}
small_cases = pytest.mark.parametrize("case", SMALL.values(), ids=SMALL)


def apart(case, device):
    """Values too far apart for a finite difference to change a maximum."""
    generator = torch.Generator().manual_seed(1)
    count = torch.Size(case.shape).numel()
    return torch.randperm(count, generator=generator).view(case.shape).to(device, torch.float64)


def unpooled(case, device, index_dtype, repeated=False):
    """Values and indices to unpool."""
    values, indices = case.pool(apart(case, device), index_dtype)
    if repeated:
        indices = indices.clone()
        indices.view(-1)[1::3] = indices.view(-1)[0]
    return values.detach(), indices


def calls(case, device):
    """Each function of one tensor, and a tensor for it."""
    for index_dtype in (None, CODES, INT64):
        name = f"pool {index_dtype}"
        yield name, lambda t, d=index_dtype: oracle.as_tuple(case.pool(t, d))[0], apart(case, device)
    for index_dtype in (CODES, INT64):
        values, indices = unpooled(case, device, index_dtype)
        yield f"unpool {index_dtype}", lambda t, i=indices: case.unpool(t, i), values


def stock_calls(case, device):
    """The same of stock."""
    for _ in range(3):
        yield lambda t: case.stock_pool(t)[0]
    for _ in range(2):
        indices = case.stock_pool(apart(case, device))[1]
        yield lambda t, i=indices: case.stock_unpool(t, i)


@small_cases
def test_numerical_derivatives(device, case):
    """A pooling's, whose places stay as they are; an unpooling's where places are all different."""
    for name, fn, input in calls(case, device):
        leaf = input.requires_grad_()
        if "unpool" in name:
            _, indices = unpooled(case, device, INT64)
            lines = indices.flatten(2).sort(-1)[0]
            if (lines[..., 1:] == lines[..., :-1]).any():
                continue
        assert gradcheck(fn, leaf, fast_mode=True), name
        assert gradgradcheck(fn, leaf, fast_mode=True), name


def test_numerical_derivatives_at_length(device):
    case = SMALL["line 3/2/1"]
    for _, fn, input in list(calls(case, device))[:2]:
        leaf = input[:1, :1].requires_grad_()
        assert gradcheck(fn, leaf) and gradgradcheck(fn, leaf)


def second(fn, input):
    leaf = input.detach().requires_grad_()
    value = fn(leaf)
    upstream = upstream_of(value).requires_grad_()
    (first,) = torch.autograd.grad(value, leaf, upstream, create_graph=True)
    return first, *torch.autograd.grad((first**3).sum(), (upstream,))


@small_cases
def test_second_derivatives(device, case):
    """With duplicates too: those of stock."""
    for (_, fn, input), stock in zip(calls(case, device), stock_calls(case, device), strict=True):
        torch.testing.assert_close(second(fn, input), second(stock, input))
    values, indices = unpooled(case, device, INT64, repeated=True)
    results = [second(lambda t, f=f: f(t, indices), values) for f in (case.unpool, case.stock_unpool)]
    torch.testing.assert_close(*results)


@small_cases
def test_kept_graphs(device, case):
    for _, fn, input in calls(case, device):
        leaf = input.requires_grad_()
        value = fn(leaf)
        upstream = upstream_of(value)
        kept = [torch.autograd.grad(value, leaf, upstream, retain_graph=True)[0] for _ in range(2)]
        assert torch.equal(*kept)
        value.sum().backward()
        with pytest.raises(RuntimeError, match="second time"):
            value.sum().backward()


def test_what_the_graph_stores(kernel_device):
    """The indices alone: of a pooling a byte each, unless int64 ones are wanted."""
    for case in SMALL.values():
        for index_dtype, size in ((None, 1), (CODES, 1), (INT64, 8)):
            leaf, stored = case.input(device=kernel_device).requires_grad_(), []
            with torch.autograd.graph.saved_tensors_hooks(lambda t, s=stored: s.append(t) or t, lambda t: t):
                value = oracle.as_tuple(case.pool(leaf, index_dtype))[0]
            assert sum(t.nbytes for t in stored) == size * value.numel()
        for index_dtype, size in ((CODES, 1), (INT64, 8)):
            (values, indices), stored = unpooled(case, kernel_device, index_dtype), []
            with torch.autograd.graph.saved_tensors_hooks(lambda t, s=stored: s.append(t) or t, lambda t: t):
                case.unpool(values.requires_grad_(), indices)
            assert sum(t.nbytes for t in stored) == size * values.numel()


def test_windows_too_large_for_codes_store_int64(kernel_device):
    leaf, stored = torch.rand(1, 1, 20, 19, device=kernel_device, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: stored.append(t) or t, lambda t: t):
        value = pyaegpu.max_pool2d(leaf, 17, 1)
    assert sum(t.nbytes for t in stored) == 8 * value.numel()


@each_index_dtype
@small_cases
def test_indices_changed_in_place_are_noticed(device, case, index_dtype):
    values, indices = unpooled(case, device, index_dtype)
    result = case.unpool(values.requires_grad_(), indices)
    indices.zero_()
    if pyaegpu.explain(ours("max_unpool", case.dims), values, indices, 3).backend != "reference":
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            result.sum().backward()


@each_index_dtype
def test_indices_of_a_pooling_changed_in_place_are_noticed(kernel_device, index_dtype):
    case = SMALL["2/2"]
    values, indices = case.pool(case.input(device=kernel_device).requires_grad_(), index_dtype)
    assert not indices.requires_grad
    indices.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        values.sum().backward()


def test_values_may_be_changed_in_place(kernel_device):
    """The backward reads the indices alone."""
    case = SMALL["2/2"]
    leaf = case.input(device=kernel_device).requires_grad_()
    value = case.pool(leaf)
    (2 * value.mul_(3)).sum().backward()
    expected = torch.autograd.grad(6 * case.stock_pool(leaf)[0].sum(), leaf)[0]
    assert torch.equal(leaf.grad, expected)


@small_cases
def test_no_graph_without_gradients(device, case):
    for _, fn, input in calls(case, device):
        leaf = input.requires_grad_()
        expected = fn(leaf)
        assert expected.requires_grad
        for context in (torch.no_grad(), torch.inference_mode()):
            with context:
                value = fn(leaf)
            assert not value.requires_grad and torch.equal(value, expected)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_autocast(device, half):
    """Stock's dtypes."""
    for case, dtype in itertools.product(SMALL.values(), oracle.DTYPES):
        input = case.input(dtype, device).requires_grad_()
        with torch.autocast(device.type, half):
            stock, indices = case.stock_pool(input)
            for index_dtype in (CODES, INT64):
                values, places = case.pool(input, index_dtype)
                assert_equal(values, stock)
                back, stock_back = case.unpool(values, places), case.stock_unpool(stock.cpu(), indices.cpu())
                assert_equal(back.cpu(), stock_back)
        assert torch.autograd.grad(back.sum(), input)[0].dtype == dtype


def cubed(fn):
    return lambda *tensors: fn(*tensors).pow(3).sum()


@small_cases
def test_gradients_and_jacobians(device, case):
    for (_, fn, input), stock in zip(calls(case, device), stock_calls(case, device), strict=True):
        torch.testing.assert_close(func.grad(cubed(fn))(input), func.grad(cubed(stock))(input))
        if input.numel() < 200:
            torch.testing.assert_close(func.jacrev(fn)(input), func.jacrev(stock)(input))
        torch.testing.assert_close(
            func.grad(lambda t, f=fn: cubed(func.grad(cubed(f)))(t))(input),
            func.grad(lambda t, f=stock: cubed(func.grad(cubed(f)))(t))(input),
        )


@small_cases
def test_ensembles(device, case):
    for (_, fn, input), stock in zip(calls(case, device), stock_calls(case, device), strict=True):
        stacked = torch.stack([input, -input, input.flip(0)])
        for dim in (0, 1, input.dim()):
            given = stacked.movedim(0, dim)
            expected = torch.stack([stock(t) for t in given.unbind(dim)])
            torch.testing.assert_close(func.vmap(fn, dim)(given), expected)
            grads = torch.stack([func.grad(cubed(stock))(t) for t in given.unbind(dim)])
            torch.testing.assert_close(func.vmap(func.grad(cubed(fn)), dim)(given), grads)


@each_index_dtype
@small_cases
def test_ensembles_of_indices(device, case, index_dtype):
    """Values or indices alone, or both, have the dimension."""
    values, indices = unpooled(case, device, index_dtype, repeated=index_dtype == INT64)
    both = [torch.stack([t, t.flip(0)]) for t in (values, indices)]
    for dims in ((0, 0), (None, 0), (0, None)):
        given = [s if d == 0 else t for s, t, d in zip(both, (values, indices), dims, strict=True)]
        each = [[t[n] if d == 0 else t for t, d in zip(given, dims, strict=True)] for n in range(2)]
        expected = torch.stack([case.unpool(*pair) for pair in each])
        assert_equal(func.vmap(case.unpool, dims)(*given), expected, strides=False)


@small_cases
def test_batched_gradients(device, case):
    """Also those of the older kind."""
    for (_, fn, input), stock in zip(calls(case, device), stock_calls(case, device), strict=True):
        results = []
        for call in (fn, stock):
            leaf = input.detach().requires_grad_()
            value = call(leaf)
            upstream = torch.stack([upstream_of(value, seed) for seed in range(3)])
            results.append([torch.autograd.grad(value, leaf, u, retain_graph=True)[0] for u in upstream])
            if call is fn:
                batched = torch.autograd.grad(value, leaf, upstream, is_grads_batched=True)[0]
        torch.testing.assert_close(batched, torch.stack(results[1]))
        torch.testing.assert_close(*results)


def tangent_of(fn, input, tangent):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(fn(forward_ad.make_dual(input, tangent))).tangent


@pytest.mark.filterwarnings("ignore:`torch.jit")
@small_cases
def test_forward_mode_is_right_or_refused(device, case):
    for (_, fn, input), stock in zip(calls(case, device), stock_calls(case, device), strict=True):
        tangent = upstream_of(input)
        expected = tangent_of(stock, input, tangent)
        for way in (tangent_of, lambda f, x, t: func.jvp(f, (x,), (t,))[1]):
            try:
                found = way(fn, input, tangent)
            except (RuntimeError, NotImplementedError) as error:
                assert "forward" in str(error).lower() or "jvp" in str(error), error
            else:
                torch.testing.assert_close(found, expected)


def test_the_gradient_of_a_pair_is_stocks(device):
    """Of pooling and unpooling with the same indices, as an autoencoder has them."""
    for case in SMALL.values():
        for index_dtype in (CODES, INT64):
            results = []
            for pool, unpool in ((lambda t, c=case, d=index_dtype: c.pool(t, d), case.unpool),
                                 (case.stock_pool, case.stock_unpool)):  # fmt: skip
                leaf = apart(case, device).requires_grad_()
                values, indices = pool(leaf)
                value = unpool(values.square() / 100, indices)
                results.append([value, *torch.autograd.grad(value, leaf, upstream_of(value))])
            torch.testing.assert_close(*results)


def test_stock_kernel_of_the_numbers():
    """Values by hand: one window of four, padded."""
    x = torch.tensor([[[[1.0, 5.0], [3.0, 2.0]]]], requires_grad=True)
    values, codes = pyaegpu.max_pool2d(x, 2, 2, 1, return_indices=True, index_dtype=CODES)
    assert values.flatten().tolist() == [1.0, 5.0, 3.0, 2.0] and codes.flatten().tolist() == [3, 2, 1, 0]
    back = pyaegpu.max_unpool2d(values, codes, 2, 2, 1)
    assert_equal(back, x.detach())
    assert_equal(F.max_unpool2d(values, pyaegpu.decode_pool_codes(codes, 2, 2, 1, input_size=(2, 2)), 2, 2, 1), back)
    back.sum().backward()
    assert x.grad.eq(1).all()
