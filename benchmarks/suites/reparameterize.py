"""Gaussian samples, alone and with their KL divergence, against what a user of stock PyTorch writes."""

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

Sampler = Callable[[Tensor, Tensor, Tensor | None], Outputs]  # of mu, logvar and the noise, None to draw it

SAMPLE, SAMPLE_KL = "reparameterize", "reparameterize_kl"
OPS = (SAMPLE, SAMPLE_KL)
LEAVES = ("mu", "logvar")
MLP, LATENTS, MAPS, LARGE = (128, 20), (1024, 128), (64, 4, 64, 64), (4096, 4096)
CACHE_RESIDENT = 1 << 20  # problems of at most this many elements are meant to stay in the cache
# Operations per element, estimated, integer ones too: a quarter of a Philox call and half of a Box-Muller pair.
NOISE_FLOPS = 45
SAMPLE_FLOPS, KL_FLOPS = (4, 4), (6, 4)  # forward and backward
GIVEN_SEED = 1234


def stock_sample(mu: Tensor, logvar: Tensor, eps: Tensor | None) -> Outputs:
    """The reparameterization trick as users write it."""
    std = torch.exp(0.5 * logvar)
    eps = torch.randn_like(std) if eps is None else eps
    return (mu + eps * std,)


def stock_sample_kl(mu: Tensor, logvar: Tensor, eps: Tensor | None) -> Outputs:
    """The same, and the divergence as users write it."""
    return *stock_sample(mu, logvar, eps), -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())


STOCK: dict[str, Sampler] = {SAMPLE: stock_sample, SAMPLE_KL: stock_sample_kl}


def fused(library: ModuleType, op: str) -> Sampler:
    """The sampler of pyaegpu."""
    if op == SAMPLE:
        return lambda mu, logvar, eps: (library.reparameterize(mu, logvar, eps=eps),)
    return lambda mu, logvar, eps: library.reparameterize_kl(mu, logvar, eps=eps, reduction="sum")


def given_noise(case: Case, like: Tensor) -> Tensor:
    """The noise of the reference: the same at every call, rounded to the case's dtype."""
    generator = torch.Generator(like.device).manual_seed(GIVEN_SEED)
    noise = torch.randn(case.shape, generator=generator, device=like.device)
    return torch.empty_like(like).copy_(noise.to(DTYPES[case.dtype]))


def step_of(sample: Sampler, case: Case, *, given: bool = False) -> Step:
    """The timed call, or with the noise of the reference; in "fwd+bwd" for a gradient g of z and 1 of the KL."""

    def call(inputs: Inputs) -> Outputs:
        mu, logvar = (inputs[name] for name in LEAVES)
        return sample(mu, logvar, given_noise(case, mu) if given else None)

    def forward(inputs: Inputs) -> Outputs:
        with torch.no_grad():
            return call(inputs)

    def forward_backward(inputs: Inputs) -> Outputs:
        outputs = call(inputs)
        upstream = [inputs["g"], *[None] * (len(outputs) - 1)]
        gradients = torch.autograd.grad(outputs, [inputs[name] for name in LEAVES], upstream)
        return (*(output.detach() for output in outputs), *gradients)

    return forward if case.mode == "fwd" else forward_backward


def make_case(shape: tuple[int, ...], op: str = SAMPLE, **changes: Any) -> Case:
    """One row of the suite; `changes` are other fields of the case."""
    fields = {"dtype": "float32", "out_of_cache": math.prod(shape) > CACHE_RESIDENT} | changes
    return Case(op, shape, **fields)


def cpu_cases() -> list[Case]:
    """float32; the divergence also at the size of an MNIST MLP, and the largest in bfloat16 once."""
    shapes, modes = (LATENTS, MAPS, LARGE), ("fwd", "fwd+bwd")
    cases = [make_case(shape, op, mode=mode) for op in OPS for mode in modes for shape in shapes]
    return [*cases, make_case(MLP, SAMPLE_KL), make_case(LARGE, dtype="bfloat16")]


def cuda_cases() -> list[Case]:
    """bfloat16 and float32 forward and backward, then one axis at a time."""
    shapes, bf16 = (LARGE, MAPS, LATENTS), "bfloat16"
    cases = [make_case(shape, op, dtype=dtype) for dtype in (bf16, "float32") for op in OPS for shape in shapes]
    cases += [make_case(LATENTS, op, dtype=dtype, graph=True) for dtype in (bf16, "float32") for op in OPS]
    cases += [make_case(shape, op, dtype=bf16, mode="fwd") for op in OPS for shape in (LARGE, LATENTS)]
    return [*cases, make_case(LARGE, mode="fwd"), make_case(MAPS, dtype=bf16, layout="channels_last")]


