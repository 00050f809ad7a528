"""Memory layouts of input, weight and upstream gradient, and those of the results, which are stock PyTorch's."""

import itertools

import oracle
import pytest
import torch
from conv_cases import ACTIVATIONS, CASES, Case, each_case, strides_of
from layouts import LAYOUTS
from oracle import run

import pyaegpu

# The same numbers on every backend; a card's convolutions have a say of their own in the layout.
on_the_cpu = pytest.mark.parametrize("backend", ["reference", "cpu"])


def layouts_of(tensor):
    """Those that a tensor of so many dimensions can have."""
    for name, change in LAYOUTS.items():
        if name != "channels_last":
            yield name, change
        elif tensor.dim() > 3:
            yield name, channels_last


def channels_last(t):
    return t.to(memory_format={4: torch.channels_last, 5: torch.channels_last_3d}.get(t.dim(), torch.contiguous_format))


@pytest.mark.parametrize("name", ["asymmetric", "dense 4x4", "groups", "1-D", "3-D"])
def test_any_layout_of_input_and_weight(device, name):
    case = CASES[name]
    input, weight, bias = case.tensors(device=device)
    for (_, first), (_, second) in itertools.product(layouts_of(input), layouts_of(weight)):
        case.check((first(input), second(weight), bias), activation="tanh")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["asymmetric", "dense 4x4"])
def test_any_layout_of_the_input_in_other_dtypes(device, name, dtype):
    case = CASES[name]
    input, weight, bias = case.tensors(dtype, device)
    for _, change in layouts_of(input):
        case.check((change(input), weight, bias), activation="relu")


@pytest.mark.parametrize("name", ["asymmetric", "3x3", "dense 4x4", "groups", "1-D", "3-D"])
@pytest.mark.parametrize("memory", [lambda t: t, channels_last], ids=["contiguous", "channels_last"])
def test_any_layout_of_the_upstream_gradient(device, name, memory):
    case = CASES[name]
    tensors = case.tensors(device=device)
    tensors[:2] = [memory(t) for t in tensors[:2]]
    upstream = oracle.upstreams([case.stock()(*tensors)])[0]
    for _, change in layouts_of(upstream):
        for activation in ("none", "relu", "sigmoid"):
            options = ACTIVATIONS[activation]
            case.check(tensors, upstream=[change(upstream)], **options)
    one = torch.ones((), device=device).expand(upstream.shape)
    case.check(tensors, upstream=[one], activation="tanh")


@pytest.mark.parametrize("name", ["4x4", "dense 4x4"])
def test_any_layout_of_the_bias(device, name):
    case = CASES[name]
    input, weight, bias = case.tensors(device=device)
    for changed in (torch.stack([bias, bias], 1)[:, 0], bias[:1].expand(case.channels), LAYOUTS["sliced"](bias)):
        for activation in ("none", "tanh"):
            options = ACTIVATIONS[activation]
            case.check((input, weight, changed), **options)


FORMATS = list(itertools.product(("contiguous", "channels_last"), repeat=2))


def in_formats(tensors, formats):
    return [channels_last(t) if f == "channels_last" else t for t, f in zip(tensors, formats, strict=False)] + list(
        tensors[len(formats) :]
    )


def assert_strides_of_stock(case, tensors, upstream=None):
    """With an activation, up to sizes of one: stock's activations set the strides of these anew, by their own rules."""
    for activation in ("none", "relu", "leaky by -0.3"):
        results = [run(fn(**ACTIVATIONS[activation]), tensors, upstream=upstream) for fn in (case.ours, case.stock)]
        strides = [strides_of((*values, *grads), activation == "none") for values, grads in results]
        assert strides[0] == strides[1], (activation, [t.shape for t in tensors], [t.stride() for t in tensors])


@each_case
def test_strides_of_the_results_are_stocks(device, case):
    for formats in FORMATS:
        for bias, dtype in ((True, torch.float32), (False, torch.bfloat16)):
            assert_strides_of_stock(case, in_formats(case.tensors(dtype, device, bias), formats))


AMBIGUOUS = {
    "one channel in": Case((2, 1, 3, 4), (1, 2, 3, 3)),
    "one channel out": Case((2, 3, 3, 4), (3, 1, 3, 3)),
    "one of both": Case((2, 1, 3, 4), (1, 1, 3, 3)),
    "one pixel": Case((2, 3, 1, 1), (3, 2, 1, 1)),
    "one pixel in": Case((2, 3, 1, 1), (3, 2, 4, 4)),
    "1x1": Case((2, 3, 3, 4), (3, 2, 1, 1)),
    "one row": Case((2, 3, 1, 4), (3, 2, 1, 3)),
    "one column": Case((2, 3, 4, 1), (3, 2, 3, 1)),
    "one sample": Case((1, 3, 4, 5), (3, 2, 2, 2)),
    "one of all": Case((1, 1, 1, 1), (1, 1, 1, 1)),
    "one channel in, dense": Case((2, 1, 3, 4), (1, 6, 3, 3)),
    "one pixel in, dense": Case((2, 3, 1, 1), (3, 6, 4, 4)),
    "1x1, dense": Case((2, 3, 3, 4), (3, 6, 1, 1)),
    "one sample, 3-D": Case((1, 1, 2, 3, 2), (1, 3, 2, 2, 2)),
}


@pytest.mark.parametrize("case", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_strides_where_sizes_of_one_leave_them_open(device, case):
    for formats in FORMATS:
        assert_strides_of_stock(case, in_formats(case.tensors(device=device), formats))
        shape = case.stock()(*case.tensors(device=device)).shape
        for memory in (lambda t: t, channels_last):
            assert_strides_of_stock(
                case, in_formats(case.tensors(device=device), formats), [memory(torch.ones(shape, device=device))]
            )


@on_the_cpu
@pytest.mark.parametrize("change", ["sliced", "every_second", "permuted", "transposed_batch", "expanded_batch"])
@pytest.mark.parametrize("name", ["4x4", "3x3", "dense 4x4", "1-D", "3-D"])
def test_strides_of_the_results_for_other_inputs_are_stocks(backend, name, change):
    case = CASES[name]
    input, weight, bias = case.tensors()
    with pyaegpu.backend(backend):
        assert_strides_of_stock(case, [LAYOUTS[change](input), weight, bias])
        assert_strides_of_stock(case, [input, LAYOUTS[change](weight), bias])
        assert_strides_of_stock(case, [LAYOUTS[change](channels_last(input)), weight, bias])


@each_case
def test_every_element_is_written(device, case, nan_filled):
    for formats in FORMATS:
        for activation in ("none", "relu", "tanh"):
            tensors = in_formats(case.tensors(device=device), formats)
            values, grads = run(case.ours(**ACTIVATIONS[activation]), tensors)
            assert all(t.isfinite().all() for t in (*values, *grads))


@pytest.mark.parametrize("name", ["4x4", "dense 4x4", "groups"])
def test_inputs_are_read_where_they_lie(device, name):
    """A view at any offset of its storage, and no write beside the results."""
    case = CASES[name]
    input, weight, bias = case.tensors(device=device)
    whole = torch.full((input.numel() + 14,), float("nan"), device=device)
    for offset in (0, 1, 3, 7):
        view = whole[offset : offset + input.numel()].view(input.shape)
        view.copy_(input)
        case.check((view, weight, bias), activation="relu")
        assert torch.equal(view, input)
        whole.fill_(float("nan"))
