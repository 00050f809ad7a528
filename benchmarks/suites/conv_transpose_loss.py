"""The last layer of a decoder with its reconstruction loss against what a user of stock PyTorch writes."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from benchmarks import ours, stock
from benchmarks.case import DTYPES, LAYOUTS, MODES, Candidate, Case, Inputs, Outputs, Step, Work
from benchmarks.steps import step
from benchmarks.suites import conv_transpose_shapes as convolutions
from benchmarks.suites import vae_loss
from benchmarks.suites.conv_transpose import stock_layer
from benchmarks.suites.conv_transpose_shapes import BF16, CONV_VAE, FORWARD, LAST, MNIST, TRAINING, Layer, dcgan, k4
from benchmarks.tensors import in_float64, normals

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # of input, weight, bias and target

OP = "conv_transpose2d_loss"
LEAVES = ("input", "weight", "bias")
ENDS = (("none", "bce_logits"), ("sigmoid", "bce"), ("tanh", "mse"))  # activation and kind of loss
G5 = dcgan(64)[-1]
OTHER_G = 0.375


class LastLayer(Layer):
    """A transposed convolution that a loss follows."""

    @property
    def op(self) -> str:
        """The public function that is measured."""
        return OP


def make_case(
    layer: Layer, batch: int, end: tuple[str, str], dtype: str = "float32", g: float = 1.0, **changes: Any
) -> Case:
    """One row of the suite; `end` is activation and loss, g the gradient that arrives at the loss."""
    activation, kind = end
    made = convolutions.make_case(LastLayer(**{**vars(layer), "activation": activation}), batch, dtype, **changes)
    return Case(**{**vars(made), "options": (*made.options, ("kind", kind), ("g", g))})


def layer_of(case: Case) -> Layer:
    """The layer that a case was made of."""
    options: dict[str, Any] = {name: value for name, value in case.options if name not in ("kind", "g")}
    return LastLayer(channels=case.shape[1], size=case.shape[2:], **options)


def cpu_cases() -> list[Case]:
    """float32, with the backward and without it, contiguous and channels_last."""
    layers = ((G5, 16), (MNIST[-1], 128))
    every = [(*each, end, layout) for each in layers for end in ENDS for layout in LAYOUTS]
    cases = [make_case(*each, layout=layout, mode=mode) for *each, layout in every for mode in (TRAINING, FORWARD)]
    return cases + [make_case(*each, ENDS[0], g=OTHER_G) for each in layers]


def cuda_cases() -> list[Case]:
    """bfloat16 channels_last of every layer and loss, then one axis at a time."""
    bf16: dict[str, Any] = {"dtype": BF16, "layout": LAST}
    layers = [(G5, 1024), (G5, 128), (MNIST[-1], 128), (CONV_VAE[-1], 256)]
    cases = [make_case(*each, end, **bf16) for end in ENDS for each in layers]
    cases += [make_case(*each, ENDS[0], mode=FORWARD, **bf16) for each in layers]
    cases += [make_case(*each, ENDS[0], g=OTHER_G, **bf16) for each in layers[:2]]
    cases += [make_case(*layers[0], end, BF16) for end in ENDS[:2]]
    cases += [make_case(*layers[0], end, layout=LAST) for end in ENDS[:2]]
    return cases + [make_case(*each, ENDS[0], graph=True, **bf16) for each in layers[1:3]]


def large_case() -> Case:
    """The last layer of DCGAN's generator."""
    return make_case(G5, 1024, ENDS[0], BF16, layout=LAST)


def small_cases(dtype: str = "float32") -> list[Case]:
    """Every end on odd sizes of one, three and eight channels."""
    layers = [k4(f"small_{out}", 5, (3, 7), out, "none") for out in (1, 3, 8)]
    cases = [make_case(layer, 3, end, dtype, layout=LAST) for layer in layers for end in ENDS]
    cases += [make_case(layers[1], 3, ENDS[0], dtype, mode=mode) for mode in MODES]
    return [*cases, make_case(layers[1], 3, ENDS[0], dtype, g=OTHER_G)]


def stock_loss(case: Case, *, upcast: bool = False) -> Loss:
    """The layer and the loss as users write them; with `upcast` the loss is float32, as under autocast."""
    run, loss = stock_layer(layer_of(case)), vae_loss.STOCK[str(case.option("kind"))]

    def composed(x: Tensor, w: Tensor, b: Tensor, target: Tensor) -> Tensor:
        recon = run(x, w, b)
        return loss(*((recon.float(), target.float()) if upcast else (recon, target)), reduction="sum")

    return composed


