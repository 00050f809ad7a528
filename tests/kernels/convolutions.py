"""Cases of the products of transposed convolutions, the layouts they are tried in, and their comparison with stock."""

import os
from typing import NamedTuple
from unittest import mock

import oracle
import pytest
import torch
import torch.nn.functional as F
from pyaegpu.kernels import target

ACTIVATIONS = (
    lambda x, slope: x,
    lambda x, slope: F.relu(x),
    lambda x, slope: F.leaky_relu(x, slope),
    lambda x, slope: torch.tanh(x),
    lambda x, slope: torch.sigmoid(x),
)
RELU, LEAKY_RELU = 1, 2
# Triton's interpreter multiplies matrices rightly in float32 and float16 only.
INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
DTYPES = (torch.float32, torch.float16) if INTERPRETING else (torch.float32, torch.float16, torch.bfloat16)
NAN = float("nan")
# Architectures without and with a copy engine.
POINTERS, DESCRIPTORS = 80, 90


class Case(NamedTuple):
    input: tuple[int, int, int, int]
    outputs: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    output_padding: tuple[int, int] = (0, 0)

    @property
    def geometry(self):
        return self.stride, self.padding, self.output_padding


@pytest.fixture(params=[POINTERS, DESCRIPTORS])
def arch(request, device):
    """Either way of loading operands: on a GPU, its own tiles for descriptors."""
    chosen = request.param
    if device == "cuda" and chosen == DESCRIPTORS:
        chosen = target.architecture(torch.empty(0).device)
        if chosen < DESCRIPTORS:
            pytest.skip("needs a copy engine")
    with mock.patch.object(target, "architecture", lambda device: chosen):
        yield chosen


def aside(t, shape, start):
    """t within a larger tensor of NaN, channels last."""
    base = torch.full(shape, NAN, dtype=t.dtype).contiguous(memory_format=torch.channels_last)
    view = base[tuple(slice(first, first + size) for first, size in zip(start, t.shape, strict=True))]
    return view.copy_(t)


def layouts(t):
    """t in every layout: those of stock PyTorch, slices with NaN around, permuted, from an odd address."""
    n, c, h, w = t.shape
    yield t
    yield t.contiguous(memory_format=torch.channels_last)
    yield aside(t, (n, c + 24, h, w), (0, 8, 0, 0))
    yield aside(t, (n + 1, c, h + 2, w + 3), (1, 0, 1, 1))
    yield t.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2)
    yield torch.full((n, c, h, 2 * w), NAN, dtype=t.dtype)[..., ::2].copy_(t)
    shifted = torch.full((t.numel() + 1,), NAN, dtype=t.dtype)[1:].view(n, h, w, c).permute(0, 3, 1, 2)
    yield shifted.copy_(t)


def biases(bias):
    """With gaps between its elements, and all of them one."""
    return bias.repeat_interleave(2)[::2], bias[:1].expand_as(bias)


def operands(case, dtype, bias=True):
    weight = (case.input[1], case.outputs, *case.kernel)
    tensors = oracle.filters(case.input, weight, (case.outputs,) if bias else None, dtype, torch.empty(0).device)
    return [*tensors, None][:3]


def check(launcher, case, tensors, activation=RELU, slope=0.0, channels_last=False):
    """The launcher's result against stock's convolution and activation in float64 and in the tested dtype."""
    out = launcher(*tensors, *case.geometry, activation, slope, True, channels_last)
    truth, stock = (
        ACTIVATIONS[activation](F.conv_transpose2d(*converted(tensors, dtype), *case.geometry), slope)
        for dtype in (torch.float64, tensors[0].dtype)
    )
    assert out.dtype == tensors[0].dtype
    assert out.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    label = f"{case} {[t if t is None else t.stride() for t in tensors]}"
    oracle.assert_accurate(out, stock, truth, label, tf32_slack(case, *tensors[:2]))
    return out


def tf32_slack(case, input, weight):
    """What a product of float32 may be off where a GPU cuts its operands to the 10 bits of TF32."""
    if input.dtype != torch.float32 or not input.is_cuda:
        return 0.0
    sizes = (t.double().abs().nan_to_num(posinf=0.0) for t in (input, weight))
    return 2**-9 * F.conv_transpose2d(*sizes, None, *case.geometry).amax()


def converted(tensors, dtype):
    return [t if t is None else t.to(dtype).contiguous() for t in tensors]
