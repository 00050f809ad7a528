"""The Triton launchers of transposed convolution to few output channels against stock PyTorch."""

import itertools

import oracle
import pytest
import torch
import torch.nn.functional as F
from accuracy import upstream
from convolutions import ACTIVATIONS, DTYPES, NAN, RELU, Case, arch, aside, converted, layouts, operands
from pyaegpu.kernels import conv_transpose_small as kernels

from pyaegpu.reference.activations import gradient

__all__ = ["arch"]

pytestmark = pytest.mark.usefixtures("device")

TANH, SIGMOID = 3, 4
SLOPE = 0.25
DTYPES = (*DTYPES, torch.float64)
INF = float("inf")

DCGAN = Case((2, 17, 6, 5), 3, (4, 4), (2, 2), (1, 1))
UPSAMPLING = Case((2, 5, 5, 7), 1, (3, 3), (2, 2), (1, 1), (1, 1))
CASES = [
    DCGAN,
    UPSAMPLING,
    # More slots than a tile holds, more channels than one product.
    Case((1, 3, 13, 11), 3, (3, 3), (2, 2), (1, 1), (0, 1)),
    Case((1, 100, 3, 1), 3, (4, 4), (2, 2), (1, 1)),
    Case((3, 1, 4, 7), 2, (2, 2), (2, 2)),
    Case((1, 1, 1, 1), 1, (1, 1)),
    Case((5, 3, 1, 1), 4, (4, 4)),
    Case((1, 2, 6, 5), 4, (3, 3), (1, 1), (1, 1)),
    # More rows than one block, padding beyond a stride.
    Case((2, 5, 4, 3), 3, (5, 5), (1, 2), (3, 4), (0, 1)),
    Case((1, 3, 3, 5), 3, (5, 3), (2, 1), (2, 0), (1, 0)),
    # Strides that are no power of two, and more phases than one program takes.
    Case((1, 7, 5, 4), 2, (3, 4), (3, 3), (0, 1), (2, 1)),
    Case((1, 4, 3, 2), 1, (5, 3), (6, 5), (2, 1), (1, 4)),
    # Outputs without a tap, and taps without an output.
    Case((2, 3, 3, 4), 4, (1, 2), (2, 3), (0, 0), (1, 2)),
    Case((1, 8, 6, 5), 2, (2, 3), (3, 2), (1, 3), (1, 0)),
]


def forward(case, tensors, activation, channels_last=False):
    return kernels.conv_transpose2d_small_fwd(*tensors, *case.geometry, activation, SLOPE, False, channels_last)


def backward(case, g, tensors, out, activation, channels_last=False, needed=(True, True, True)):
    input, weight, _ = tensors
    saved = out if activation else None
    return kernels.conv_transpose2d_small_bwd(
        g, input, weight, saved, *case.geometry[:2], activation, SLOPE, False, channels_last, *needed
    )


def stock(case, tensors, activation, dtype):
    return ACTIVATIONS[activation](F.conv_transpose2d(*converted(tensors, dtype), *case.geometry), SLOPE)


def stock_gradients(case, g, tensors, out, activation, dtype):
    """Of the output as our forward rounded it: on either side of a kink the gradients differ."""
    g, out, input, weight = converted((g, out, *tensors[:2]), dtype)
    g = gradient(g, out, activation, SLOPE)
    numbers = (*case.geometry[:2], [1, 1], True, case.output_padding, 1, [True, True, False])
    d_input, d_weight, _ = torch.ops.aten.convolution_backward(g, input, weight, None, *numbers)
    return d_input, d_weight, g.sum((0, 2, 3))


def check_forward(case, tensors, activation, channels_last=False):
    out = forward(case, tensors, activation, channels_last)
    assert out.dtype == tensors[0].dtype and is_in_order(out, channels_last)
    truth, near = (stock(case, tensors, activation, dtype) for dtype in (torch.float64, out.dtype))
    oracle.assert_accurate(out, near, truth, f"{case}, value")
    return out


def check_backward(case, g, tensors, out, activation, channels_last=False, needed=(True, True, True)):
    found = backward(case, g, tensors, out, activation, channels_last, needed)
    wanted = [stock_gradients(case, g, tensors, out, activation, dtype) for dtype in (torch.float64, out.dtype)]
    for name, need, ours, truth, near in zip(("input", "weight", "bias"), needed, found, *wanted, strict=True):
        assert ours.dtype == out.dtype
        if need:
            assert name == "bias" or is_in_order(ours, channels_last)
            oracle.assert_accurate(ours, near, truth, f"{case}, gradient of {name}")
        else:
            assert ours.shape == (0,)
    return found


