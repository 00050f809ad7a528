"""Unpooling without indices: nearest_unpool1d to 3d and bed_of_nails1d to 3d against plain PyTorch."""

import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from layouts import LAYOUTS
from oracle import DTYPES, check
from pool_cases import assert_equal, assert_strides, channels_last, ours, outcome, upstream_of
from torch import func
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import pyaegpu

SHAPES = {
    "line": ((2, 3, 7), 3),
    "long line": ((1, 2, 301), 2),
    "image by 2": ((2, 3, 4, 5), 2),
    "image by (3, 1)": ((2, 3, 4, 5), (3, 1)),
    "image by (2, 5)": ((1, 17, 3, 7), (2, 5)),
    "image by 7": ((3, 1, 2, 3), 7),
    "one pixel": ((2, 5, 1, 1), 4),
    "image by 1": ((2, 3, 3, 2), 1),
    "volume by 2": ((2, 3, 2, 3, 4), 2),
    "volume by (1, 2, 3)": ((1, 2, 3, 2, 5), (1, 2, 3)),
}
each_shape = pytest.mark.parametrize(("shape", "kernel"), SHAPES.values(), ids=SHAPES)
FEW = {name: SHAPES[name] for name in ("line", "image by (3, 1)", "volume by (1, 2, 3)")}
few_shapes = pytest.mark.parametrize(("shape", "kernel"), FEW.values(), ids=FEW)
NAMES = {False: "nearest_unpool", True: "bed_of_nails"}
each_kind = pytest.mark.parametrize("nails", [False, True], ids=NAMES.values())
FORMATS = (torch.clone, channels_last)
EVERY = LAYOUTS | {
    "channels_last": channels_last,
    "channels_last, sliced": lambda t: LAYOUTS["sliced"](channels_last(t)),
    "expanded_channels": lambda t: t[:, :1].expand_as(t),
    "negated": lambda t: torch._neg_view(-t),
}


def values_of(shape, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)


def call_of(shape, kernel, nails):
    function = ours(NAMES[nails], len(shape) - 2)
    return lambda t: function(t, kernel)


def textbook(shape, kernel, nails):
    """Of [N, C, *spatial] or without N."""
    dims = len(shape) - 2
    sizes = (kernel,) * dims if isinstance(kernel, int) else kernel

    def call(t):
        out = t
        for axis, k in enumerate(sizes, -dims):
            out = out.repeat_interleave(k, axis)
        if nails:
            cells = torch.zeros(out.shape[-dims:], dtype=t.dtype, device=t.device)
            cells[tuple(slice(None, None, k) for k in sizes)] = 1
            out = out * cells
        return out

    return call


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_kind
@each_shape
def test_values_and_gradients(device, shape, kernel, nails, dtype):
    for memory in FORMATS:
        input = memory(values_of(shape, dtype, device))
        call, stock = call_of(shape, kernel, nails), textbook(shape, kernel, nails)
        (values, *_), (grad,) = check(call, stock, [input])
        assert_equal(values, stock(input), strides=False)
        assert_strides(values, memory(values))
        assert grad.dtype == dtype
        assert_equal(call(input[0]), values[0], strides=False)
        assert call(input[0]).is_contiguous() or memory is channels_last


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gradients_of_half_precision_are_rounded_once(kernel_device, dtype):
    """Sums of 49 and 343 are kept in float32."""
    for shape, kernel in (((2, 3, 5, 4), 7), ((1, 2, 2, 3, 2), 7)):
        call = call_of(shape, kernel, False)
        input = values_of(shape, dtype, kernel_device)
        upstream = upstream_of(call(input)).abs()
        _, grad = outcome(call, input, upstream)
        _, exact = outcome(textbook(shape, kernel, False), input.double(), upstream.double())
        assert ((grad.double() - exact).abs() <= 0.51 * torch.finfo(dtype).eps * exact * 2).all()


@pytest.mark.parametrize("kernel", [2, 3, 5, 7, 41])
def test_every_size_is_exact(device, kernel):
    """Also where interpolate's place, rounded to float32, is that of a neighbour: by 41."""
    for size in (2, 5, 13, 41, 107, 251, 1021):
        line = torch.arange(float(size), device=device).view(1, 1, size)
        assert_equal(pyaegpu.nearest_unpool1d(line, kernel), line.repeat_interleave(kernel, 2))
        assert_equal(pyaegpu.bed_of_nails1d(line, kernel)[..., ::kernel], line, strides=False)


@each_kind
@each_shape
def test_the_result_may_be_changed_in_place(device, shape, kernel, nails):
    """It is no view of the input, and no element of it is another."""
    input = values_of(shape, device=device)
    copy, result = input.clone(), call_of(shape, kernel, nails)(input)
    expected = result.clone() + 1
    assert_equal(result.add_(1), expected)
    assert torch.equal(input, copy)


