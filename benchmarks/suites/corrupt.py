"""Corruption of a denoising autoencoder's input against what a user of stock PyTorch writes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from benchmarks import ours, stock
from benchmarks.case import DTYPES, LAYOUTS, Candidate, Case, Inputs, Outputs, Step, Work
from benchmarks.draws import elements_fault, noise_fault

Corruption = Callable[[Tensor], Tensor]

AMOUNTS = {"gaussian": 0.3, "masking": 0.25, "salt_and_pepper": 0.1}
KINDS = tuple(AMOUNTS)
LOW, HIGH = 0.0, 1.0
ROWS, IMAGES, LARGE = (1024, 784), (256, 3, 64, 64), (4096, 4096)
CACHE_RESIDENT = 1 << 20  # problems of at most this many elements are meant to stay in the cache
# Operations per element, estimated, integer ones too: a quarter of a Philox call; for normals half of a pair as well.
FLOPS = {"gaussian": (47, 0), "masking": (27, 27), "salt_and_pepper": (29, 27)}


def stock_gaussian(x: Tensor) -> Tensor:
    """Additive normal noise."""
    return x + AMOUNTS["gaussian"] * torch.randn_like(x)


def stock_masking(x: Tensor) -> Tensor:
    """Zeros at random places. A bfloat16 uniform number has 8 bits: compared with it, another share would be hit."""
    return x * (torch.rand_like(x, dtype=torch.float32) >= AMOUNTS["masking"])


def stock_salt_and_pepper(x: Tensor) -> Tensor:
    """Low and high values at random places."""
    amount, noise = AMOUNTS["salt_and_pepper"], torch.rand_like(x, dtype=torch.float32)
    return torch.where(noise < 0.5 * amount, LOW, torch.where(noise < amount, HIGH, x))


STOCK: dict[str, Corruption] = {
    "gaussian": stock_gaussian,
    "masking": stock_masking,
    "salt_and_pepper": stock_salt_and_pepper,
}


def step_of(corrupt: Corruption, case: Case) -> Step:
    """The timed call: the corrupted tensor, and in "fwd+bwd" the input's gradient for g."""

    def forward(inputs: Inputs) -> Outputs:
        with torch.no_grad():
            return (corrupt(inputs["input"]),)

    def forward_backward(inputs: Inputs) -> Outputs:
        output = corrupt(inputs["input"])
        return output.detach(), *torch.autograd.grad(output, inputs["input"], inputs["g"])

    return forward if case.mode == "fwd" else forward_backward


def make_case(shape: tuple[int, ...], kind: str, **changes: Any) -> Case:
    """One row of the suite; `changes` are other fields of the case."""
    fields = {"dtype": "float32", "out_of_cache": math.prod(shape) > CACHE_RESIDENT} | changes
    return Case("corrupt", shape, options=(("kind", kind), ("amount", AMOUNTS[kind])), **fields)


def cpu_cases() -> list[Case]:
    """float32, and the largest in bfloat16 once."""
    shapes, modes = (ROWS, IMAGES, LARGE), ("fwd", "fwd+bwd")
    cases = [make_case(shape, kind, mode=mode) for kind in KINDS for mode in modes for shape in shapes]
    return [*cases, make_case(LARGE, "masking", dtype="bfloat16")]


def cuda_cases() -> list[Case]:
    """bfloat16 forward and backward, then one axis at a time."""
    bf16 = "bfloat16"
    cases = [make_case(shape, kind, dtype=bf16) for kind in KINDS for shape in (LARGE, IMAGES, ROWS)]
    cases += [make_case(LARGE, kind) for kind in KINDS]
    cases += [make_case(ROWS, kind, dtype=bf16, graph=True) for kind in KINDS]
    return cases + [make_case(LARGE, kind, dtype=bf16, mode="fwd") for kind in KINDS]


