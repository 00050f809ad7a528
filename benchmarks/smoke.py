"""Runs each case of the families once on one backend and checks it: what memory checkers and profilers are given.

``python -m benchmarks.smoke --backend cuda`` takes small awkward shapes, and for unpooling on a GPU indices outside the
image; ``--profile CASE`` one large case, its second call inside an NVTX range named "profile".
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks import gate, ours
from benchmarks.case import LAYOUTS, Candidate, Case, Inputs, Outputs, Suite
from benchmarks.registry import SUITES
from benchmarks.suites import (
    conv_transpose_loss,
    conv_transpose_shapes,
    corrupt,
    max_unpool_shapes,
    norm_act_shapes,
    reparameterize,
    vae_loss,
)

SHAPES = ((1, 1), (3, 7), (5, 3, 7, 9), (2, 4099))
DTYPES = ("float32", "bfloat16", "float16")
LARGE = {
    "vae_loss": vae_loss.make_case(vae_loss.IMAGES, "bce_logits", dtype="bfloat16", g=0.375),
    "reparameterize": reparameterize.make_case(reparameterize.LARGE, reparameterize.SAMPLE_KL, dtype="bfloat16"),
    "corrupt": corrupt.make_case(corrupt.LARGE, "gaussian", dtype="bfloat16", mode="fwd"),
    "conv_transpose": conv_transpose_shapes.large_case(number=4),
    "conv_transpose-few": conv_transpose_shapes.large_case(number=5),  # few output channels: other kernels
    "norm_act": norm_act_shapes.large_case(),
    "norm_act-block": norm_act_shapes.block_case(norm_act_shapes.G4, 1024, "bfloat16", layout="channels_last"),
    "conv_transpose_loss": conv_transpose_loss.large_case(),
    "max_unpool": max_unpool_shapes.large_case(),
    "max_unpool-pool": max_unpool_shapes.large_case(max_unpool_shapes.POOL),
    "nearest_unpool": max_unpool_shapes.large_window_case(),
}
SMALL = {
    "conv_transpose": conv_transpose_shapes.small_cases,
    "norm_act": norm_act_shapes.small_cases,
    "conv_transpose_loss": conv_transpose_loss.small_cases,
    "max_unpool": max_unpool_shapes.small_cases,
    "nearest_unpool": max_unpool_shapes.small_window_cases,
}


def family_of(name: str) -> str:
    """The suite of a large case."""
    return name.partition("-")[0]


def small_cases(family: str, dtypes: Sequence[str] = DTYPES) -> list[Case]:
    """Every op and kind of the family in those dtypes on sizes that fill no block and no 16-byte access."""
    if family in SMALL:
        return [case for dtype in dtypes for case in SMALL[family](dtype)]
    makers = {
        "vae_loss": (vae_loss.make_case, vae_loss.KINDS),
        "reparameterize": (reparameterize.make_case, reparameterize.OPS),
        "corrupt": (corrupt.make_case, corrupt.KINDS),
    }
    make, kinds = makers[family]
    cases = [make(shape, kind, dtype=dtype) for shape in SHAPES for kind in kinds for dtype in dtypes]
    scaled = [vae_loss.make_case(shape, "bce_logits", dtype=dtypes[0], g=0.375) for shape in SHAPES]
    return cases + (scaled if family == "vae_loss" else [])


def misaligned(tensor: Tensor) -> Tensor:
    """The same values in the same layout, one element past an aligned address."""
    buffer = torch.empty(tensor.numel() + 1, dtype=tensor.dtype, device=tensor.device)
    view = buffer.as_strided(tensor.shape, tensor.stride(), 1)
    return view.copy_(tensor.detach()).requires_grad_(tensor.requires_grad)


def check(suite: Suite, case: Case, backend: str, device: str) -> list[str]:
    """Failures of one case, with aligned and with misaligned inputs."""
    aligned = suite.inputs(case, device, seed=0)
    candidates = {candidate.name: candidate for candidate in suite.candidates(case, device, compiled=False)}
    failed = []
    for form, inputs in (
        ("aligned", aligned),
        ("misaligned", {k: misaligned(t) for k, t in aligned.items()}),
    ):
        judge = gate.Gate(suite, case, inputs)
        for name in ("eager", f"pyaegpu:{backend}"):  # eager first: its error is what is allowed
            candidate = candidates[name]
            with candidate.scope():
                verdict = judge.verdict(candidate, partial(candidate.make(), inputs), inputs)
            if not verdict.ok:
                failed.append(f"{case.id} {form} {name}: {verdict.reason}")
    return failed


def outside_cases(dtypes: Sequence[str]) -> list[Case]:
    """Unpoolings in which no two values have one place."""
    unpoolings = (case for case in small_cases("max_unpool", dtypes) if case.op == max_unpool_shapes.UNPOOL)
    return [case for case in unpoolings if not max_unpool_shapes.window_of(case).overlaps]


def check_outside(case: Case, backend: str, device: str) -> list[str]:
    """Failures of an unpooling of which every third index is outside the image, or is a code of no position: the other
    values are where they belong, and nothing else is written."""
    import pyaegpu

    window, size = max_unpool_shapes.window_of(case), math.prod(case.shape[2:])
    inputs = SUITES["max_unpool"].inputs(case, device, seed=0)
    values, indices = inputs["input"], inputs["indices"]
    given = inputs.get("codes", indices)
    places = torch.arange(given.numel(), device=device).view(given.shape)
    wild = torch.tensor([255] if "codes" in inputs else [-1, size, -(2**40), 2**33 + 5, size + 7], device=device)
    outside = places % 3 == 0
    given = torch.where(outside, wild[places // 3 % len(wild)].to(given.dtype), given)
    given = given.contiguous(memory_format=LAYOUTS[case.layout])
    expected = torch.zeros(case.shape, dtype=values.dtype, device=device).flatten(2)
    kept = torch.where(outside, 0, values.detach()).flatten(2)
    expected.scatter_add_(2, torch.where(outside, 0, indices).flatten(2), kept)
    with pyaegpu.backend(backend):
        result = pyaegpu.max_unpool2d(values, given, *window, output_size=case.shape[2:])
        (gradient,) = torch.autograd.grad(result, values, torch.ones_like(result))
    right = torch.equal(result.flatten(2), expected) and torch.equal(gradient, (~outside).to(gradient.dtype))
    return [] if right else [f"{case.id} {backend}: wrong where indices are outside the image"]


def run(candidate: Candidate, inputs: Inputs) -> Outputs:
    """One call in the candidate's scope."""
    with candidate.scope():
        return candidate.make()(inputs)


