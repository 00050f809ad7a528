"""Max-pooling and max-unpooling on a GPU: every kernel against the CPU, foreign and bad indices, graphs, host
synchronisation and large tensors."""

import itertools

import pytest
import torch
from cuda_runs import assert_never_waits, captured, on_a_side_stream
from oracle import DTYPES
from pool_cases import CODES, INT32, INT64, Case, assert_equal, channels_last, each_index_dtype, outcome

import pyaegpu

pytestmark = pytest.mark.gpu

CASES = {
    "2/2": Case((2, 64, 56, 48), 2),
    "2/2 of half vectors": Case((2, 24, 28, 28), 2),
    "2/2 of single elements": Case((3, 16, 14, 14), 2),
    "2/2 of odd rows": Case((2, 40, 33, 64), 2),
    "2/2 of odd sizes": Case((2, 7, 33, 47), 2),
    "2/2 ceil": Case((2, 16, 31, 40), 2, ceil_mode=True),
    "3/2/1": Case((2, 32, 40, 56), 3, 2, 1),
    "3/2/1 of odd sizes": Case((2, 11, 37, 41), 3, 2, 1),
    "3/1/1": Case((1, 8, 17, 24), 3, 1, 1),
    "3/3": Case((2, 16, 33, 33), 3),
    "2/3": Case((2, 8, 32, 31), 2, 3),
    "dilation": Case((1, 16, 30, 32), 3, 2, 1, 2),
    "16 x 16": Case((1, 8, 64, 48), 16),
    "line": Case((3, 5, 4100), 2),
    "line 3/2/1": Case((3, 5, 1024), 3, 2, 1),
    "volume": Case((2, 8, 12, 14, 16), 2),
    "volume (1, 2, 2)": Case((2, 8, 5, 14, 16), (1, 2, 2)),
    "volume 3/2/1": Case((1, 16, 7, 9, 16), 3, 2, 1),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
# One for each way that foreign indices are noticed.
FOREIGN = {name: CASES[name] for name in ("2/2", "2/2 of odd sizes", "3/2/1", "3/2/1 of odd sizes", "line", "volume")}
foreign_cases = pytest.mark.parametrize("case", FOREIGN.values(), ids=FOREIGN)
MEMORIES = (torch.clone, channels_last)


def on_the_cpu(fn, *tensors):
    with pyaegpu.backend("reference"):
        return fn(*(t.cpu() for t in tensors))


def integers(shape, dtype, low=1, high=9):
    """Sums of a few of these are exact in every dtype."""
    return torch.randint(low, high, shape, device="cuda").to(dtype)


def off_vectors(t):
    """Dense, but a 16-byte access at its beginning would not be aligned."""
    memory = t.new_empty(t.numel() + 1)[1:].as_strided(t.shape, t.stride())
    return memory.copy_(t)


@each_index_dtype
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_case
def test_pooling(gpu, case, dtype, index_dtype, nan_filled):
    input = case.input(dtype, ties=True)
    input.view(-1)[::97] = float("nan")
    input.view(-1)[::5] = -float("inf")
    pool = lambda t: case.pool(t, index_dtype)  # noqa: E731
    expected, indices = on_the_cpu(pool, input)
    upstream = integers(expected.shape, dtype)
    expected, gradient = on_the_cpu(lambda t, g: outcome(pool, t, g), input, upstream)
    for memory, place in itertools.product(MEMORIES, (torch.clone, off_vectors)):
        leaf = place(memory(input.cuda()))
        value, grad = outcome(pool, leaf, upstream)
        assert_equal(value.cpu(), expected, strides=False)
        assert_equal(pool(leaf)[1].cpu(), indices, strides=False)
        assert_equal(grad.cpu(), gradient, strides=False)
        assert_equal(case.pool(leaf).cpu(), expected, strides=False)


@pytest.mark.parametrize("index_dtype", [CODES, INT32, INT64], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_case
def test_unpooling(gpu, case, dtype, index_dtype, nan_filled):
    indices = case.stock_pool(case.input(ties=True))[1].to(INT32) if index_dtype == INT32 else None
    if indices is None:
        indices = on_the_cpu(lambda t: case.pool(t, index_dtype)[1], case.input(ties=True))
    values = integers(indices.shape, dtype)
    upstream = integers(case.shape, dtype)
    call = lambda t, i, g: outcome(lambda v: case.unpool(v, i), t, g)  # noqa: E731
    expected, gradient = on_the_cpu(call, values, indices, upstream)
    for memory, place in itertools.product(MEMORIES, (torch.clone, off_vectors)):
        tensors = [place(memory(t)) for t in (values, indices.cuda(), upstream)]
        value, grad = call(*tensors)
        assert_equal(value.cpu(), expected, strides=False)
        assert_equal(grad.cpu(), gradient, strides=False)


def foreign(case, share, low=0, high=None):
    """Indices of which a share are anywhere from `low` to `high`, by default in the plane."""
    indices = case.stock_pool(case.input())[1].cuda()
    size = torch.Size(case.image).numel()
    elsewhere = torch.randint(low, size if high is None else size + high, indices.shape, device="cuda")
    return torch.where(torch.rand(indices.shape, device="cuda") < share, elsewhere, indices)


@pytest.mark.parametrize("index_dtype", [INT32, INT64], ids=str)
@foreign_cases
def test_foreign_indices_and_duplicates(gpu, case, index_dtype, nan_filled):
    """Of several values with one place the last is kept, each time."""
    for share, high in ((0.001, None), (0.5, None), (1.0, None), (1.0, 40 - torch.Size(case.image).numel())):
        indices = foreign(case, share, high=high).to(index_dtype)
        values = torch.randn(indices.shape, device="cuda")
        expected = on_the_cpu(case.unpool, values, indices)
        for memory in MEMORIES:
            for _ in range(3):
                assert_equal(case.unpool(memory(values), memory(indices)).cpu(), expected, strides=False)


@pytest.mark.parametrize("place", [0, -1], ids=["first", "last"])
@foreign_cases
def test_one_foreign_index(gpu, case, place):
    """Wherever it is, somebody looks at it."""
    values = torch.ones(case.stock_pool(case.input())[1].shape, device="cuda")
    for spot in (0, -1):
        indices = case.stock_pool(case.input())[1].cuda()
        indices.view(-1)[spot] = torch.Size(case.image).numel() - 1 if place else 0
        expected = on_the_cpu(case.unpool, values, indices)
        for memory in MEMORIES:
            assert_equal(case.unpool(memory(values), memory(indices)).cpu(), expected, strides=False)


def between_guards(shape, dtype):
    """Two tensors of a sentinel around free memory that the next tensor of this size is put in."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    count = torch.Size(shape).numel()
    before, hole, after = (torch.full((count,), 7.0, dtype=dtype, device="cuda") for _ in range(3))
    return before, after, hole.data_ptr()


@pytest.mark.parametrize("memory", MEMORIES, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("window", [(2,), (3, 2, 1)], ids=str)
def test_bad_indices_write_nothing_outside(gpu, window, memory):
    """Those inside the image are where they belong; the output lies between two tensors that nobody may touch."""
    case = Case((2, 64, 96, 96), *window)
    size = torch.Size(case.image).numel()
    near, far = foreign(case, 0.3, -2000, 2000), foreign(case, 0.3)
    far.view(-1)[::7] = 2**33 + 5
    far.view(-1)[::11] = -(2**40)
    wild = foreign(case, 0.0).to(CODES)  # most are codes of no position
    for indices in (memory(t) for t in (near, near.to(INT32), far, wild)):
        values = memory(torch.randn(indices.shape, device="cuda"))
        before, after, place = between_guards(case.shape, values.dtype)
        out = case.unpool(values, indices)
        assert bool((before == 7).all()) and bool((after == 7).all())
        if out.data_ptr() != place:
            pytest.skip("the allocator put the output elsewhere")
        grad = outcome(lambda t, i=indices: case.unpool(t, i), values, torch.ones_like(out))[1]
        assert bool(((grad == 0) | (grad == 1)).all())
        if indices.dtype == CODES:
            continue
        inside = (indices >= 0) & (indices < size)
        assert_equal(grad, inside.to(grad.dtype), strides=False)
        kept = out.flatten(2).gather(2, torch.where(inside, indices, 0).long().flatten(2)).view_as(indices)
        assert bool((kept[inside] != 0).all())


def step_of(case, index_dtype):
    """Pooling, unpooling and both gradients."""

    def step(input, upstream):
        leaf = input.detach().requires_grad_()
        pooled, indices = case.pool(leaf, index_dtype)
        image = case.unpool(pooled, indices)
        return pooled.detach(), indices, image.detach(), *torch.autograd.grad(image, leaf, upstream)

    return step


@each_index_dtype
@each_case
def test_a_captured_graph(gpu, case, index_dtype):
    step = step_of(case, index_dtype)
    input, upstream = case.input(device="cuda"), integers(case.shape, torch.float32)
    graph, results = captured(lambda: step(input, upstream))
    for factor in (1.0, -2.0):
        input.mul_(factor)
        graph.replay()
        assert_equal(results, step(input, upstream), strides=False)


@foreign_cases
def test_a_captured_graph_meets_foreign_indices(gpu, case):
    """Each replay asks anew whether an index is foreign."""
    own, others = foreign(case, 0.0), foreign(case, 0.5)
    indices, values = own.clone(), torch.randn(own.shape, device="cuda")
    graph, results = captured(lambda: (case.unpool(values, indices),))
    for given in (own, others, own):
        indices.copy_(given)
        graph.replay()
        assert_equal(results[0].cpu(), on_the_cpu(case.unpool, values, indices), strides=False)


@each_index_dtype
@each_case
def test_the_host_never_waits(gpu, case, index_dtype):
    step, upstream = step_of(case, index_dtype), integers(case.shape, torch.float32)
    inputs = [memory(case.input(device="cuda")) for memory in MEMORIES]
    indices = foreign(case, 0.5)
    values = torch.ones(indices.shape, device="cuda")

    def steps():
        for input in inputs:
            step(input, upstream)
        case.unpool(values, indices)

    assert_never_waits(steps)


@each_index_dtype
@foreign_cases
def test_on_another_stream(gpu, case, index_dtype):
    step, tensors = step_of(case, index_dtype), (case.input(device="cuda"), integers(case.shape, torch.float32))
    assert_equal(on_a_side_stream(step, tensors), step(*tensors), strides=False)


@foreign_cases
def test_foreign_indices_on_another_stream(gpu, case):
    indices = foreign(case, 0.5)
    tensors = torch.randn(indices.shape, device="cuda"), indices
    assert_equal(on_a_side_stream(case.unpool, tensors), case.unpool(*tensors), strides=False)


@pytest.mark.parametrize("window", [(2,), (3, 2, 1)], ids=str)
@pytest.mark.parametrize("memory", MEMORIES, ids=["contiguous", "channels_last"])
def test_more_elements_than_32_bits_count(gpu, memory, window, large_memory):
    """The last image of 2^31 + 2^25 elements is what it is alone."""
    large_memory(20)
    case = Case((65, 8, 2048, 2048), *window)
    last = Case((1, *case.shape[1:]), *window)
    input = memory(torch.zeros(case.shape, dtype=torch.bfloat16, device="cuda"))
    input[-1] = torch.randn(case.shape[1:], device="cuda")
    pooled, codes = case.pool(input, CODES)
    expected, alone = last.pool(memory(input[-1:].clone()), CODES)
    assert torch.equal(pooled[-1:], expected) and torch.equal(codes[-1:], alone)
    del input
    image = case.unpool(pooled, codes)
    assert torch.equal(image[-1:], last.unpool(memory(expected), memory(alone)))
    assert not bool(image[0].any())


@each_index_dtype
def test_a_plane_of_more_elements_than_32_bits_count(gpu, index_dtype, large_memory):
    large_memory(30)
    count = 2**30 + 1031
    pooled = torch.zeros(1, 1, count, dtype=torch.bfloat16, device="cuda")
    pooled[..., -1031:] = torch.randn(1031, device="cuda")
    if index_dtype == CODES:
        indices = torch.ones(1, 1, count, dtype=CODES, device="cuda")
    else:
        indices = torch.arange(1, 2 * count, 2, device="cuda").view(1, 1, count)
    image = pyaegpu.max_unpool1d(pooled, indices, 2)
    assert torch.equal(image[..., 1::2], pooled) and not bool(image[..., ::2].any())
    del pooled
    values, again = pyaegpu.max_pool1d(image[..., -2062:], 2, return_indices=True, index_dtype=index_dtype)
    whole, places = pyaegpu.max_pool1d(image, 2, return_indices=True, index_dtype=index_dtype)
    assert torch.equal(whole[..., -1031:], values)
    offset = 0 if index_dtype == CODES else 2 * count - 2062
    assert torch.equal(places[..., -1031:].long(), again.long() + offset)
