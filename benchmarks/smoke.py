"""Runs each case of the families once on one backend and checks it: what memory checkers and profilers are given.

``python -m benchmarks.smoke --backend cuda`` takes small awkward shapes; ``--profile CASE`` one large case, its second
call inside an NVTX range named "profile".
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks import gate, ours
from benchmarks.case import Candidate, Case, Inputs, Outputs, Suite
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


def small_cases(family: str) -> list[Case]:
    """Every op, kind and dtype of the family on sizes that fill no block and no 16-byte access."""
    if family in SMALL:
        return [case for dtype in DTYPES for case in SMALL[family](dtype)]
    makers = {
        "vae_loss": (vae_loss.make_case, vae_loss.KINDS),
        "reparameterize": (reparameterize.make_case, reparameterize.OPS),
        "corrupt": (corrupt.make_case, corrupt.KINDS),
    }
    make, kinds = makers[family]
    cases = [make(shape, kind, dtype=dtype) for shape in SHAPES for kind in kinds for dtype in DTYPES]
    scaled = [vae_loss.make_case(shape, "bce_logits", g=0.375) for shape in SHAPES]
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


def check_all(families: Sequence[str], backend: str, device: str) -> int:
    """How many cases failed; prints them."""
    cases = [(SUITES[family], case) for family in families for case in small_cases(family)]
    failed = [line for suite, case in cases for line in check(suite, case, backend, device)]
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
    parser.add_argument("--profile", choices=sorted(LARGE), metavar="CASE", help="one large case under NVTX, on a GPU")
    options = parser.parse_args(arguments)
    device = "cpu" if options.backend == "cpu" else "cuda"
    absent = {family: ours.missing(device, family).get(options.backend) for family in SUITES}
    families = [family for family, reason in absent.items() if reason is None]
    if not families or (device == "cuda" and not torch.cuda.is_available()):
        print(f"backend {options.backend} is not here: {absent['vae_loss'] or 'torch sees no CUDA device'}")
        return 2
    if options.profile and family_of(options.profile) not in families:
        print(absent[family_of(options.profile)])
        return 2
    if options.profile:
        profile(options.profile, options.backend, device)
        return 0
    return 1 if check_all(families, options.backend, device) else 0


if __name__ == "__main__":
    raise SystemExit(main())
