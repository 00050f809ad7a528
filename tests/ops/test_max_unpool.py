"""Values and gradients of max_unpool1d, max_unpool2d and max_unpool3d, of codes and of plane indices."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from oracle import DTYPES
from pool_cases import (
    CASES,
    CODES,
    IMAGES,
    INT32,
    INT64,
    Case,
    assert_equal,
    channels_last,
    few_cases,
    ours,
    outcome,
    stock_unpool_of,
    unpool_by_loops,
    upstream_of,
)

import pyaegpu

FULL = {name: case for name, case in CASES.items() if name != "dilation over the image"}
full_cases = pytest.mark.parametrize("case", FULL.values(), ids=FULL)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def every_index(case, device, ties=False):
    """The plane indices of stock's pooling, and the same in each form that is taken."""
    input = case.input(device=device, ties=ties)
    indices, codes = case.stock_pool(input)[1], case.pool(input, CODES)[1]
    return indices, (indices, indices.to(INT32), codes)


def unpooling(case, indices):
    """As a function of the values."""
    return lambda values: case.unpool(values, indices)


def numbered(like, dtype=torch.float32):
    """A number of its own for each element, as far as the dtype has them."""
    return torch.arange(1, like.numel() + 1, device=like.device).view(like.shape).to(dtype)


@each_dtype
@full_cases
def test_values_and_gradients(device, case, dtype):
    """Of overlapping windows, whose maxima are often the same, the last keeps the place."""
    indices, forms = every_index(case, device)
    values = numbered(indices, dtype)
    expected = unpool_by_loops(values, indices, case.image)
    upstream = upstream_of(expected)
    gathered = upstream.flatten(2).gather(2, indices.flatten(2)).view_as(indices)
    for given, memory in itertools.product(forms, (torch.clone, channels_last)):
        value, grad = outcome(unpooling(case, memory(given)), memory(values), upstream)
        assert_equal(value, expected, strides=False)
        assert_equal(grad, gathered, strides=False)
        assert value.dtype == grad.dtype == dtype


@full_cases
def test_stock_is_the_same(device, case):
    """Which on one thread of a CPU keeps the last too."""
    indices, forms = every_index(case, device)
    for memory in (torch.clone, channels_last):
        values = memory(numbered(indices))
        stock = outcome(lambda t: case.stock_unpool(t, indices.cpu()), values.cpu())
        for given in forms:
            result = outcome(unpooling(case, given), values)
            assert_equal(result[0].cpu(), stock[0])
            assert_equal(result[1].cpu(), stock[1], strides=False)


@full_cases
def test_without_a_batch(device, case):
    indices, forms = every_index(case, device)
    values = numbered(indices)
    expected = unpool_by_loops(values, indices, case.image)
    for given, memory in itertools.product(forms, (torch.clone, channels_last)):
        result = case.unpool(memory(values)[0], memory(given)[0])
        assert_equal(result, expected[0])


@full_cases
def test_a_pooling_comes_back(device, case):
    """Each maximum at its place, zeros elsewhere."""
    input = case.input(device=device)
    for index_dtype in (CODES, INT64):
        result = case.unpool(*case.pool(input, index_dtype))
        kept = result != 0
        assert torch.equal(result[kept], input[kept])
        assert torch.equal(case.pool(input).amax(), result.amax())


def repeated(case, device, seed=4):
    """Few places for many elements, those of an element's own window among them."""
    generator = torch.Generator().manual_seed(seed)
    indices = case.stock_pool(case.input())[1]
    few = torch.randint(math.prod(case.image), (7,), generator=generator)
    chosen = few[torch.randint(7, indices.shape, generator=generator)]
    own = torch.rand(indices.shape, generator=generator) < 0.5
    return torch.where(own, indices, chosen).to(device)


@full_cases
def test_the_last_of_a_place_is_kept(device, case):
    """Whose gradient each of them gets."""
    indices = repeated(case, device)
    values = numbered(indices, torch.float64)
    expected = unpool_by_loops(values, indices, case.image)
    stock = outcome(lambda t: case.stock_unpool(t, indices.cpu()), values.cpu())
    assert_equal(stock[0], expected.cpu(), strides=False)
    for given, memory in itertools.product((indices, indices.to(INT32)), (torch.clone, channels_last)):
        value, grad = outcome(unpooling(case, memory(given)), memory(values))
        assert_equal(value, expected, strides=False)
        assert_equal(grad.cpu(), stock[1], strides=False)