def is_in_order(t, channels_last):
    return t.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def check(case, tensors, activation, channels_last=False):
    out = check_forward(case, tensors, activation, channels_last)
    check_backward(case, upstream(out), tensors, out, activation, channels_last)


@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes(dtype):
    for i, case in enumerate(CASES):
        check(case, operands(case, dtype, bias=i % 3 != 0), i % len(ACTIVATIONS), channels_last=i % 2 == 0)


def test_tiles_of_each_architecture(arch):
    for case, dtype in itertools.product((DCGAN, CASES[8]), DTYPES[1:]):
        check(case, operands(case, dtype), RELU)


@pytest.mark.parametrize("dtype", DTYPES)
def test_activations(dtype):
    for activation in range(len(ACTIVATIONS)):
        check(UPSAMPLING, operands(UPSAMPLING, dtype), activation)


def test_layouts():
    case = Case((2, 5, 4, 6), 3, (4, 4), (2, 2), (1, 1))
    input, weight, bias = operands(case, torch.float32)
    out = forward(case, (input, weight, bias), RELU)
    upstreams = [*layouts(torch.randn_like(out)), torch.randn(()).expand(out.shape)]
    weights = [weight, weight.contiguous(memory_format=torch.channels_last), aside(weight, (7, 4, 5, 6), (1, 0, 1, 2))]
    apart = torch.full((6,), NAN)[::2].copy_(bias)
    for i, (x, g, w) in enumerate(zip(layouts(input), upstreams, itertools.cycle(weights), strict=False)):
        tensors = (x, w, apart if i % 2 else bias)
        check_forward(case, tensors, RELU, channels_last=i % 2 == 1)
        order = (torch.contiguous_format, torch.channels_last)[i // 2 % 2]
        check_backward(case, g, tensors, out.contiguous(memory_format=order), RELU, channels_last=i % 2 == 0)
    check_backward(case, upstreams[-1], (input, weight, bias), out, RELU)


@pytest.mark.parametrize("needed", list(itertools.product((True, False), repeat=3)))
def test_what_is_needed(needed):
    for case in (DCGAN, CASES[8]):
        tensors = operands(case, torch.float32)
        out = forward(case, tensors, RELU)
        check_backward(case, torch.randn_like(out), tensors, out, RELU, needed=needed)


@pytest.mark.parametrize("activation", [RELU, TANH, SIGMOID])
def test_values_that_are_not_finite(activation):
    """A tap that an output lacks takes no part in it, nor does what is beside the image."""
    for case, (value, at) in itertools.product(
        (DCGAN, UPSAMPLING), [(INF, (0, 1, 0, 0)), (-INF, (1, 0, 2, 4)), (NAN, (0, 0, 4, 3))]
    ):
        input, weight, bias = operands(case, torch.float32)
        weight = weight.abs() + 0.1  # an infinite input gives no NaN by itself
        input[at] = value
        check_forward(case, (input, weight, bias), activation)
        input[at] = 1.0
        weight[0, 0, 0, 0] = value
        check_forward(case, (input, weight, bias), activation)


def test_programs_with_many_tiles(monkeypatch):
    monkeypatch.setattr(kernels, "BWD_PROGRAMS", 3)
    case = Case((5, 3, 7, 9), 2, (3, 3), (2, 2), (1, 1), (1, 1))
    check(case, operands(case, torch.float32), RELU)


def test_results_repeat():
    for case in (DCGAN, CASES[8]):
        tensors = operands(case, torch.float32)
        out, again = (forward(case, tensors, RELU) for _ in range(2))
        assert torch.equal(out, again)
        g = torch.randn_like(out)
        for first, second in zip(*(backward(case, g, tensors, out, RELU) for _ in range(2)), strict=True):
            assert torch.equal(first, second)


def test_inputs_stay():
    tensors = operands(DCGAN, torch.float32)
    copies = [t.clone() for t in tensors]
    out = forward(DCGAN, tensors, RELU)
    g, saved = torch.randn_like(out), out.clone()
    backward(DCGAN, g, tensors, out, RELU)
    assert all(torch.equal(a, b) for a, b in zip((*tensors, out), (*copies, saved), strict=True))
