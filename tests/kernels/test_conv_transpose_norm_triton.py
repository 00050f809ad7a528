"""The Triton products of transposed convolutions with the moments of their results, and the batch norm after them,
against stock PyTorch."""

from unittest import mock

import oracle
import pytest
import torch
import torch.nn.functional as F
from convolutions import (
    ACTIVATIONS,
    DESCRIPTORS,
    DTYPES,
    LEAKY_RELU,
    NAN,
    RELU,
    Case,
    arch,
    converted,
    operands,
    tf32_slack,
)
from pyaegpu.kernels import conv_transpose_moments as moments
from pyaegpu.kernels import conv_transpose_norm as kernels
from pyaegpu.kernels import conv_transpose_tiles as tiles
from pyaegpu.kernels import layout, target
from pyaegpu.kernels.conv_transpose_phases_kernels import phases_kernel

__all__ = ["arch"]

pytestmark = pytest.mark.usefixtures("arch")

PHASES = kernels.conv_transpose2d_phases_norm_fwd
MATMUL = kernels.conv_transpose2d_matmul_norm_fwd
EPS = 1e-5

DCGAN = Case((1, 8, 5, 4), 130, (4, 4), (2, 2), (1, 1))
FIRST = Case((5, 20, 1, 1), 20, (4, 4))
# Parts that are partly or wholly outside of the result, taps that padding crops, phases without a tap.
CASES = [
    (PHASES, DCGAN),
    (PHASES, Case((2, 24, 3, 5), 32, (3, 3), (2, 2), (1, 1), (1, 1))),
    (PHASES, Case((3, 8, 7, 11), 3, (3, 3), (2, 2), (1, 1), (0, 1))),
    (PHASES, Case((5, 3, 2, 3), 5, (5, 2), (1, 2), (2, 0), (0, 1))),
    (PHASES, Case((2, 8, 6, 5), 6, (2, 3), (3, 2), (1, 3), (1, 0))),
    (PHASES, Case((2, 8, 3, 4), 6, (1, 2), (2, 3), (0, 0), (1, 2))),
    (MATMUL, FIRST),
    (MATMUL, Case((3, 24, 5, 9), 32, (2, 2), (2, 2))),
    (MATMUL, Case((2, 8, 3, 4), 43, (3, 2), (3, 2))),
    (MATMUL, Case((131, 3, 1, 1), 5, (5, 4), (2, 3), (1, 1))),
    (MATMUL, Case((2, 8, 1, 5), 9, (3, 2), (1, 2), (1, 0))),
]


def affine(channels, dtype):
    return torch.linspace(0.5, 2, channels, dtype=dtype), torch.linspace(-1, 1, channels, dtype=dtype)


def check(launcher, case, tensors, params, activation=RELU, slope=0.0, channels_last=False):
    """y against stock's convolution; what follows against float64 and stock's batch norm of that y."""
    results = launcher(*tensors, *params, *case.geometry, EPS, activation, slope, True, channels_last)
    out, y = results[:2]
    truth, stock = (
        F.conv_transpose2d(*converted(tensors, dtype), *case.geometry) for dtype in (torch.float64, y.dtype)
    )
    oracle.assert_accurate(y, stock, truth, f"y of {case}", tf32_slack(case, *tensors[:2]))
    for t in (out, y):
        assert t.dtype == tensors[0].dtype
        assert t.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    truth, stock = (followed(y, params, activation, slope, dtype) for dtype in (torch.float64, torch.float32))
    found = (out, *results[2:])
    for i, (name, slack) in enumerate(zip(("out", "mean", "invstd", "var"), slacks(*truth[1:]), strict=True)):
        assert found[i].dtype == (torch.float32 if i else y.dtype)
        oracle.assert_accurate(found[i], stock[i].to(found[i].dtype), truth[i], f"{name} of {case}", slack)
    return results


def slacks(mean, invstd, var):
    """Stock adds up in float64 here. Means of parts, which differ by about a tenth of the deviation, are rounded."""
    eps = torch.finfo(torch.float32).eps
    mean, invstd, var = (t[t.isfinite()].abs().amax() for t in (mean, invstd, var))
    share = eps * (16 + mean / var.sqrt() / 8)
    return eps * mean * invstd, 2 * eps * var.sqrt(), share * invstd, share * var


def followed(y, params, activation, slope, dtype):
    y = y.to(dtype).contiguous()
    normal, mean, invstd = torch.native_batch_norm(y, *converted(params, dtype), None, None, True, 0.0, EPS)
    return ACTIVATIONS[activation](normal, slope), mean, invstd, y.transpose(0, 1).flatten(1).var(1)


@pytest.mark.parametrize(("launcher", "case"), CASES)
def test_shapes(launcher, case):
    """Each dtype with a layout of its own; 2-byte results with parameters of 4 bytes."""
    for dtype, last in zip(DTYPES, (False, True, False), strict=False):
        input, weight, bias = operands(case, dtype, not last)
        order = torch.channels_last if last else torch.contiguous_format
        tensors = [*(t.contiguous(memory_format=order) for t in (input, weight)), bias]
        check(launcher, case, tensors, affine(case.outputs, torch.float32), channels_last=last)


