"""The VAE loss: reconstruction + KL against what a user of stock PyTorch writes."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import ours, stock
from benchmarks.case import DTYPES, LAYOUTS, Candidate, Case, Inputs, Step, Work

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

KINDS = ("bce", "bce_logits", "mse", "l1", "smooth_l1")
HALVES = ("float16", "bfloat16")
LEAVES = ("recon", "mu", "logvar")
STOCK: dict[str, Callable[..., Tensor]] = {
    "bce": F.binary_cross_entropy,
    "bce_logits": F.binary_cross_entropy_with_logits,
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "smooth_l1": F.smooth_l1_loss,
}
# Operations per element, forward and backward; exp, log, log1p and a division count one each.
FLOPS = {"bce": (8, 5), "bce_logits": (9, 4), "mse": (3, 2), "l1": (3, 2), "smooth_l1": (6, 3)}
KL_FLOPS = (7, 4)
MLP, IMAGES, LARGE = (128, 784), (1024, 3, 64, 64), (64, 3, 256, 256)
LATENT: dict[tuple[int, ...], int] = {MLP: 20}
CACHE_RESIDENT = 1 << 20  # problems of at most this many elements are meant to stay in the cache


def stock_loss(kind: str, *, upcast: bool = False) -> Loss:
    """Sum-reduced reconstruction + KL as users write it; `upcast` to float32 first, as autocast does."""
    reconstruction = STOCK[kind]

    def loss(recon: Tensor, target: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        if upcast:
            recon, target, mu, logvar = recon.float(), target.float(), mu.float(), logvar.float()
        kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        return reconstruction(recon, target, reduction="sum") + kl

    return loss


def sigmoid_bce(recon: Tensor, target: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """The same loss from logits through a separate sigmoid: informational, less accurate."""
    return stock_loss("bce")(recon.sigmoid(), target, mu, logvar)


def step_of(loss: Loss, case: Case) -> Step:
    """The timed call: the loss, and in "fwd+bwd" its gradients for the case's upstream gradient."""
    upstream = float(case.option("g"))
    seeds: dict[torch.dtype, Tensor] = {}

    def seed(value: Tensor) -> Tensor | None:
        if upstream == 1:
            return None
        if value.dtype not in seeds:  # once: a fill per call is not the loss's work
            seeds[value.dtype] = torch.full_like(value, upstream)
        return seeds[value.dtype]

    def forward(inputs: Inputs) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (loss(inputs["recon"], inputs["target"], inputs["mu"], inputs["logvar"]),)

    def forward_backward(inputs: Inputs) -> tuple[Tensor, ...]:
        value = loss(inputs["recon"], inputs["target"], inputs["mu"], inputs["logvar"])
        gradients = torch.autograd.grad(value, [inputs[name] for name in LEAVES], seed(value))
        return (value.detach(), *gradients)

    return forward if case.mode == "fwd" else forward_backward


def make_case(
    shape: tuple[int, ...],
    kind: str,
    *,
    dtype: str = "float32",
    layout: str = "contiguous",
    mode: str = "fwd+bwd",
    g: float = 1.0,
    graph: bool = False,
) -> Case:
    """One row of the suite; g is the gradient that arrives at the loss."""
    options = (("kind", kind), ("latent", LATENT.get(shape, 128)), ("g", g))
    large = math.prod(shape) > CACHE_RESIDENT
    return Case("vae_loss", shape, dtype, layout, mode, options, graph, large)


def cpu_cases() -> list[Case]:
    """float32 on the sizes of the digits MLP and of a batch of 64x64 images."""
    shapes = (MLP, (256, 3, 64, 64))
    cases = [make_case(shape, kind) for shape in shapes for kind in KINDS]
    cases += [make_case(shape, "bce_logits", g=0.375) for shape in shapes]
    return cases + [make_case(shape, kind, mode="fwd") for shape in shapes for kind in KINDS]


def cuda_cases() -> list[Case]:
    """Every kind in bfloat16, then one axis at a time: a full product would not fit a session."""
    shapes = (IMAGES, LARGE, MLP)
    bf16 = "bfloat16"
    cases = [make_case(shape, kind, dtype=bf16) for kind in ("bce_logits", "bce", "mse") for shape in shapes]
    cases += [make_case(shape, kind, dtype=bf16, g=0.375) for kind in ("bce_logits", "bce") for shape in shapes]
    cases += [make_case(shape, kind) for kind in ("bce_logits", "bce") for shape in shapes]
    cases += [make_case(shape, "bce_logits", dtype="float16", g=g) for g in (0.375, 1.0) for shape in shapes]
    cases += [
        make_case(shape, kind, dtype=bf16, layout="channels_last")
        for kind in ("bce_logits", "mse")
        for shape in (IMAGES, LARGE)
    ]
    cases += [make_case(MLP, kind, dtype=bf16, graph=True) for kind in ("bce_logits", "bce", "mse")]
    cases += [make_case(shape, "bce_logits", dtype=bf16, mode="fwd") for shape in shapes]
    return cases + [make_case(shape, kind, dtype=bf16) for kind in ("l1", "smooth_l1") for shape in shapes]


