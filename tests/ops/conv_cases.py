"""Transposed convolutions to try: shapes, numbers and activations."""

from dataclasses import dataclass, field
from typing import Any

import oracle
import pytest
import torch

import pyaegpu

ACTIVATIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "relu": {"activation": "relu"},
    "leaky": {"activation": "leaky_relu", "negative_slope": 0.2},
    "leaky by 0": {"activation": "leaky_relu", "negative_slope": 0.0},
    "leaky by -0.3": {"activation": "leaky_relu", "negative_slope": -0.3},
    "tanh": {"activation": "tanh"},
    "sigmoid": {"activation": "sigmoid"},
}
each_activation = pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)


@dataclass(frozen=True)
class Case:
    """One transposed convolution; ``numbers`` are its stride, padding and so on."""

    input: tuple[int, ...]
    weight: tuple[int, ...]
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def channels(self):
        """Of the result."""
        return self.weight[1] * self.numbers.get("groups", 1)

    def tensors(self, dtype=torch.float32, device="cpu", bias=True, batch=None):
        """Input, weight and, where wanted, bias; ``batch`` None for that of the case."""
        shape = self.input if batch is None else (batch, *self.input[1:])
        return list(oracle.filters(shape, self.weight, (self.channels,) if bias else None, dtype, device))

    def ours(self, **activation):
        function = getattr(pyaegpu, f"conv_transpose{len(self.input) - 2}d")
        return lambda *tensors: function(*tensors, **self.numbers, **activation)

    def stock(self, **activation):
        return lambda *tensors: oracle.conv_transpose(*tensors, **self.numbers, **activation)

    def check(self, tensors, wanted=None, upstream=None, **activation):
        """Values and gradients, with the rounding of sums without an activation: its slope is at most 1."""
        slack = oracle.rounding_of(self.stock())
        return oracle.check(self.ours(**activation), self.stock(**activation), tensors, wanted, upstream, slack)


def _case(input, weight, stride=1, padding=0, **others):
    return Case(input, weight, {"stride": stride, "padding": padding, **others})


# At most four output channels, one group, no dilation: kernels of their own.
SMALL = {
    "4x4": _case((2, 5, 4, 4), (5, 3, 4, 4), 2, 1),
    "3x3": _case((2, 6, 7, 7), (6, 1, 3, 3), 2, 1, output_padding=1),
    "2x2": _case((4, 4, 3, 3), (4, 1, 2, 2), 2),
    "asymmetric": _case((1, 3, 5, 7), (3, 2, 3, 5), (2, 3), (1, 2), output_padding=(1, 2)),
    "one pixel": _case((3, 100, 1, 1), (100, 4, 4, 4)),
    "stride 1": _case((2, 1, 6, 5), (1, 1, 3, 3), 1, 1),
    "gaps": _case((2, 2, 3, 4), (2, 3, 1, 2), 3, output_padding=2),
    "large kernel": _case((1, 2, 4, 3), (2, 4, 7, 5), (1, 2), (3, 0)),
    "cropped": _case((2, 3, 6, 6), (3, 2, 3, 3), 2, 3),
    "tiles": _case((1, 3, 9, 67), (3, 3, 4, 4), 2, 1),
    "1x1": _case((2, 5, 3, 2), (5, 2, 1, 1)),
}
DENSE = {
    "dense 4x4": _case((2, 4, 5, 5), (4, 5, 4, 4), 2, 1),
    "dense 3x3": _case((1, 3, 3, 3), (3, 7, 3, 3), 2, 1, output_padding=1),
    "dense 2x2": _case((2, 6, 3, 4), (6, 8, 2, 2), 2),
    "dense pixel": _case((4, 10, 1, 1), (10, 6, 4, 4)),
    "100 channels": _case((1, 2, 3, 3), (2, 100, 3, 3), 2, 1, output_padding=1),
    "groups": _case((2, 6, 4, 5), (6, 2, 3, 3), 2, 1, groups=3, output_padding=(1, 0)),
    "depthwise": _case((2, 4, 4, 4), (4, 1, 4, 4), 2, 1, groups=4),
    "few of groups": _case((2, 4, 3, 3), (4, 1, 2, 2), 2, groups=2),
    "dilation": _case((2, 3, 4, 5), (3, 2, 3, 2), 2, dilation=(2, 3), output_padding=(1, 1)),
    "dilation over stride": _case((1, 2, 4, 4), (2, 3, 3, 3), dilation=3, output_padding=2),
}
LINES = {
    "1-D": _case((2, 3, 7), (3, 2, 4), 2, 1),
    "1-D 3": _case((1, 4, 5), (4, 3, 3), 3, 1, output_padding=2, groups=2, dilation=2),
    "1-D 5": _case((2, 1, 4), (1, 5, 2)),
}
VOLUMES = {
    "3-D": _case((2, 3, 2, 3, 4), (3, 2, 3, 3, 3), 2, 1, output_padding=1),
    "3-D groups": _case((1, 4, 2, 2, 3), (4, 2, 2, 1, 3), (2, 1, 3), groups=2),
    "3-D dilation": _case((1, 2, 2, 3, 2), (2, 5, 2, 2, 2), (1, 2, 2), (0, 1, 0), dilation=(1, 2, 1)),
}
CASES = SMALL | DENSE | LINES | VOLUMES
# One of each way through the package.
FEW = {name: CASES[name] for name in ("asymmetric", "dense 4x4", "groups", "1-D 3", "3-D")}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
few_cases = pytest.mark.parametrize("case", FEW.values(), ids=FEW)


def strides_of(tensors, exact):
    """Those of sizes of one are any."""
    return [[n for n, size in zip(t.stride(), t.shape, strict=True) if exact or size > 1] for t in tensors]
