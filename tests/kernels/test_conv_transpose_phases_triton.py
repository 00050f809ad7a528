"""The Triton launcher of transposed convolution by phases against stock PyTorch."""

from unittest import mock

import pytest
import torch
from convolutions import (
    ACTIVATIONS,
    DESCRIPTORS,
    DTYPES,
    LEAKY_RELU,
    NAN,
    POINTERS,
    RELU,
    Case,
    arch,
    biases,
    check,
    layouts,
    operands,
)
from pyaegpu.kernels import conv_transpose_phases as kernels
from pyaegpu.kernels import conv_transpose_tiles as tiles
from pyaegpu.kernels import target

__all__ = ["arch"]

pytestmark = pytest.mark.usefixtures("arch")

launcher = kernels.conv_transpose2d_phases_fwd

DCGAN = Case((2, 16, 4, 4), 130, (4, 4), (2, 2), (1, 1))
CASES = [
    DCGAN,
    Case((2, 72, 3, 5), 40, (3, 3), (2, 2), (1, 1), (1, 1)),
    Case((3, 8, 7, 11), 17, (3, 3), (2, 2), (1, 1), (0, 1)),
    Case((1, 1, 1, 1), 5, (1, 1)),
    Case((2, 100, 1, 1), 17, (4, 4)),
    Case((5, 3, 2, 3), 5, (5, 2), (1, 2), (2, 0), (0, 1)),
    Case((1, 16, 5, 13), 7, (3, 4), (3, 3), (0, 1), (2, 1)),
    # Some phases without a tap, some that begin outside of the result.
    Case((2, 8, 3, 4), 6, (1, 2), (2, 3), (0, 0), (1, 2)),
    Case((2, 8, 6, 5), 6, (2, 3), (3, 2), (1, 3), (1, 0)),
    Case((1, 24, 17, 19), 9, (3, 3), (1, 1), (1, 1)),
    Case((130, 8, 1, 2), 5, (3, 3), (2, 2), (1, 1), (1, 1)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_shapes(case, dtype):
    for i, order in enumerate((torch.contiguous_format, torch.channels_last)):
        input, weight, bias = operands(case, dtype, i == 0)
        tensors = [t.contiguous(memory_format=order) for t in (input, weight)]
        check(launcher, case, [*tensors, bias], channels_last=bool(i))


@pytest.mark.parametrize(("dtype", "channels"), [(torch.float32, 8), (torch.float16, 8), (torch.float16, 7)])
def test_layouts(dtype, channels):
    """Rows of 7 channels no copy engine reads."""
    case = Case((2, channels, 3, 5), 8, (3, 4), (2, 2), (1, 0), (1, 0))
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


@pytest.mark.parametrize("activation", range(len(ACTIVATIONS)))
def test_activations(activation):
    case = Case((2, 8, 3, 5), 9, (3, 2), (2, 2))
    for dtype in DTYPES:
        tensors = operands(case, dtype)
        for slope in (0.2, 0.0) if activation == LEAKY_RELU else (0.5,):
            check(launcher, case, tensors, activation, slope)


def test_operands_are_read_as_the_architecture_can(arch):
    """Descriptors where input and architecture allow; the pack only where the weight is not such a matrix."""
    case = Case((2, 8, 3, 5), 8, (2, 2), (2, 2))
    input, weight, _ = operands(case, torch.float16)
    last = [t.contiguous(memory_format=torch.channels_last) for t in (input, weight)]
    assert kernels.tma_strides(last[0]) == [120, 40, 8, 1]
    assert kernels.tma_strides(input) is None
    assert kernels.tma_strides(last[0][:, 1:]) is None and kernels.tma_strides(last[0][:, :, ::2]) == [120, 80, 8, 1]
    launches = []
    with mock.patch.object(type(kernels.phases_kernel), "run", lambda _, *args, **kwargs: launches.append(args)):
        launcher(*last, None, *case.geometry, RELU, 0.0, True, True)
        launcher(input, last[1], None, *case.geometry, RELU, 0.0, True, True)
        launcher(input[:, 1:], last[1][1:], None, *case.geometry, RELU, 0.0, True, True)
    expected = "TensorDescriptor" if arch >= DESCRIPTORS else "Tensor"
    assert [type(args[0]).__name__ for args in launches] == [expected, expected, "Tensor"]
    assert kernels.readable(last[0]) is last[0] and kernels.readable(input[:, 1:]).stride(1) == 1
    assert kernels.weight_matrix(last[1], arch >= DESCRIPTORS).tensor is last[1]
    assert kernels.weight_matrix(weight, arch >= DESCRIPTORS).k_major
    assert kernels.weight_matrix(last[1].float(), arch >= DESCRIPTORS).k_major


@pytest.mark.parametrize("processors", [1, 3, 10_000])
def test_any_number_of_programs(processors):
    tensors = [t.contiguous(memory_format=torch.channels_last) for t in operands(DCGAN, torch.float16)[:2]]
    with mock.patch.object(target, "processors", lambda device: processors):
        check(launcher, DCGAN, [*tensors, None], channels_last=True)


def test_far_apart_elements():
    """With 64-bit distances, which only tensors of 2^31 elements need."""
    with mock.patch.object(tiles, "INDEX_LIMIT", 0):
        for case in CASES[1:3]:
            check(launcher, case, operands(case, torch.float32))


def test_nan_and_inf_reach_only_their_outputs():
    case = Case((2, 8, 4, 4), 6, (4, 4), (2, 2), (1, 1))
    input, weight, bias = operands(case, torch.float32)
    input[0, 3, 1, 2], input[1, 0, 3, 3] = NAN, float("inf")
    out = launcher(input, weight, bias, *case.geometry, 0, 0.0, True, False)
    stock = torch.nn.functional.conv_transpose2d(input, weight, bias, *case.geometry)
    assert torch.equal(out.isfinite(), stock.isfinite())


def test_boxes_cover_with_little_excess():
    assert tiles.box(128, 4, 4, 128) == (8, 4, 4)
    assert tiles.boxes(128, 32, 32, tiles.box(128, 32, 32, 128)) == 1024
    assert tiles.boxes(1, 17, 1, tiles.box(1, 17, 1, 128)) == 1
    for images, rows, cols in [(1, 1, 1), (3, 7, 33), (1000, 1, 5), (2, 100, 100)]:
        sides = tiles.box(images, rows, cols, 128)
        assert sides[0] * sides[1] * sides[2] == 128
        assert tiles.boxes(images, rows, cols, sides) * 128 >= images * rows * cols


def test_the_paths_are_those_named():
    assert POINTERS < tiles.TMA_ARCHITECTURE == DESCRIPTORS
