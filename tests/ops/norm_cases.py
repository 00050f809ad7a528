"""Batch normalisations to try: shapes, parameters and activations, beside stock PyTorch's batch norm and activation."""

from dataclasses import dataclass

import oracle
import pytest
import torch
import torch.nn.functional as F
from oracle import DTYPES

import pyaegpu

ACTIVATIONS = {
    "none": {},
    "relu": {"activation": "relu"},
    "leaky": {"activation": "leaky_relu", "negative_slope": 0.2},
    "leaky by -0.5": {"activation": "leaky_relu", "negative_slope": -0.5},
    "tanh": {"activation": "tanh"},
    "sigmoid": {"activation": "sigmoid"},
}
each_activation = pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
each_mode = pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
# The dtype of the input, and that of the parameters.
DTYPE_PAIRS = [*((d, d) for d in DTYPES), *((d, torch.float32) for d in DTYPES[2:])]
each_dtypes = pytest.mark.parametrize("dtypes", DTYPE_PAIRS, ids=lambda pair: "-".join(map(str, pair)))


def running_of(channels, dtype, device="cpu"):
    """Running statistics that no dtype rounds."""
    index = torch.arange(channels, device=device)
    mean, var = (5 * index % 16 - 8) / 8, (3 * index % 14 + 2) / 8
    return mean.to(dtype), var.to(dtype)


@dataclass(frozen=True)
class Case:
    """One batch normalisation; a call takes the input and, where there are any, weight and bias."""

    shape: tuple[int, ...]
    training: bool = True
    eps: float = 1e-5
    kept: bool = True

    def tensors(self, dtypes=(torch.float32,) * 2, device="cpu", parameters=2, mean=0.5):
        """Input and as many of the parameters."""
        generator = torch.Generator().manual_seed(sum(self.shape))
        input = mean + 1.5 * torch.randn(self.shape, generator=generator, dtype=torch.float64)
        both = torch.randn(2, self.shape[1], generator=generator)
        return [input.to(device, dtypes[0]), *both[:parameters].to(device, dtypes[1])]

    def ours(self, **options):
        return self._call(pyaegpu.batch_norm_act, options)

    def stock(self, activation=None, negative_slope=0.01, **options):
        normalize = self._call(F.batch_norm, options)
        return lambda *tensors: oracle.activate(normalize(*tensors), activation, negative_slope)

    def _call(self, function, options):
        def call(input, weight=None, bias=None):
            dtype = next((t.dtype for t in (weight, bias) if t is not None), input.dtype)
            running = (None, None)
            if self.kept or not self.training:
                running = running_of(self.shape[1], dtype, input.device)
            return function(input, *running, weight, bias, self.training, 0.1, self.eps, **options)

        return call

    def check(self, tensors, wanted=None, upstream=None, **activation):
        """Values and gradients."""
        slack = rounding_of_sums(self)
        return oracle.check(self.ours(**activation), self.stock(**activation), tensors, wanted, upstream, slack)


def rounding_of_sums(case):
    """The slack of gradients: some eps of the sum of the magnitudes, which does not cancel as the sum may."""

    def slack(inputs, upstream, wanted):
        x, g = inputs[0].double(), upstream[0].double().abs()
        dims, place = [0, *range(2, x.dim())], [-1, *[1] * (x.dim() - 2)]
        if case.training:
            mean, var = x.mean(dims, keepdim=True), x.var(dims, unbiased=False, keepdim=True)
        else:
            mean, var = (t.view(place) for t in running_of(x.shape[1], x.dtype, x.device))
        std = (var + case.eps).sqrt()
        far = (x - mean).abs() / std
        by_weight, by_bias = (t.sum(dims, keepdim=True) for t in (g * far, g))
        count = x.numel() / x.shape[1]
        weight = inputs[1].double().abs().amax() if len(inputs) > 1 else 1.0
        by_input = weight / std * (g + (by_bias + far * by_weight) / count)
        eps = torch.finfo(torch.promote_types(inputs[0].dtype, torch.float32)).eps
        each = [2 * eps * t.amax().item() for t in (by_input, by_weight, by_bias)]
        return [[0.0], [each[i] for i in range(len(inputs)) if wanted is None or i in wanted]]

    return slack


def assert_same(ours, stock, tolerance=1e-5, **options):
    for a, b in zip(ours, stock, strict=True):
        finite = b[b.isfinite()]
        largest = finite.abs().max().item() if finite.numel() else 1.0
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(1.0, largest), **options)
