"""The Triton launcher of transposed convolution as one matrix product against stock PyTorch."""

from unittest import mock

import pytest
import torch
from convolutions import ACTIVATIONS, DTYPES, LEAKY_RELU, NAN, Case, arch, biases, check, layouts, operands
from pyaegpu.kernels import conv_transpose_matmul as kernels
from pyaegpu.kernels import conv_transpose_tiles as tiles
from pyaegpu.kernels import target

__all__ = ["arch"]

pytestmark = pytest.mark.usefixtures("arch")

launcher = kernels.conv_transpose2d_matmul_fwd

FIRST = Case((5, 100, 1, 1), 20, (4, 4))
CASES = [
    FIRST,
    Case((3, 72, 5, 7), 40, (2, 2), (2, 2)),
    Case((2, 8, 3, 4), 17, (3, 2), (3, 2)),
    Case((2, 16, 4, 3), 130, (1, 1)),
    Case((1, 1, 1, 1), 5, (1, 1)),
    Case((131, 3, 1, 1), 5, (5, 4), (2, 3), (1, 1)),
    Case((2, 24, 1, 1), 6, (3, 3), (1, 1), (1, 0)),
    # One pixel high, with padding there only; the kernel is as wide as its stride.
    Case((2, 8, 1, 5), 9, (3, 2), (1, 2), (1, 0)),
    Case((2, 8, 5, 1), 9, (2, 3), (2, 1), (0, 1)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_shapes(case, dtype):
    orders = (torch.contiguous_format, torch.channels_last)
    input, weight, bias = operands(case, dtype)
    for i, (x_order, w_order) in enumerate((a, b) for a in orders for b in orders):
        tensors = [input.contiguous(memory_format=x_order), weight.contiguous(memory_format=w_order)]
        check(launcher, case, [*tensors, None if i == 1 else bias], channels_last=i in (1, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_layouts(dtype):
    case = Case((2, 8, 3, 5), 8, (2, 3), (2, 3))
    input, weight, bias = operands(case, dtype)
    for i, x in enumerate(layouts(input)):
        check(launcher, case, [x, weight, bias], channels_last=i % 2 == 0)
    x = input.contiguous(memory_format=torch.channels_last)
    for i, w in enumerate(layouts(weight)):
        check(launcher, case, [x, w, bias], channels_last=i % 2 == 1)
    for b in biases(bias):
        check(launcher, case, [x, weight, b])
    expanded = input[:1].expand(3, -1, -1, -1)
    check(launcher, case._replace(input=expanded.shape), [expanded, weight, bias])


def test_pixels_of_a_slice():
    """One pixel of larger images, whose other pixels are NaN."""
    case = Case((6, 8, 1, 1), 9, (2, 2))
    input, weight, bias = operands(case, torch.float16)
    for order in (torch.contiguous_format, torch.channels_last):
        images = torch.full((6, 8, 3, 3), NAN, dtype=input.dtype).contiguous(memory_format=order)
        x = images[:, :, 1:2, 1:2].copy_(input)
        check(launcher, case, [x, weight, bias])


@pytest.mark.parametrize("activation", range(len(ACTIVATIONS)))
def test_activations(activation):
    case = Case((2, 8, 3, 5), 9, (2, 2), (2, 2))
    for dtype in DTYPES:
        tensors = operands(case, dtype)
        for slope in (0.2, 0.0) if activation == LEAKY_RELU else (0.5,):
            check(launcher, case, tensors, activation, slope)


def test_pitch_of_pixels():
    last = torch.empty(2, 8, 3, 5, dtype=torch.float16).contiguous(memory_format=torch.channels_last)
    assert kernels.tma_pitch(last) == 8 and kernels.tma_pitch(last[:1]) == 8
    assert kernels.tma_pitch(last[:, :, :2]) is None and kernels.tma_pitch(last[:1, :, :2]) == 8
    assert kernels.tma_pitch(last[:, :, 1:2]) is None and kernels.tma_pitch(last[:, :, 1:2, 2:3]) == 120
    assert kernels.tma_pitch(last.contiguous()) is None and kernels.tma_pitch(last[:, 4:]) is None
    assert kernels.tma_pitch(torch.empty(3, 100, 1, 1, dtype=torch.float16)) is None
    assert kernels.tma_pitch(torch.empty(3, 100, 1, 1)) == 100


@pytest.mark.parametrize("processors", [1, 3, 10_000])
def test_any_number_of_programs(processors):
    with mock.patch.object(target, "processors", lambda device: processors):
        check(launcher, FIRST, operands(FIRST, torch.float16))


def test_far_apart_elements():
    """With 64-bit distances, which only tensors of 2^31 elements need."""
    with mock.patch.object(tiles, "INDEX_LIMIT", 0):
        for case in CASES[1:3]:
            check(launcher, case, operands(case, torch.float32))