class VaeLossSuite:
    """`pyaegpu.vae_loss` against eager and compiled stock PyTorch."""

    name = "vae_loss"

    def cases(self, device: str, size: str) -> list[Case]:
        """See `Suite.cases`."""
        if size == "tiny":
            return [make_case((8, 12), kind) for kind in KINDS] + [make_case((4, 3, 4, 4), "mse", mode="fwd")]
        return cuda_cases() if device == "cuda" else cpu_cases()

    def inputs(self, case: Case, device: str, seed: int) -> Inputs:
        """Target uniform in [0, 1]; recon normal, through a sigmoid unless the kind takes logits."""
        generator = torch.Generator(device).manual_seed(seed)
        dtype, layout = DTYPES[case.dtype], LAYOUTS[case.layout]

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device)

        recon = normal(*case.shape)
        recon = recon if case.option("kind") == "bce_logits" else recon.sigmoid()
        target = torch.rand(case.shape, generator=generator, device=device)
        rows, latent = case.shape[0], int(case.option("latent"))
        mu, logvar = normal(rows, latent), 0.5 * normal(rows, latent)
        tensors = {"recon": recon, "target": target}
        made = {name: tensor.to(dtype).contiguous(memory_format=layout) for name, tensor in tensors.items()}
        made |= {"mu": mu.to(dtype), "logvar": logvar.to(dtype)}
        return {name: tensor.requires_grad_(name in LEAVES) for name, tensor in made.items()}

    def work(self, case: Case) -> Work:
        """Forward reads 2E; with its gradient 3E, and 5E when g is not 1 (g is known only afterwards)."""
        elements = math.prod(case.shape)
        latents = case.shape[0] * int(case.option("latent"))
        size = DTYPES[case.dtype].itemsize
        forward, backward = FLOPS[str(case.option("kind"))]
        if case.mode == "fwd":
            return Work(forward * elements + KL_FLOPS[0] * latents, size * (2 * elements + 2 * latents))
        accesses = 3 if case.option("g") == 1 else 5
        flops = (forward + backward) * elements + sum(KL_FLOPS) * latents
        return Work(flops, size * (accesses * elements + 4 * latents))

    def candidates(self, case: Case, device: str, compiled: bool) -> list[Candidate]:
        """eager, compiled stock, informational forms, and every pyaegpu backend that is there."""
        kind = str(case.option("kind"))
        # Stock's float16 sum of a batch overflows: there the float32 form of autocast is what users run.
        loss = stock_loss(kind, upcast=case.dtype == "float16")
        found = stock.candidates(loss, lambda form: step_of(form, case), device, compiled)
        if case.dtype == "bfloat16":
            upcast = stock_loss(kind, upcast=True)
            found.append(Candidate("eager_autocast", "stock", lambda: step_of(upcast, case)))
        if kind == "bce_logits" and case.dtype not in HALVES:
            found.append(Candidate("eager_sigmoid_bce", "info", lambda: step_of(sigmoid_bce, case)))
        return found + ours.candidates(
            device,
            self.name,
            lambda library: step_of(_fused(library, kind), case),
            lambda library, inputs: _served_by(library, inputs, kind),
        )

    def reference(self, case: Case, inputs: Inputs) -> tuple[Tensor, ...]:
        """Stock PyTorch in float64, on the very values that the candidates see."""
        wide = {name: tensor.detach().double().requires_grad_(tensor.requires_grad) for name, tensor in inputs.items()}
        return step_of(stock_loss(str(case.option("kind"))), case)(wide)


def _fused(library: ModuleType, kind: str) -> Loss:
    def loss(recon: Tensor, target: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        return library.vae_loss(recon, target, mu, logvar, kind=kind)

    return loss


def _served_by(library: ModuleType, inputs: Inputs, kind: str) -> str:
    arguments = [inputs[name] for name in ("recon", "target", "mu", "logvar")]
    return str(library.explain(library.vae_loss, *arguments, kind=kind).backend)