@each_dtype
@few_cases
def test_nan_and_infinities_are_copied(device, case, dtype):
    indices, forms = every_index(case, device)
    special = torch.tensor([math.nan, -math.inf, math.inf, 0.0, -0.0, 2.5], dtype=dtype, device=device)
    values = special.repeat(indices.numel() // 6 + 1)[: indices.numel()].view(indices.shape)
    expected = unpool_by_loops(values, indices, case.image)
    for given in forms:
        result = case.unpool(values, given)
        assert_equal(result, expected, strides=False)
        assert torch.equal(result.signbit() & (result == 0), expected.signbit() & (expected == 0))
    once = torch.zeros_like(indices)  # nothing of what loses a place is seen there
    result = case.unpool(values, once)
    assert_equal(result, unpool_by_loops(values, once, case.image), strides=False)


@full_cases
def test_foreign_indices(device, case):
    """Any place of the plane, in any order."""
    generator = torch.Generator().manual_seed(5)
    size, pooled = math.prod(case.image), case.stock_pool(case.input())[1]
    each = [torch.randperm(size, generator=generator) for _ in range(case.shape[0] * case.shape[1])]
    count = math.prod(pooled.shape[2:])
    indices = torch.stack([line.repeat(count // size + 1)[:count] for line in each]).view(pooled.shape).to(device)
    values = numbered(indices)
    expected = unpool_by_loops(values, indices, case.image)
    stock = outcome(lambda t: case.stock_unpool(t, indices.cpu()), values.cpu())
    for given, memory in itertools.product((indices, indices.to(INT32)), (torch.clone, channels_last)):
        value, grad = outcome(unpooling(case, memory(given)), memory(values))
        assert_equal(value, expected, strides=False)
        assert_equal(grad.cpu(), stock[1], strides=False)


@pytest.mark.parametrize("name", ["2/2 of odd sizes", "3/2/1", "(2, 3)", "line", "volume"])
def test_one_index_outside_its_window(device, name):
    """Among many inside theirs, wherever it is, also over a place that another has."""
    case = CASES[name]
    indices, _ = every_index(case, device)
    values, size = numbered(indices), math.prod(case.image)
    flat = indices.view(-1)
    for at, place in itertools.product((0, flat.numel() // 2, flat.numel() - 1), (0, size // 2, size - 1, None)):
        moved = flat.clone()
        moved[at] = flat[at - 1] if place is None else place
        moved = moved.view_as(indices)
        expected = unpool_by_loops(values, moved, case.image)
        for given, memory in itertools.product((moved, moved.to(INT32)), (torch.clone, channels_last)):
            assert_equal(case.unpool(memory(values), memory(given)), expected, strides=False)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_output_sizes(device, dims):
    """Every size that pools to the input's, in every form, with the indices of its own plane."""
    for kernel, stride, padding in ((2, None, 0), (3, 2, 1), (2, 3, 0)):
        case = Case((2, 3, *[4] * dims), kernel, stride, padding)
        values = numbered(case.input(device=device))
        (_, step, _, _), stock = case.numbers(), stock_unpool_of(dims)
        default = stock(values.cpu(), torch.zeros(case.shape, dtype=INT64), kernel, stride, padding).shape[2:]
        for extra in {1 - step[0], 0, step[0] - 1, step[0] // 2}:
            size = [n + extra for n in default]
            indices = repeated(Case((2, 3, *size), kernel, stride, padding), "cpu")[..., : case.shape[-1]]
            if indices.shape != case.shape:
                indices = indices.flatten()[:1].expand(case.shape).contiguous()
            expected = stock(values.cpu(), indices, kernel, stride, padding, size)
            for form in (size, tuple(size), torch.Size(size), [2, 3, *size], torch.Size((2, 3, *size)), [9, 9, *size]):
                result = ours("max_unpool", dims)(values, indices.to(device), kernel, stride, padding, form)
                assert_equal(result.cpu(), expected)
            result = ours("max_unpool", dims)(values[0], indices[0].to(device), kernel, stride, padding, size)
            assert_equal(result.cpu(), expected[0])


def test_output_size_of_codes(device):
    """The default counts the dilation in."""
    for case in (IMAGES["dilation"], IMAGES["2/2 of odd sizes"], IMAGES["(3, 2)"], CASES["volume dilation"]):
        values, codes = case.pool(case.input(device=device), CODES)
        kernel, stride, padding, dilation = case.numbers()
        steps = zip(values.shape[2:], kernel, stride, padding, dilation, strict=True)
        size = [(n - 1) * s + d * (k - 1) + 1 - 2 * p for n, k, s, p, d in steps]
        if any(a < b for a, b in zip(size, case.image, strict=True)):
            size = None
        result = ours("max_unpool", case.dims)(
            values, codes, kernel, stride, padding, output_size=case.image, dilation=dilation
        )
        assert result.shape[2:] == case.image
        if size is not None:
            plain = ours("max_unpool", case.dims)(values, codes, kernel, stride, padding, dilation=dilation)
            assert plain.shape[2:] == tuple(size)


def test_a_crop_of_padding(device):
    """Of codes whose places an output_size cuts off, all the others."""
    case = Case((1, 2, 7, 7), 2)
    values, codes = case.pool(case.input(device=device), CODES)
    assert pyaegpu.max_unpool2d(values, codes, 2).shape == (1, 2, 6, 6)
    assert pyaegpu.max_unpool2d(values, codes, 2, output_size=(7, 7)).shape == (1, 2, 7, 7)
    corner = torch.zeros_like(codes)
    result = pyaegpu.max_unpool2d(values, corner, 2, output_size=(5, 5))
    assert_equal(result, F.interpolate(values, scale_factor=1)[..., :3, :3].new_zeros(1, 2, 5, 5).index_put(
        tuple(torch.meshgrid(*(torch.arange(n, device=device) for n in (1, 2)), 2 * torch.arange(3, device=device),
                             2 * torch.arange(3, device=device), indexing="ij")), values))  # fmt: skip


PLANES = {
    "image": (IMAGES["2/2"], (1, 2, 3, 1)),
    "overlapping": (IMAGES["3/2/1"], (0, 1, 0, 3)),
    "line": (CASES["line"], (1, 0, 2)),
    "volume": (CASES["volume"], (1, 2, 0, 1, 2)),
}
each_plane = pytest.mark.parametrize(("case", "place"), PLANES.values(), ids=PLANES)
each_wrong = pytest.mark.parametrize(
    ("index_dtype", "wrong"),
    [(INT64, "size"), (INT64, -1), (INT64, 2**62), (INT64, -(2**63)), (INT64, "lower half right"), (INT32, "size"),
     (INT32, -1), (INT32, -(2**31)), (INT32, 2**31 - 1), (CODES, "positions"), (CODES, 255)],
    ids=str,
)  # fmt: skip
on_cpu = pytest.mark.parametrize("backend", ["reference", "cpu"])


def wrong_indices(case, place, index_dtype, wrong):
    """The value, and indices that have it at ``place``; mostly others, of the same value and of another, at the end."""
    input = case.input()
    indices = case.pool(input, CODES)[1] if index_dtype == CODES else case.stock_pool(input)[1].to(index_dtype)
    sizes = {"size": math.prod(case.image), "positions": math.prod(case.numbers()[0])}
    sizes["lower half right"] = int(indices[place]) + 2**32
    value = sizes.get(wrong, wrong)
    flat = indices.view(-1)
    if wrong != "lower half right":
        flat[-1] = value
        flat[-2] = sizes["positions"] + 1 if index_dtype == CODES else sizes["size"] + 1
    indices[place] = value
    return value, indices


@on_cpu
@each_wrong
@each_plane
def test_the_first_index_outside_the_plane_is_named(backend, case, place, index_dtype, wrong):
    value, indices = wrong_indices(case, place, index_dtype, wrong)
    values = numbered(indices)
    with pyaegpu.backend(backend):
        for memory in (torch.clone, channels_last):
            with pytest.raises(RuntimeError) as error:
                case.unpool(memory(values), memory(indices))
            text = str(error.value)
            assert "indices" in text and f"{value} at {place}" in text, text
            assert " x ".join(map(str, case.image if case.dims > 1 else case.image[:1])) in text
        if place[0] == 0:
            place = (0, *place[1:])
        with pytest.raises(RuntimeError) as error:
            case.unpool(values[place[0]], indices[place[0]])
        assert f"{value} at {place[1:]}" in str(error.value)


@on_cpu
def test_a_code_in_the_padding_is_named(backend):
    case = IMAGES["3/2/1"]
    values, codes = case.pool(case.input(), CODES)
    codes[1, 2, 0, 2] = 1  # above the image
    with pyaegpu.backend(backend), pytest.raises(RuntimeError, match=r"codes.*1 at \(1, 2, 0, 2\)"):
        case.unpool(values, codes)
    codes = case.pool(case.input(), CODES)[1]
    with pyaegpu.backend(backend), pytest.raises(RuntimeError, match=r"codes.* at \(0, 0, 4, "):
        pyaegpu.max_unpool2d(values, codes.fill_(8), 3, 2, 1, output_size=(8, 8))


@on_cpu
@each_plane
def test_a_wrong_index_does_not_reach_the_gradient(backend, case, place):
    """The error comes before a graph is made."""
    _, indices = wrong_indices(case, place, INT64, -1)
    values = numbered(indices).requires_grad_()
    with pyaegpu.backend(backend), pytest.raises(RuntimeError, match="indices"):
        case.unpool(values, indices)


@pytest.mark.gpu
@each_wrong
@each_plane
def test_a_wrong_index_is_left_out_on_a_gpu(kernel_device, case, place, index_dtype, wrong):
    if kernel_device.type == "cpu":
        pytest.skip("the CPU raises")
    _, indices = wrong_indices(case, place, index_dtype, wrong)
    values = numbered(indices)
    plain = case.decode(indices) if index_dtype == CODES else indices.long()
    outside = (plain < 0) | (plain >= math.prod(case.image))
    if index_dtype == CODES:
        outside |= indices >= math.prod(case.numbers()[0])
    kept, line = torch.where(outside, 0, values), plain.masked_fill(outside, 0)
    expected = unpool_by_loops(kept, line, case.image)
    result = case.unpool(values.to(kernel_device), indices.to(kernel_device))
    assert torch.equal(result.cpu().flatten(2)[..., 1:], expected.flatten(2)[..., 1:])


@full_cases
def test_every_element_is_written(device, case, nan_filled):
    indices, forms = every_index(case, device)
    for given, dtype in itertools.product(forms, (torch.float32, torch.float16)):
        for memory in (torch.clone, channels_last):
            value, grad = outcome(unpooling(case, memory(given)), memory(numbered(indices, dtype)))
            assert value.isfinite().all() and grad.isfinite().all()
    foreign = repeated(case, device)
    value, grad = outcome(lambda t: case.unpool(t, foreign), numbered(foreign))
    assert value.isfinite().all() and grad.isfinite().all()


@few_cases
def test_an_empty_batch(device, case):
    _, forms = every_index(case, device)
    for given in forms:
        leaf = numbered(given)[:0].requires_grad_()
        result = case.unpool(leaf, given[:0])
        assert result.shape == (0, *case.shape[1:])
        (grad,) = torch.autograd.grad(result.sum(), leaf)
        assert grad.shape == leaf.shape


def test_other_dtypes(device):
    """Integers are plain PyTorch's; stock has none."""
    case = IMAGES["3/2/1"]
    for indices, forms in (every_index(case, device), (repeated(case, device), (repeated(case, device),))):
        for dtype in (torch.int64, torch.int16, torch.uint8, torch.bool):
            values = numbered(indices).remainder(7).to(dtype)
            for given in forms:
                assert_equal(case.unpool(values, given), unpool_by_loops(values, indices, case.image))


def test_larger_planes(kernel_device):
    """More elements than one thread's share, of more than one tile, with a rest; foreign indices at the end."""
    for case in (Case((3, 5, 67, 131), 2), Case((2, 33, 35, 33), 3, 2, 1), Case((2, 5, 4100), 2),
                 Case((2, 3, 17, 23, 21), 2)):  # fmt: skip
        indices, forms = every_index(case, kernel_device)
        foreign = indices.clone()
        foreign.view(-1)[-1] = 0
        for memory in (torch.clone, channels_last):
            values = memory(numbered(indices))
            for given in (*forms, foreign):
                plain = foreign if given is foreign else indices
                stock = outcome(lambda t, c=case, i=plain: c.stock_unpool(t, i.cpu()), values.cpu())
                result = outcome(unpooling(case, memory(given)), values)
                assert_equal(result[0].cpu(), stock[0])
                assert_equal(result[1].cpu(), stock[1], strides=False)


def test_inputs_are_not_changed(device):
    case = IMAGES["3/2/1"]
    indices, forms = every_index(case, device)
    values = numbered(indices)
    for given in (*forms, repeated(case, device)):
        copies = values.clone(), given.clone()
        outcome(unpooling(case, given), values)
        assert torch.equal(values, copies[0]) and torch.equal(given, copies[1])
