"""Runs each case of a family once on one backend and checks it: what memory checkers and profilers are given.

``python -m benchmarks.smoke --backend cuda`` takes small awkward shapes; ``--profile`` one large case, its
second call inside an NVTX range named "profile".
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks import gate, ours
from benchmarks.case import Candidate, Case, Inputs
from benchmarks.suites.vae_loss import IMAGES, KINDS, VaeLossSuite, make_case

SHAPES = ((1, 1), (3, 7), (5, 3, 7, 9), (2, 4099))
SUITE = VaeLossSuite()


def small_cases() -> list[Case]:
    """Every kind and dtype on sizes that fill no block and no 16-byte access."""
    dtypes = ("float32", "bfloat16", "float16")
    cases = [make_case(shape, kind, dtype=dtype) for shape in SHAPES for kind in KINDS for dtype in dtypes]
    return cases + [make_case(shape, "bce_logits", g=0.375) for shape in SHAPES]


def misaligned(tensor: Tensor) -> Tensor:
    """The same values one element past an aligned address."""
    buffer = torch.empty(tensor.numel() + 1, dtype=tensor.dtype, device=tensor.device)
    view = buffer[1:].view(tensor.shape)
    return view.copy_(tensor.detach()).requires_grad_(tensor.requires_grad)


def check(case: Case, backend: str, device: str) -> list[str]:
    """Failures of one case, with aligned and with misaligned inputs."""
    aligned = SUITE.inputs(case, device, seed=0)
    candidates = {candidate.name: candidate for candidate in SUITE.candidates(case, device, compiled=False)}
    failed = []
    for form, inputs in (
        ("aligned", aligned),
        ("misaligned", {k: misaligned(t) for k, t in aligned.items()}),
    ):
        eager = candidates["eager"].make()(inputs)
        outputs = run(candidates[f"pyaegpu:{backend}"], inputs)
        verdict = gate.judge(outputs, eager, SUITE.reference(case, inputs))
        if not verdict.ok:
            failed.append(f"{case.id} {form}: {verdict.reason}")
    return failed


def run(candidate: Candidate, inputs: Inputs) -> tuple[Tensor, ...]:
    """One call in the candidate's scope."""
    with candidate.scope():
        return candidate.make()(inputs)


def profile(backend: str, device: str) -> None:
    """One warm call, then one inside the NVTX range."""
    case = make_case(IMAGES, "bce_logits", dtype="bfloat16", g=0.375)
    inputs = SUITE.inputs(case, device, seed=0)
    found = SUITE.candidates(case, device, compiled=False)
    candidate = next(one for one in found if one.name == f"pyaegpu:{backend}")
    run(candidate, inputs)
    torch.cuda.synchronize()
    torch.cuda.nvtx.range_push("profile")
    run(candidate, inputs)
    torch.cuda.synchronize()
    torch.cuda.nvtx.range_pop()


def main(arguments: Sequence[str] | None = None) -> int:
    """0: all right; 1: a wrong result; 2: the backend is not here."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.smoke",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--backend", choices=("cpu", "cuda", "triton"), required=True)
    parser.add_argument("--profile", action="store_true", help="one large case under NVTX, on a GPU")
    options = parser.parse_args(arguments)
    device = "cpu" if options.backend == "cpu" else "cuda"
    absent = ours.missing(device).get(options.backend)
    if absent or (device == "cuda" and not torch.cuda.is_available()):
        print(f"backend {options.backend} is not here: {absent or 'torch sees no CUDA device'}")
        return 2
    if options.profile:
        profile(options.backend, device)
        return 0
    cases = small_cases()
    failed = [line for case in cases for line in check(case, options.backend, device)]
    print("\n".join([*failed, f"{options.backend}: {len(cases)} cases, {len(failed)} failures"]))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
