"""The CPU kernels of transposed convolution called directly: geometries, layouts, dtypes, threads, what they write."""

import itertools

import oracle
import pytest
import torch
from conv_cases import SMALL, Case
from layouts import LAYOUTS
from oracle import DTYPES, assert_accurate

import pyaegpu  # noqa: F401  (defines the ops)

ops = torch.ops.pyaegpu_cpu
SLOPE = 0.2
ACTIVATIONS = (None, "relu", "leaky_relu", "tanh", "sigmoid")
each_activation = pytest.mark.parametrize("activation", ACTIVATIONS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
both_formats = pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])


def _case(input, weight, stride, padding, output_padding=0):
    return Case(input, weight, {"stride": stride, "padding": padding, "output_padding": output_padding})


# Whole and broken lanes of 16 pixels and channels, several chunks of 96 pixels, several strips of an image.
CASES = SMALL | {
    "whole lanes": _case((2, 16, 8, 16), (16, 1, 4, 4), 2, 1),
    "whole lanes, many taps": _case((2, 32, 16, 16), (32, 3, 4, 4), 2, 1),
    "broken lanes": _case((2, 17, 11, 13), (17, 3, 3, 3), 2, 1, 1),
    "strips": _case((1, 8, 61, 9), (8, 2, 5, 3), 2, 2, 1),
    "large strips": _case((1, 64, 40, 40), (64, 4, 4, 4), 2, 1),
    "kernel below stride": _case((1, 4, 50, 6), (4, 2, 1, 2), (3, 4), 0, (2, 3)),
    "many phases": _case((2, 3, 4, 5), (3, 3, 7, 7), 6, 2, 5),
    "wide padding": _case((1, 3, 9, 8), (3, 2, 5, 6), (2, 1), (4, 5), (1, 0)),
    "far padding": _case((1, 2, 9, 9), (2, 2, 2, 2), 2, (5, 7), 1),
    "column": _case((3, 5, 33, 1), (5, 2, 3, 1), (2, 1), (1, 0), (1, 0)),
    "five channels": _case((2, 3, 6, 7), (3, 5, 3, 3), 2, 1),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
few_cases = pytest.mark.parametrize(
    "case", [CASES[n] for n in ("broken lanes", "whole lanes, many taps", "asymmetric")]
)


@pytest.fixture(autouse=True)
def _every_element_is_written(nan_filled):
    """In all of these tests."""


def _pairs(case):
    numbers = {"output_padding": 0} | case.numbers
    return [
        [n, n] if isinstance(n, int) else list(n) for n in map(numbers.get, ("stride", "padding", "output_padding"))
    ]


def _activate(activation):
    return {"activation": activation, "negative_slope": SLOPE}


def _forward(case, tensors, activation, channels_last):
    kind = ACTIVATIONS.index(activation)
    return ops.conv_transpose2d_small_fwd(*tensors, *_pairs(case), kind, SLOPE, False, channels_last)


def _backward(case, g, input, weight, out, activation, channels_last, needed=(True, True, True)):
    kind = ACTIVATIONS.index(activation)
    out = None if activation is None else out
    stride, padding, _ = _pairs(case)
    return ops.conv_transpose2d_small_bwd(
        g, input, weight, out, stride, padding, kind, SLOPE, False, channels_last, *needed
    )


def _both(case, tensors, activation, channels_last, upstream=None, layout=lambda t: t):
    """Value and gradients; the derivative is a function of the rounded output, as stock's is."""
    out = _forward(case, tensors, activation, channels_last)
    g = oracle.upstreams([out])[0] if upstream is None else upstream
    return out, *_backward(case, layout(g), *tensors[:2], layout(out), activation, channels_last)


def _check(case, tensors, activation, channels_last, layout=lambda t: t):
    results = _both(case, tensors, activation, channels_last, layout=layout)
    upstream = oracle.upstreams([results[0]])
    formula = case.stock(**_activate(activation))
    columns = (
        oracle.run(formula, tensors, upstream=upstream),
        oracle.run(formula, [t.double() for t in tensors], upstream=upstream),
        oracle.rounding_of(case.stock())(tensors, upstream, None),
    )
    stock, truth, slacks = ([*values, *grads] for values, grads in columns)
    names = ("value", "d_input", "d_weight", "d_bias")
    order = torch.channels_last if channels_last else torch.contiguous_format
    for name, ours, *expected in zip(names, results, stock, truth, slacks, strict=True):
        assert ours.dtype == tensors[0].dtype
        assert ours.stride() == torch.empty(ours.shape).to(memory_format=order if ours.dim() == 4 else None).stride()
        assert_accurate(ours, *expected[:2], name, expected[2])


@both_formats
@each_activation
@each_case
def test_geometries(case, activation, channels_last):
    _check(case, case.tensors(), activation, channels_last)


@both_formats
@each_activation
@each_dtype
@few_cases
def test_dtypes(case, dtype, activation, channels_last):
    _check(case, case.tensors(dtype), activation, channels_last)


@each_dtype
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@few_cases
def test_layouts(case, layout, dtype):
    tensors = case.tensors(dtype)
    laid_out = [layout(t).detach() for t in tensors[:2]] + [torch.stack([tensors[2]] * 2, 1)[:, 0]]
    for channels_last in (False, True):
        _check(case, laid_out, "tanh", channels_last)


@each_dtype
@pytest.mark.parametrize("name", [name for name in LAYOUTS if "expanded" not in name])
@few_cases
def test_layouts_of_gradients(case, name, dtype):
    for channels_last in (False, True):
        _check(case, case.tensors(dtype), "tanh", channels_last, LAYOUTS[name])


def test_without_bias():
    case = CASES["broken lanes"]
    input, weight, bias = case.tensors()
    ours = _forward(case, (input, weight, None), "relu", False)
    assert torch.equal(ours, _forward(case, (input, weight, torch.zeros_like(bias)), "relu", False))


@both_formats
@few_cases
def test_only_what_is_needed(case, channels_last):
    tensors = case.tensors()
    out, *grads = _both(case, tensors, "sigmoid", channels_last)
    g = oracle.upstreams([out])[0]
    for needed in itertools.product((False, True), repeat=3):
        some = _backward(case, g, *tensors[:2], out, "sigmoid", channels_last, needed)
        for grad, whole, wanted in zip(some, grads, needed, strict=True):
            assert torch.equal(grad, whole) if wanted else grad.shape == (0,)


@both_formats
@each_dtype
@pytest.mark.parametrize("name", ["large strips", "whole lanes, many taps", "broken lanes", "strips"])
def test_threads_do_not_matter(name, dtype, channels_last):
    case = CASES[name]
    tensors = case.tensors(dtype)
    if channels_last:
        tensors[:2] = [t.to(memory_format=torch.channels_last) for t in tensors[:2]]
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(_both(case, tensors, "tanh", channels_last))
    torch.set_num_threads(2)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def _spread(ours, stock, exactly):
    """Whether the same elements are not finite; else those that are not in stock's."""
    if exactly:
        return torch.equal(ours.isnan(), stock.isnan()) and torch.equal(ours.isinf(), stock.isinf())
    return not (ours.isfinite() & ~stock.isfinite()).any()


@both_formats
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("index", [0, 1, 2, "g"])
@each_activation
def test_not_finite(activation, index, value, channels_last):
    case = CASES["broken lanes"]
    tensors = case.tensors()
    upstream = torch.ones_like(_forward(case, tensors, None, False))
    for place in (0, 2, -1):
        changed, g = [t.clone() for t in tensors], upstream.clone()
        (g if index == "g" else changed[index]).view(-1)[place] = value
        ours = _both(case, changed, activation, channels_last, g)
        stock = oracle.run(case.stock(**_activate(activation)), changed, upstream=[g])
        assert _spread(ours[0], stock[0][0], True)
        for grad, expected in zip(ours[1:], stock[1], strict=True):
            # In the products of the backward the zeros around the gradients meet every input and weight.
            assert _spread(grad, expected, index in (2, "g"))


SHAPES = {
    "1-D": (3, 5, 7),
    "2-D": (2, 6, 9, 11),
    "one channel": (4, 1, 5, 5),
    "few channels": (2, 3, 130, 129),
    "one pixel": (700, 33, 1, 1),
    "many channels": (2, 600, 3, 5),
    "3-D": (2, 4, 3, 5, 6),
}
FORMATS = {3: (torch.contiguous_format,), 4: (torch.contiguous_format, torch.channels_last)}
FORMATS[5] = (torch.contiguous_format, torch.channels_last_3d)


def _outputs(shape, dtype):
    generator = torch.Generator().manual_seed(4)
    for order in FORMATS[len(shape)]:
        y, g = torch.randn((2, *shape), generator=generator).to(dtype)
        yield y.contiguous(memory_format=order), g


@each_activation
@each_dtype
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_bias_act(shape, dtype, activation):
    bias = torch.randn(shape[1]).to(dtype)
    for with_bias, (y, _) in itertools.product((False, True), _outputs(shape, dtype)):
        column = bias.view(-1, *[1] * (len(shape) - 2)) if with_bias else torch.zeros((), dtype=dtype)
        truth = oracle.activate(y.double() + column.double(), activation, SLOPE)
        stock = oracle.activate(y + column, activation, SLOPE)
        strides = y.stride()
        ops.bias_act_(y, bias if with_bias else None, ACTIVATIONS.index(activation), SLOPE)
        assert y.stride() == strides
        assert_accurate(y, stock, truth)


@pytest.mark.parametrize("activation", ACTIVATIONS[1:])
@each_dtype
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_bias_act_backward(shape, dtype, activation):
    kind = ACTIVATIONS.index(activation)
    for y, g in _outputs(shape, dtype):
        y = oracle.activate(y, activation, SLOPE)
        stock, truth = (_derivative(a, b, activation) for a, b in ((g, y), (g.double(), y.double())))
        for upstream in (g, g.transpose(0, 1).contiguous().transpose(0, 1)):
            d_y, d_bias = ops.bias_act_bwd(upstream, y, True, kind, SLOPE)
            assert d_y.stride() == y.stride()
            assert_accurate(d_y, stock, truth, "d_y")
            others = (0, *range(2, len(shape)))
            slack = _rounding(truth, dtype).sum(others).amax()
            assert_accurate(d_bias, stock.sum(others), truth.sum(others), "d_bias", slack)
            only, nothing = ops.bias_act_bwd(upstream, y, False, kind, SLOPE)
            assert torch.equal(only, d_y)
            assert nothing.shape == (0,)
        torch.set_num_threads(1)
        alone = ops.bias_act_bwd(g, y, True, kind, SLOPE)
        torch.set_num_threads(2)
        assert all(map(torch.equal, alone, (d_y, d_bias)))


def _rounding(terms, dtype):
    """A sum of these may be off by as much, however they cancel."""
    return terms.abs() * torch.finfo(torch.promote_types(dtype, torch.float32)).eps


def _derivative(g, out, activation):
    if activation == "relu":
        return torch.where(out <= 0, torch.zeros_like(g), g)
    if activation == "leaky_relu":
        return torch.where(out > 0, g, g * SLOPE)
    return g * (1 - out * out) if activation == "tanh" else g * (1 - out) * out