@each_kind
@few_shapes
def test_layouts(device, shape, kernel, nails):
    call, stock = call_of(shape, kernel, nails), textbook(shape, kernel, nails)
    for change in EVERY.values():
        input = change(values_of(shape, device=device))
        upstream = change(upstream_of(stock(input)))
        found, expected = outcome(call, input, upstream), outcome(stock, input, upstream)
        assert_equal(found[0], expected[0], strides=False)
        torch.testing.assert_close(found[1], expected[1])
    one = torch.ones((), device=device).expand(stock(input).shape)
    assert_equal(*(outcome(fn, values_of(shape, device=device), one)[1] for fn in (call, stock)), strides=False)


@each_kind
@few_shapes
def test_nan_and_infinities(device, shape, kernel, nails):
    """Between nails are zeros, whatever the values."""
    special = torch.tensor([math.nan, -math.inf, math.inf, -0.0], device=device)
    input = special.repeat(math.prod(shape) // 4 + 1)[: math.prod(shape)].view(shape)
    value, grad = outcome(call_of(shape, kernel, nails), input)
    windows = textbook(shape, kernel, False)(input)
    holes = textbook(shape, kernel, True)(torch.ones_like(input)) == 0
    assert_equal(value, windows.masked_fill(holes, 0.0) if nails else windows, strides=False)
    assert not value[holes].signbit().any() or not nails
    assert grad.isfinite().all()


@each_kind
@each_shape
def test_every_element_is_written(device, shape, kernel, nails, nan_filled):
    for dtype, memory in itertools.product((torch.float32, torch.bfloat16), FORMATS):
        value, grad = outcome(call_of(shape, kernel, nails), memory(values_of(shape, dtype, device)))
        assert value.isfinite().all() and grad.isfinite().all()


@each_kind
@few_shapes
def test_empty_batches(device, shape, kernel, nails):
    value, grad = outcome(call_of(shape, kernel, nails), values_of(shape, device=device)[:0])
    expected = textbook(shape, kernel, nails)(torch.empty(0, *shape[1:], device=device))
    assert value.shape == expected.shape and grad.shape == (0, *shape[1:])


@each_kind
def test_other_dtypes(device, nails):
    for dtype in (torch.int64, torch.uint8, torch.bool, torch.complex64):
        input = values_of((2, 3, 4, 5)).mul(9).to(dtype).to(device)
        assert_equal(call_of((2, 3, 4, 5), (2, 3), nails)(input), textbook((2, 3, 4, 5), (2, 3), nails)(input))


@each_kind
def test_kernels_in_every_form(device, nails):
    input = values_of((2, 3, 4, 5), device=device)
    expected = textbook((2, 3, 4, 5), 2, nails)(input)
    for kernel in (2, (2, 2), [2, 2], [2], torch.tensor(2)):
        assert_equal(ours(NAMES[nails], 2)(input, kernel), expected)
    assert_equal(ours(NAMES[nails], 2)(input=input, kernel_size=2), expected)


@pytest.mark.filterwarnings("ignore:`torch.jit")
@each_kind
@few_shapes
def test_derivatives(device, shape, kernel, nails):
    call, stock = call_of(shape, kernel, nails), textbook(shape, kernel, nails)
    leaf = values_of(shape, torch.float64, device).requires_grad_()
    assert gradcheck(call, leaf, fast_mode=True) and gradgradcheck(call, leaf, fast_mode=True)
    input = leaf.detach()
    cubes = [lambda t, f=f: f(t).pow(3).sum() for f in (call, stock)]
    torch.testing.assert_close(*(func.grad(f)(input) for f in cubes))
    torch.testing.assert_close(*(func.jacrev(f)(input) for f in (call, stock)))
    stacked = torch.stack([input, 2 * input])
    for dim in (0, 1, input.dim()):
        given = stacked.movedim(0, dim)
        assert_equal(func.vmap(call, dim)(given), torch.stack([stock(t) for t in given.unbind(dim)]), strides=False)
        torch.testing.assert_close(*(func.vmap(func.grad(f), dim)(given) for f in cubes))
    values = call(leaf)
    upstream = torch.stack([upstream_of(values, seed) for seed in range(3)])
    batched = torch.autograd.grad(values, leaf, upstream, is_grads_batched=True, retain_graph=True)[0]
    each = [torch.autograd.grad(values, leaf, u, retain_graph=True)[0] for u in upstream]
    torch.testing.assert_close(batched, torch.stack(each))
    with forward_ad.dual_level():
        try:
            tangent = forward_ad.unpack_dual(call(forward_ad.make_dual(input, input.cos()))).tangent
        except (RuntimeError, NotImplementedError) as error:
            assert "forward" in str(error).lower() or "jvp" in str(error)
        else:
            torch.testing.assert_close(tangent, stock(input.cos()))


@each_kind
def test_nothing_is_stored(kernel_device, nails):
    stored, leaf = [], values_of((2, 3, 4, 5), device=kernel_device).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: stored.append(t) or t, lambda t: t):
        call_of((2, 3, 4, 5), 2, nails)(leaf)
    assert not stored