class CorruptSuite:
    """`pyaegpu.corrupt` against eager and compiled stock PyTorch."""

    name = "corrupt"

    def cases(self, device: str, size: str) -> list[Case]:
        """See `Suite.cases`."""
        if size == "tiny":
            return [make_case((8, 12), kind, mode=mode) for kind in KINDS for mode in ("fwd", "fwd+bwd")]
        return cuda_cases() if device == "cuda" else cpu_cases()

    def inputs(self, case: Case, device: str, seed: int) -> Inputs:
        """Uniform between low and high and away from them, so that what was hit shows; a normal gradient g."""
        generator = torch.Generator(device).manual_seed(seed)
        values = {"input": 0.1 + 0.8 * torch.rand(case.shape, generator=generator, device=device)}
        if case.mode != "fwd":
            values["g"] = torch.randn(case.shape, generator=generator, device=device)
        dtype, layout = DTYPES[case.dtype], LAYOUTS[case.layout]
        made = {name: value.to(dtype).contiguous(memory_format=layout) for name, value in values.items()}
        return {name: value.requires_grad_(name == "input") for name, value in made.items()}

    def work(self, case: Case) -> Work:
        """Forward reads and writes; so does the backward, but that of gaussian noise, whose gradient is g."""
        elements, kind = math.prod(case.shape), str(case.option("kind"))
        backward = case.mode != "fwd"
        accesses = 2 + 2 * (backward and kind != "gaussian")
        flops = FLOPS[kind][0] + backward * FLOPS[kind][1]
        return Work(flops * elements, DTYPES[case.dtype].itemsize * accesses * elements)

    def candidates(self, case: Case, device: str, compiled: bool) -> list[Candidate]:
        """eager, compiled stock and every pyaegpu backend that is there."""
        corruption = STOCK[str(case.option("kind"))]
        found = stock.candidates(corruption, lambda form: step_of(form, case), device, compiled)
        return found + ours.candidates(
            device,
            self.name,
            lambda library: step_of(_fused(library, case), case),
            lambda library, inputs: str(library.explain(library.corrupt, inputs["input"]).backend),
        )

    def reference(self, case: Case, inputs: Inputs) -> Outputs:
        """Nothing: no candidate can be given its noise, and `check` sees every element."""
        return ()

    def check(self, case: Case, inputs: Inputs, draws: Sequence[Outputs]) -> str:
        """The noise is fresh and as frequent or wide as it should be, and touches nothing else; gradients fit it."""
        outputs, count = draws[-1], 1 if case.mode == "fwd" else 2
        if any(len(each) != count or each[0].shape != case.shape for each in draws):
            return f"expected {count} outputs of shape {case.shape}"
        faults = _gaussian_faults if case.option("kind") == "gaussian" else _hit_faults
        return next(filter(None, faults(case, inputs, draws, outputs)), "")


def _gaussian_faults(case: Case, inputs: Inputs, draws: Sequence[Outputs], outputs: Outputs) -> Sequence[str]:
    values = inputs["input"].detach().double()
    noise = ((each[0].double() - values) / AMOUNTS["gaussian"] for each in draws)
    return noise_fault(*noise, normal=True), _gradient_fault(inputs, outputs, torch.ones_like(values))


def _hit_faults(case: Case, inputs: Inputs, draws: Sequence[Outputs], outputs: Outputs) -> list[str]:
    values, amount = inputs["input"].detach(), float(case.option("amount"))
    shares = {LOW: amount} if case.option("kind") == "masking" else {LOW: amount / 2, HIGH: amount / 2}
    faults = [_frequency_fault(value, share, draws) for value, share in shares.items()]
    hit = torch.zeros_like(values, dtype=torch.bool)
    for value in shares:
        hit |= outputs[0] == value
    wrong = int(((outputs[0] != values) & ~hit).sum())
    faults.append(f"{wrong} elements are neither kept nor replaced as they should be" if wrong else "")
    return [*faults, _gradient_fault(inputs, outputs, ~hit)]


def _frequency_fault(value: float, share: float, draws: Sequence[Outputs]) -> str:
    deviation = math.sqrt(share * (1 - share))
    fault = noise_fault(*(((each[0] == value).double() - share) / deviation for each in draws), normal=False)
    return fault and f"places of {value:g}: {fault}"


def _gradient_fault(inputs: Inputs, outputs: Outputs, kept: Tensor) -> str:
    if len(outputs) == 1:
        return ""
    g = inputs["g"].double()
    return elements_fault("the gradient", outputs[1], g * kept, torch.zeros_like(g))


def _fused(library: ModuleType, case: Case) -> Corruption:
    kind, amount = str(case.option("kind")), float(case.option("amount"))
    return lambda x: library.corrupt(x, kind, amount, low=LOW, high=HIGH)
