"""Transposed convolutions and their activation against what a user of stock PyTorch writes."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import ours, stock
from benchmarks.case import DTYPES, Candidate, Case, Inputs, Outputs, Step, Work
from benchmarks.steps import step
from benchmarks.suites.conv_transpose_shapes import Layer, cpu_cases, cuda_cases, layer_of, small_cases
from benchmarks.tensors import in_float64, normals, without_doubt

Convolution = Callable[[Tensor, Tensor, Tensor], Tensor]

LEAVES = ("input", "weight", "bias")
STOCK = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda y: y,
    "relu": F.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def stock_convolution(layer: Layer) -> Convolution:
    """The layer without its activation."""
    numbers = layer.stride, layer.padding, layer.output_padding, layer.groups
    if not layer.upsampling:
        return lambda x, w, b: STOCK[len(layer.size)](x, w, b, *numbers)

    def convolve(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), w, b, padding=layer.padding)

    return convolve


def stock_layer(layer: Layer) -> Convolution:
    """The layer as the modules of an `nn.Sequential` run it."""
    convolve, activate = stock_convolution(layer), ACTIVATIONS[layer.activation]
    return lambda x, w, b: activate(convolve(x, w, b))


def step_of(convolve: Convolution, case: Case) -> Step:
    """The timed call, in "fwd+bwd" with the gradients of input, weight and bias for g."""
    return step(case, convolve, LEAVES, lambda inputs: (), lambda inputs, output: inputs["g"])


class ConvTransposeSuite:
    """`pyaegpu.conv_transpose{1,2,3}d` and `pyaegpu.upsample_conv2d` against eager and compiled stock PyTorch."""

    name = "conv_transpose"

    def cases(self, device: str, size: str) -> list[Case]:
        """See `Suite.cases`."""
        if size == "tiny":
            return small_cases()
        return cuda_cases() if device == "cuda" else cpu_cases()

    def inputs(self, case: Case, device: str, seed: int) -> Inputs:
        """Normal, the weight so that the convolution's result has a deviation of about 1."""
        layer, normal = layer_of(case), normals(case, device, seed)
        terms = layer.channels / layer.groups * (layer.kernel / layer.stride) ** len(layer.size)
        made = {"input": normal(case.shape), "weight": normal(layer.weight, terms**-0.5)}
        made["bias"] = normal((layer.out,), 0.5)
        if case.mode != "fwd":
            g = normal((case.shape[0], layer.out, *layer.out_size))
            made["g"] = without_doubt(g, _convolved(layer, made)) if layer.activation == "relu" else g
        return {name: tensor.requires_grad_(name in LEAVES) for name, tensor in made.items()}

    def work(self, case: Case) -> Work:
        """Forward x, w, b and the output; backward g, x, w, the three gradients, and with an activation the output. The
        backward has two convolutions of the forward's size."""
        layer, backward, batch = layer_of(case), case.mode != "fwd", case.shape[0]
        size, result = (batch * count for count in layer.elements)
        parameters = math.prod(layer.weight) + layer.out
        moved = size + parameters + result
        if backward:
            moved += 2 * (size + parameters) - layer.out + result * (1 + (layer.activation != "none"))
        flops = 2 * batch * layer.products * (3 if backward else 1)
        terms = [batch * layer.products // each for each in (result, size, math.prod(layer.weight))]
        terms.append(result // layer.out)
        return Work(flops, DTYPES[case.dtype].itemsize * moved, tuple(terms[: 4 if backward else 1]), matmul=True)

    def candidates(self, case: Case, device: str, compiled: bool) -> list[Candidate]:
        """eager, compiled, on a GPU eager in the other memory format, and every pyaegpu backend that is there."""
        layer = layer_of(case)
        run = stock_layer(layer)
        found = stock.candidates(run, lambda form: step_of(form, case), device, compiled)
        if device == "cuda" and len(layer.size) == 2:
            found.append(stock.other_layout(case, lambda: step_of(run, case)))
        return found + ours.candidates(
            device,
            self.name,
            lambda library: step_of(_fused(library, layer), case),
            lambda library, inputs: _served_by(library, layer, inputs),
        )

    def reference(self, case: Case, inputs: Inputs) -> Outputs:
        """Stock PyTorch in float64, on the very values that the candidates see."""
        return step_of(stock_layer(layer_of(case)), case)(in_float64(inputs))


def _convolved(layer: Layer, inputs: Inputs) -> Tensor:
    with torch.no_grad():
        return stock_convolution(layer)(*(inputs[name] for name in LEAVES))


def _arguments(layer: Layer) -> dict[str, object]:
    activation = None if layer.activation == "none" else layer.activation
    if layer.upsampling:
        return {"activation": activation}
    numbers = {name: getattr(layer, name) for name in ("stride", "padding", "output_padding", "groups")}
    return {**numbers, "activation": activation}


def _fused(library: ModuleType, layer: Layer) -> Convolution:
    function, arguments = getattr(library, layer.op), _arguments(layer)
    return lambda x, w, b: function(x, w, b, **arguments)


def _served_by(library: ModuleType, layer: Layer, inputs: Inputs) -> str:
    """The backend, and whether its part is only what follows a stock convolution."""
    tensors = [inputs[name] for name in LEAVES]
    found = library.explain(getattr(library, layer.op), *tensors, **_arguments(layer))
    stock_only = found.backend != "reference" and "stock convolution" in found.algorithm
    return f"{found.backend}, stock convolution" if stock_only else str(found.backend)