class ReparameterizeSuite:
    """`pyaegpu.reparameterize` and `pyaegpu.reparameterize_kl` against eager and compiled stock PyTorch."""

    name = "reparameterize"

    def cases(self, device: str, size: str) -> list[Case]:
        """See `Suite.cases`."""
        if size == "tiny":
            return [make_case((8, 12), op, mode=mode) for op in OPS for mode in ("fwd", "fwd+bwd")]
        return cuda_cases() if device == "cuda" else cpu_cases()

    def inputs(self, case: Case, device: str, seed: int) -> Inputs:
        """mu, logvar and, where it is needed, z's gradient g: normal."""
        generator = torch.Generator(device).manual_seed(seed)
        deviations = {"mu": 1.0, "logvar": 0.5} | ({} if case.mode == "fwd" else {"g": 1.0})

        def normal(deviation: float) -> Tensor:
            values = deviation * torch.randn(case.shape, generator=generator, device=device)
            return values.to(DTYPES[case.dtype]).contiguous(memory_format=LAYOUTS[case.layout])

        return {name: normal(size).requires_grad_(name in LEAVES) for name, size in deviations.items()}

    def work(self, case: Case) -> Work:
        """Forward mu, logvar, z; backward g, logvar and its gradient (mu's is g), with the KL also mu and its own."""
        elements, kl, backward = math.prod(case.shape), case.op == SAMPLE_KL, case.mode != "fwd"
        parts = range(2 if backward else 1)
        flops = sum(NOISE_FLOPS + SAMPLE_FLOPS[part] + kl * KL_FLOPS[part] for part in parts)
        accesses = 3 + backward * (5 if kl else 3)
        return Work(flops * elements, DTYPES[case.dtype].itemsize * accesses * elements)

    def candidates(self, case: Case, device: str, compiled: bool) -> list[Candidate]:
        """eager, compiled stock and every pyaegpu backend that is there."""
        sample = STOCK[case.op]
        found = stock.candidates(
            sample,
            lambda form: step_of(form, case),
            device,
            compiled,
            given=lambda: step_of(sample, case, given=True),
        )
        return found + ours.candidates(
            device,
            self.name,
            lambda library: step_of(fused(library, case.op), case),
            lambda library, inputs: _served_by(library, inputs, case.op),
            lambda library: step_of(fused(library, case.op), case, given=True),
        )

    def reference(self, case: Case, inputs: Inputs) -> Outputs:
        """Stock PyTorch in float64, on the values and the noise that the candidates are given."""
        wide = {name: tensor.detach().double().requires_grad_(tensor.requires_grad) for name, tensor in inputs.items()}
        return step_of(STOCK[case.op], case, given=True)(wide)

    def check(self, case: Case, inputs: Inputs, draws: Sequence[Outputs]) -> str:
        """The noise that z tells is normal and fresh; divergence and gradients fit the inputs and that very z."""
        values = {name: tensor.detach().double() for name, tensor in inputs.items()}
        faults = (_sample_fault(case, outputs) for outputs in draws)
        return next(filter(None, faults), "") or _noise_fault(values, draws) or _results_fault(case, values, draws[-1])


def _sample_fault(case: Case, outputs: Outputs) -> str:
    count = (2 if case.op == SAMPLE_KL else 1) + (0 if case.mode == "fwd" else 2)
    if len(outputs) != count:
        return f"{len(outputs)} outputs, expected {count}"
    shape = tuple(outputs[0].shape)
    return "" if shape == case.shape else f"z has shape {shape}, expected {case.shape}"


def _noise_fault(values: Inputs, draws: Sequence[Outputs]) -> str:
    first, second = ((outputs[0].double() - values["mu"]) * (-0.5 * values["logvar"]).exp() for outputs in draws)
    return noise_fault(first, second, normal=True)


def _results_fault(case: Case, values: Inputs, outputs: Outputs) -> str:
    mu, logvar, kl = values["mu"], values["logvar"], case.op == SAMPLE_KL
    z, rest = outputs[0].double(), list(outputs[1:])
    variance, faults = logvar.exp(), []
    if kl:
        size = (1 + logvar.abs() + mu * mu + variance).sum()
        expected = 0.5 * (variance - 1 - logvar + mu * mu).sum()
        faults.append(elements_fault("the divergence", rest.pop(0), expected, 0.5 * size))
    if rest:
        g = values["g"]
        size = 0.5 * g.abs() * (z.abs() + mu.abs()) + 0.5 * kl * (1 + variance)
        expected = 0.5 * g * (z - mu) + 0.5 * kl * (variance - 1)
        faults.append(elements_fault("mu's gradient", rest[0], g + kl * mu, g.abs() + kl * mu.abs()))
        faults.append(elements_fault("logvar's gradient", rest[1], expected, size))
    return next(filter(None, faults), "")


def _served_by(library: ModuleType, inputs: Inputs, op: str) -> str:
    return str(library.explain(getattr(library, op), inputs["mu"], inputs["logvar"]).backend)