@each_kind
@few_shapes
def test_compiled(kernel_device, shape, kernel, nails):
    torch._dynamo.reset()
    call = call_of(shape, kernel, nails)
    inner = torch.compile(call, fullgraph=True, backend="aot_eager", dynamic=True)
    for memory, batch in itertools.product(FORMATS, (2, 3)):
        input = memory(values_of((batch, *shape[1:]), device=kernel_device))
        for found, expected in zip(outcome(inner, input), outcome(call, input), strict=True):
            assert_equal(found, expected)
    leaf = input.requires_grad_()
    with pytest.raises(RuntimeError, match=r"double backward|no derivative"):
        (grad,) = torch.autograd.grad(inner(leaf).pow(2).sum(), leaf, create_graph=True)
        (grad**2).sum().backward()
    gradient = func.grad(lambda t: call(t).pow(3).sum())
    torch.testing.assert_close(torch.compile(gradient, fullgraph=True, backend="aot_eager")(input), gradient(input))


@pytest.mark.filterwarnings("ignore")
def test_exported_and_traced(kernel_device):
    class Both(torch.nn.Module):
        def forward(self, x):
            return pyaegpu.nearest_unpool2d(x, (2, 3)) + pyaegpu.bed_of_nails2d(x, (2, 3))

    x = values_of((2, 3, 4, 5), device=kernel_device)
    program = torch.export.export(Both(), (x,), dynamic_shapes=({0: torch.export.Dim("n", min=2, max=64)},)).module()
    traced = torch.jit.trace(Both(), x, check_trace=False)
    for module in (program, traced):
        for t in (x, torch.cat([x, -x, x])):
            assert_equal(module(t), Both()(t))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_changes_no_dtype(device, half):
    for dtype, nails in itertools.product(DTYPES, (False, True)):
        input = values_of((2, 3, 4, 5), dtype, device)
        with torch.autocast(device.type, half):
            assert call_of((2, 3, 4, 5), 2, nails)(input).dtype == dtype


@each_kind
def test_equal_bits(kernel_device, nails, nan_filled):
    """From run to run, and from several threads."""
    for shape, memory in itertools.product(((3, 16, 33, 31), (1, 1, 200, 201), (2, 3, 9, 8, 31)), FORMATS):
        call, input = call_of(shape, 3, nails), memory(values_of(shape, device=kernel_device))
        first = outcome(call, input)
        with ThreadPoolExecutor(3) as pool:
            for other in pool.map(lambda _, f=call, i=input: outcome(f, i), range(3)):
                assert all(map(torch.equal, first, other))
        assert_equal(first[0], textbook(shape, 3, nails)(input), strides=False)


def test_results_do_not_depend_on_the_number_of_threads():
    threads, input, results = torch.get_num_threads(), values_of((3, 17, 33, 31)), []
    with pyaegpu.backend("cpu"):
        try:
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                results.append(outcome(call_of((1, 1, 1, 1), 3, False), input))
        finally:
            torch.set_num_threads(threads)
    assert all(all(map(torch.equal, results[0], other)) for other in results[1:])


WRONG = {
    "input of rank 2": ({"input": torch.rand(3, 4)}, RuntimeError, r"input.*\(3, 4\)"),
    "input of rank 5": ({"input": torch.rand(1, 1, 1, 3, 4)}, RuntimeError, "input"),
    "input without channels": ({"input": torch.rand(2, 0, 3, 4)}, RuntimeError, "input.*only N may be 0"),
    "input as a list": ({"input": [1.0]}, TypeError, "input.*list"),
    "kernel of 0": ({"kernel_size": 0}, RuntimeError, "kernel_size.*at least 1.*0"),
    "negative kernel": ({"kernel_size": (2, -2)}, RuntimeError, "kernel_size"),
    "kernel of three numbers": ({"kernel_size": (2, 2, 2)}, RuntimeError, r"kernel_size.*2 of them.*\(2, 2, 2\)"),
    "kernel as a float": ({"kernel_size": 2.0}, TypeError, "kernel_size.*2.0"),
    "kernel as text": ({"kernel_size": "2"}, TypeError, "kernel_size"),
    "kernel as nothing": ({"kernel_size": None}, TypeError, "kernel_size"),
    "True as a kernel": ({"kernel_size": True}, TypeError, "kernel_size"),
}


@pytest.mark.parametrize("name", WRONG)
@each_kind
@pytest.mark.parametrize("backend", ["reference", "cpu", "auto"])
def test_bad_arguments(backend, nails, name):
    wrong, error, text = WRONG[name]
    with pyaegpu.backend(backend), pytest.raises(error, match=text):
        ours(NAMES[nails], 2)(**({"input": torch.rand(2, 3, 4, 5), "kernel_size": 2} | wrong))