@pytest.mark.parametrize("launcher", [PHASES, MATMUL])
def test_layouts_of_a_result(launcher):
    """Not that of the weight; with parameters of 2 bytes."""
    case = Case((3, 24, 5, 9), 16, (2, 2), (2, 2))
    orders = (torch.contiguous_format, torch.channels_last)
    for i, order in enumerate(orders):
        input, weight = (t.contiguous(memory_format=order) for t in operands(case, torch.float16)[:2])
        check(launcher, case, [input, weight, None], affine(case.outputs, torch.float16), channels_last=not i)


@pytest.mark.parametrize("activation", range(len(ACTIVATIONS)))
@pytest.mark.parametrize("launcher", [PHASES, MATMUL])
def test_activations(launcher, activation):
    case = Case((2, 8, 3, 5), 9, (2, 2), (2, 2))
    tensors = operands(case, torch.float32)
    weight, bias = affine(case.outputs, torch.float32)
    for params in ((weight, None), (None, bias)):
        check(launcher, case, tensors, params, activation, -0.3 if activation == LEAKY_RELU else 0.0)


@pytest.mark.parametrize("launcher", [PHASES, MATMUL])
def test_a_large_mean(launcher):
    case = Case((4, 8, 9, 7), 9, (2, 2), (2, 2))
    input, weight, bias = operands(case, torch.float32)
    check(launcher, case, [input, weight, bias - 1e4], (None, None), 0, channels_last=True)


@pytest.mark.parametrize(("launcher", "case"), [CASES[2], CASES[9]])
def test_any_number_of_programs(launcher, case):
    tensors = [t.contiguous(memory_format=torch.channels_last) for t in operands(case, torch.float16)[:2]]
    found = []
    for processors in (1, 3, 10_000):
        with mock.patch.object(target, "processors", lambda device, count=processors: count):
            found.append(check(launcher, case, [*tensors, None], (None, None), channels_last=True))
    assert all(torch.equal(ours, first) for other in found[1:] for ours, first in zip(other, found[0], strict=True))


@pytest.mark.parametrize(("launcher", "case"), [CASES[1], CASES[9]])
def test_many_parts(launcher, case):
    """Merged in two launches; 10^3 beside the deviations."""
    with mock.patch.multiple(moments, MANY_PARTS=1, MERGE_TILE=layout.Tile(4, 16)):
        input, weight, bias = operands(case, torch.float32)
        check(launcher, case, [input, weight, bias + 1e3], (None, None))


def test_merged_parts_of_a_large_mean():
    """A tile and a part more; means to half of their last place, save what the deviations round by."""
    counts = torch.randint(0, 3, (129,)).float() * 64
    means, m2s = 1e4 + torch.randn(129, 35) / 8, 128 * torch.rand(129, 35)
    with mock.patch.object(moments, "MANY_PARTS", 1):
        merged = moments.fewer(moments.Parts(counts, means, m2s))
    for i, part in enumerate((slice(0, 128), slice(128, 129))):
        n, mean, m2 = (t[part].double() for t in (counts[:, None], means, m2s))
        center = (n * mean).sum(0) / n.sum().clamp(min=1)
        assert merged.counts[i] == n.sum()
        torch.testing.assert_close(merged.means[i].double(), center, rtol=6e-8, atol=1e-6)
        spread = ((m2 + n * (mean - center) ** 2) * (n > 0)).sum(0)
        torch.testing.assert_close(merged.m2s[i].double(), spread, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("launcher", "case"), [CASES[1], CASES[7]])
def test_far_apart_elements(launcher, case):
    """With 64-bit distances, which only tensors of 2^31 elements need."""
    with mock.patch.object(tiles, "INDEX_LIMIT", 0):
        check(launcher, case, operands(case, torch.float32), (None, None))


@pytest.mark.parametrize(("launcher", "case"), [CASES[2], CASES[9]])
def test_nan_and_inf_stay_in_their_channels(launcher, case):
    for value in (NAN, float("inf")):
        input, weight, bias = operands(case, torch.float32)
        bias[1] = value
        check(launcher, case, [input, weight, bias], (None, None))


def test_what_no_result_holds_does_not_count():
    """An infinite pixel whose every tap padding crops."""
    case = Case((1, 8, 3, 5), 9, (1, 1), (1, 1), (1, 1))
    input, weight, bias = operands(case, torch.float32)
    input[:, :, 0, 0] = float("inf")
    check(PHASES, case, [input, weight, bias], (None, None))
    case = Case((2, 8, 1, 1), 9, (3, 3), (1, 1), (1, 1))
    input, weight, bias = operands(case, torch.float32)
    weight[:, :, 0, 0] = NAN
    for many in (1, 100):
        with mock.patch.object(moments, "MANY_PARTS", many):
            check(MATMUL, case, [input, weight, bias], (None, None))


def test_the_copy_engine_still_reads(arch):
    case = CASES[1][1]
    tensors = [t.contiguous(memory_format=torch.channels_last) for t in operands(case, torch.float16)[:2]]
    launches = []
    with mock.patch.object(type(phases_kernel), "run", lambda _, *args, **kwargs: launches.append(args)):
        kernels.phases(*tensors, None, *case.geometry, 0, 0.0, True, True, True)
    assert (type(launches[0][0]).__name__ == "TensorDescriptor") == (arch >= DESCRIPTORS)