def profile(name: str, backend: str, device: str) -> None:
    """One warm call, then one inside the NVTX range."""
    suite, case = SUITES[family_of(name)], LARGE[name]
    inputs = suite.inputs(case, device, seed=0)
    found = suite.candidates(case, device, compiled=False)
    candidate = next(one for one in found if one.name == f"pyaegpu:{backend}")
    run(candidate, inputs)
    torch.cuda.synchronize()
    torch.cuda.nvtx.range_push("profile")
    run(candidate, inputs)
    torch.cuda.synchronize()
    torch.cuda.nvtx.range_pop()


def check_all(families: Sequence[str], backend: str, device: str, dtypes: Sequence[str] = DTYPES) -> int:
    """How many cases failed; prints them."""
    cases = [(SUITES[family], case) for family in families for case in small_cases(family, dtypes)]
    failed = [line for suite, case in cases for line in check(suite, case, backend, device)]
    if "max_unpool" in families and device == "cuda":  # on a CPU such indices are refused
        failed += [line for case in outside_cases(dtypes) for line in check_outside(case, backend, device)]
    print("\n".join([*failed, f"{backend}: {len(cases)} cases of {', '.join(families)}, {len(failed)} failures"]))
    return len(failed)


def main(arguments: Sequence[str] | None = None) -> int:
    """0: all right; 1: a wrong result; 2: the backend is not here."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.smoke",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--backend", choices=("cpu", "cuda", "triton"), required=True)
    parser.add_argument("--family", choices=sorted(SUITES), nargs="+", default=[*SUITES], help="only those")
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=DTYPES, help="only those")
    parser.add_argument("--profile", choices=sorted(LARGE), metavar="CASE", help="one large case under NVTX, on a GPU")
    options = parser.parse_args(arguments)
    device = "cpu" if options.backend == "cpu" else "cuda"
    absent = {family: ours.missing(device, family).get(options.backend) for family in options.family}
    families = [family for family, reason in absent.items() if reason is None]
    if not families or (device == "cuda" and not torch.cuda.is_available()):
        print(f"backend {options.backend} is not here: {next(iter(absent.values())) or 'torch sees no CUDA device'}")
        return 2
    if options.profile and family_of(options.profile) not in families:
        print(absent.get(family_of(options.profile), "--family leaves it out"))
        return 2
    if options.profile:
        profile(options.profile, options.backend, device)
        return 0
    return 1 if check_all(families, options.backend, device, options.dtype) else 0


if __name__ == "__main__":
    raise SystemExit(main())
