"""Batch normalisation and its activation, alone and after a convolution, against what users of stock PyTorch write."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import ours, stock
from benchmarks.case import DTYPES, Candidate, Case, Inputs, Outputs, Step, Work
from benchmarks.steps import step
from benchmarks.suites.norm_act_shapes import (
    BLOCK,
    LEAKY,
    NORM,
    Layer,
    cpu_cases,
    cuda_cases,
    layer_of,
    result_shape,
    small_cases,
    trains,
)
from benchmarks.tensors import in_float64, normals, without_doubt

Normalised = Callable[..., Tensor]  # of the leaves, then running mean and variance

SLOPE = 0.2  # DCGAN's
WITH_CORNER = ("relu", LEAKY)
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda z: z,
    "relu": F.relu,
    LEAKY: lambda z: F.leaky_relu(z, SLOPE),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda z: F.relu(z, inplace=True),
    LEAKY: lambda z: F.leaky_relu(z, SLOPE, inplace=True),
}
FLOPS = (8, 14)  # operations per normalised element, forward and backward, estimated


def leaves_of(case: Case) -> tuple[str, ...]:
    """The inputs that want a gradient, in the order of the function's arguments."""
    parameters = ("norm_weight", "norm_bias")
    return ("input", *parameters) if case.op == NORM else ("input", "weight", *parameters)


def stock_convolution(layer: Layer) -> Callable[[Tensor, Tensor], Tensor]:
    """The convolution of a block."""
    if layer.op == BLOCK:
        numbers = layer.stride, layer.padding, layer.output_padding
        return lambda x, w: F.conv_transpose2d(x, w, None, *numbers)
    return lambda x, w: F.conv2d(x, w, None, layer.stride, layer.padding)


def stock_block(case: Case, activate: Callable[[Tensor], Tensor] | None = None) -> Normalised:
    """The case as the modules of an `nn.Sequential` run it; `activate` in place of its activation."""
    training = trains(case)
    activate = activate or ACTIVATIONS[str(case.option("activation"))]

    def normalise(x: Tensor, gain: Tensor, shift: Tensor, mean: Tensor | None, var: Tensor | None) -> Tensor:
        return activate(F.batch_norm(x, mean, var, gain, shift, training))

    if case.op == NORM:
        return normalise
    convolve = stock_convolution(layer_of(case))
    return lambda x, w, *rest: normalise(convolve(x, w), *rest)


def step_of(run: Normalised, case: Case) -> Step:
    """The timed call, in "fwd+bwd" with the gradients of its leaves for g. A candidate in training has running
    statistics of its own, which every call updates and no result depends on."""
    kept: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

    def statistics(inputs: Inputs) -> tuple[Tensor, Tensor]:
        if not trains(case):
            return inputs["running_mean"], inputs["running_var"]
        like = inputs["norm_weight"].detach()
        if like.dtype not in kept:
            kept[like.dtype] = torch.zeros_like(like), torch.ones_like(like)
        return kept[like.dtype]

    return step(case, run, leaves_of(case), statistics, lambda inputs, output: inputs["g"])