def step_of(loss: Loss, case: Case) -> Step:
    """The timed call: the loss, and in "fwd+bwd" its gradients for the case's upstream gradient."""
    upstream = float(case.option("g"))
    seeds: dict[torch.dtype, Tensor] = {}

    def seed(value: Tensor) -> Tensor | None:
        if upstream != 1 and value.dtype not in seeds:  # once: a fill per call is not the loss's work
            seeds[value.dtype] = torch.full_like(value, upstream)
        return seeds.get(value.dtype)

    return step(case, loss, LEAVES, lambda inputs: (inputs["target"],), lambda inputs, value: seed(value))


class ConvTransposeLossSuite:
    """`pyaegpu.conv_transpose2d_loss` against eager and compiled stock PyTorch."""

    name = "conv_transpose_loss"

    def cases(self, device: str, size: str) -> list[Case]:
        """See `Suite.cases`."""
        if size == "tiny":
            return small_cases()[1::4]
        return cuda_cases() if device == "cuda" else cpu_cases()

    def inputs(self, case: Case, device: str, seed: int) -> Inputs:
        """Normal, the weight so that the convolution's result has a deviation of about 1; the target in the range of
        the activation, between 0 and 1 for logits."""
        layer, normal = layer_of(case), normals(case, device, seed)
        made = {
            "input": normal(case.shape),
            "weight": normal(layer.weight, (layer.products / layer.elements[1]) ** -0.5),
        }
        made["bias"] = normal((layer.out,), 0.5)
        target = normal((case.shape[0], layer.out, *layer.out_size))
        made["target"] = target.tanh() if layer.activation == "tanh" else target.sigmoid()
        return {name: tensor.requires_grad_(name in LEAVES) for name, tensor in made.items()}

    def work(self, case: Case) -> Work:
        """Forward input, weight, bias and target; with the backward the logits' gradient written and read, input and
        weight again, and the three gradients."""
        layer, backward, batch = layer_of(case), case.mode != "fwd", case.shape[0]
        size, result = (batch * count for count in layer.elements)
        weight, products = math.prod(layer.weight), batch * layer.products
        moved = size + weight + layer.out + result
        if backward:
            moved += 2 * result + 2 * (size + weight) + layer.out
        flops = vae_loss.FLOPS[str(case.option("kind"))]
        operations = 2 * products * (3 if backward else 1) + result * sum(flops[: 1 + backward])
        terms = (products // result, products // size, products // weight, result // layer.out)
        return Work(operations, DTYPES[case.dtype].itemsize * moved, terms[: 4 if backward else 1], matmul=True)

    def candidates(self, case: Case, device: str, compiled: bool) -> list[Candidate]:
        """eager, compiled, in bfloat16 eager with a float32 loss, on a GPU eager in the other memory format, and every
        pyaegpu backend that is there."""
        # Stock's float16 sum of a batch overflows: there the float32 form of autocast is what users run.
        loss = stock_loss(case, upcast=case.dtype == "float16")
        found = stock.candidates(loss, lambda form: step_of(form, case), device, compiled)
        if case.dtype == BF16:
            upcast = stock_loss(case, upcast=True)
            found.append(Candidate("eager_autocast", "stock", lambda: step_of(upcast, case)))
        if device == "cuda":
            found.append(stock.other_layout(case, lambda: step_of(loss, case)))
        return found + ours.candidates(
            device,
            self.name,
            lambda library: step_of(_fused(library, case), case),
            lambda library, inputs: _served_by(library, case, inputs),
        )

    def reference(self, case: Case, inputs: Inputs) -> Outputs:
        """Stock PyTorch in float64, on the very values that the candidates see."""
        return step_of(stock_loss(case), case)(in_float64(inputs))


def _arguments(case: Case) -> dict[str, Any]:
    layer = layer_of(case)
    numbers = {name: getattr(layer, name) for name in ("stride", "padding", "output_padding")}
    activation = None if layer.activation == "none" else layer.activation
    return {**numbers, "activation": activation, "kind": case.option("kind")}


def _fused(library: ModuleType, case: Case) -> Loss:
    arguments = _arguments(case)
    return lambda *tensors: library.conv_transpose2d_loss(*tensors, **arguments)


def _served_by(library: ModuleType, case: Case, inputs: Inputs) -> str:
    tensors = [inputs[name] for name in (*LEAVES, "target")]
    return str(library.explain(library.conv_transpose2d_loss, *tensors, **_arguments(case)).backend)