class NormActSuite:
    """`pyaegpu.batch_norm_act` and `pyaegpu.conv_transpose2d_norm_act` against eager and compiled stock PyTorch."""

    name = "norm_act"

    def cases(self, device: str, size: str) -> list[Case]:
        """See `Suite.cases`."""
        if size == "tiny":
            return small_cases()[2::3]
        return cuda_cases() if device == "cuda" else cpu_cases()

    def inputs(self, case: Case, device: str, seed: int) -> Inputs:
        """Normal, the weight so that the convolution's result has a deviation of about 1. The normalisation's
        parameters and running statistics are float32 at least, as under autocast."""
        normal = normals(case, device, seed)
        result = result_shape(case)
        acc = torch.promote_types(DTYPES[case.dtype], torch.float32)

        def channels(deviation: float) -> Tensor:
            return normal(result[1:2], deviation).to(acc)

        made = {"input": normal(case.shape)}
        if case.op != NORM:
            layer = layer_of(case)
            made["weight"] = normal(layer.weight, (layer.products / layer.elements[1]) ** -0.5)
        made |= {"norm_weight": 1 + channels(0.2), "norm_bias": channels(0.5)}
        if not trains(case):
            made |= {"running_mean": channels(0.5), "running_var": channels(0.2).exp()}
        if case.mode != "fwd":
            g = normal(result)
            made["g"] = without_doubt(g, _normalised(case, made)) if case.option("activation") in WITH_CORNER else g
        return {name: tensor.requires_grad_(name in leaves_of(case)) for name, tensor in made.items()}

    def work(self, case: Case) -> Work:
        """Of E normalised elements: in training 3E forward (two reads for statistics and result, or where a convolution
        sees the statistics, its write and one read) and 5E backward (sums, then the pass that writes); E forward by
        running statistics, folded into the convolution. That adds its input and weight, backward both again, their
        gradients, and E, the gradient of its result."""
        backward, trained = case.mode != "fwd", trains(case)
        elements, channels = math.prod(result_shape(case)), result_shape(case)[1]
        flops = float(elements * sum(FLOPS[: 1 + backward]))
        per_channel = elements // channels
        if case.op == NORM:
            moved = elements * (8 if backward else 3)
            return Work(flops, DTYPES[case.dtype].itemsize * moved, (1, 1, per_channel, per_channel)[: _outputs(case)])
        layer, batch = layer_of(case), case.shape[0]
        size, weight = batch * layer.elements[0], math.prod(layer.weight)
        moved = size + weight + elements * (3 if trained else 1)
        if backward:
            moved += 2 * (size + weight) + 6 * elements
        products = batch * layer.products
        terms = (products // elements, products // size, products // weight, per_channel, per_channel)
        flops += 2 * products * (3 if backward else 1)
        return Work(flops, DTYPES[case.dtype].itemsize * moved, terms[: _outputs(case)], matmul=True)

    def candidates(self, case: Case, device: str, compiled: bool) -> list[Candidate]:
        """eager, compiled, eager with the activation in place, on a GPU eager in the other memory format, and every
        pyaegpu backend that is there."""
        run = stock_block(case)
        found = stock.candidates(run, lambda form: step_of(form, case), device, compiled)
        in_place = IN_PLACE.get(str(case.option("activation")))
        if in_place is not None:
            overwriting = stock_block(case, in_place)
            found.append(Candidate("eager_inplace", "stock", lambda: step_of(overwriting, case)))
        if device == "cuda" and len(case.shape) == 4:
            found.append(stock.other_layout(case, lambda: step_of(run, case)))
        return found + ours.candidates(
            device,
            self.name,
            lambda library: step_of(_fused(library, case), case),
            lambda library, inputs: _served_by(library, case, inputs),
        )

    def reference(self, case: Case, inputs: Inputs) -> Outputs:
        """Stock PyTorch in float64, on the very values that the candidates see."""
        return step_of(stock_block(case), case)(in_float64(inputs))


def _outputs(case: Case) -> int:
    return 1 if case.mode == "fwd" else 1 + len(leaves_of(case))


def _normalised(case: Case, inputs: Inputs) -> Tensor:
    """What the activation is given."""
    running = (None, None) if trains(case) else (inputs["running_mean"], inputs["running_var"])
    with torch.no_grad():
        return stock_block(case, ACTIVATIONS["none"])(*(inputs[name] for name in leaves_of(case)), *running)


def _activation(case: Case) -> dict[str, Any]:
    activation = case.option("activation")
    return {"activation": None if activation == "none" else activation, "negative_slope": SLOPE}


def _numbers(case: Case) -> dict[str, Any]:
    layer = layer_of(case)
    return {name: getattr(layer, name) for name in ("stride", "padding", "output_padding")}


def _fused(library: ModuleType, case: Case) -> Normalised:
    arguments: dict[str, Any] = {"training": trains(case), **_activation(case)}

    def normalise(x: Tensor, gain: Tensor, shift: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        return library.batch_norm_act(x, mean, var, gain, shift, **arguments)

    def block(x: Tensor, w: Tensor, gain: Tensor, shift: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        norm = {"norm_weight": gain, "norm_bias": shift, "running_mean": mean, "running_var": var}
        return library.conv_transpose2d_norm_act(x, w, **norm, **_numbers(case), **arguments)

    if case.op == NORM:
        return normalise
    if case.op == BLOCK:
        return block
    convolve = stock_convolution(layer_of(case))
    return lambda x, w, *rest: normalise(convolve(x, w), *rest)


def _served_by(library: ModuleType, case: Case, inputs: Inputs) -> str:
    """The backend, and whether its part is only what follows a stock convolution."""
    running = {name: inputs.get(name) for name in ("running_mean", "running_var")}
    arguments = {"training": trains(case), **running, **_activation(case)}
    x = inputs["input"]
    if case.op == BLOCK:
        with torch.no_grad():
            call = library.conv_transpose2d_norm_act
            found = library.explain(call, x, inputs["weight"], **_numbers(case), **arguments)
        if "folded into the weight" in found.algorithm:
            return f"{found.backend}, folded"
        return str(found.backend) + (", stock convolution" if "stock convolution" in found.algorithm else "")
    if case.op != NORM:
        with torch.no_grad():
            x = stock_convolution(layer_of(case))(x, inputs["weight"])
    backend = str(library.explain(library.batch_norm_act, x, **arguments).backend)
    return backend if case.op == NORM else f"{backend}, stock convolution"
