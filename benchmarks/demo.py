"""``python -m benchmarks.demo``: fused against stock PyTorch in half a minute, for the loss and for a step.

A quick look, not a publication: ``python -m benchmarks.run`` is the measurement.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from benchmarks import machine, stats, timing
from benchmarks.case import Candidate, Case
from benchmarks.runner import Runner, Settings
from benchmarks.suites.vae_loss import VaeLossSuite, make_case

ROUNDS, SAMPLES = 5, 3
KINDS = ("bce", "bce_logits")
BATCH, PIXELS, HIDDEN, LATENT = 128, 784, 400, 20
AGREE = 5e-3  # relative difference of the first losses: each side draws its own noise, worth about a thousandth


@dataclass(frozen=True)
class Line:
    """One line of the demo's table, in milliseconds."""

    what: str
    stock_ms: float
    fused_ms: float
    speed: float
    noisy: bool


class WrongResultError(RuntimeError):
    """The fused side's result is not stock's: there is no speed to show."""


def compare_loss(device: str, threads: int, shape: tuple[int, ...]) -> list[Line]:
    """vae_loss forward+backward through the benchmark's own gate and clock."""
    suite = VaeLossSuite()

    def candidates(case: Case) -> list[Candidate]:
        found = suite.candidates(case, device, compiled=False)
        return [candidate for candidate in found if candidate.name in ("eager", "pyaegpu:auto")]

    runner = Runner(suite, Settings(device, ROUNDS, SAMPLES, threads, compiled=False), candidates)
    size = "x".join(map(str, shape))
    return [_loss_line(runner, make_case(shape, kind), f"vae_loss {kind}, {size}, fwd+bwd") for kind in KINDS]


def _loss_line(runner: Runner, case: Case, what: str) -> Line:
    rows = {row["candidate"]: row for row in runner.run(case)}
    fused, stock = rows.get("pyaegpu:auto"), rows["eager"]
    if fused is None or "median_us" not in fused:
        raise WrongResultError(f"{what}: {fused['reason'] if fused else 'pyaegpu cannot be imported'}")
    speed = fused["wall_vs_eager"]["value"]
    return Line(what, stock["wall_us"] / 1e3, fused["wall_us"] / 1e3, speed, fused["noisy"])


def training_step(kind: str, fused: bool, images: torch.Tensor) -> Callable[[], torch.Tensor]:
    """One Adam step of the MLP VAE on `images`, returning the loss; the same seed on both sides."""
    from pyaegpu.models import create
    from pyaegpu.training import OUTPUT_OF_KIND, make_loss

    torch.manual_seed(0)
    sizes = {"input_dim": PIXELS, "hidden": HIDDEN, "latent": LATENT}
    model = create("vae", fused=fused, output=OUTPUT_OF_KIND[kind], **sizes).to(images.device)
    loss = make_loss(kind, fused=fused)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    noise = torch.Generator(images.device).manual_seed(1)

    def step() -> torch.Tensor:
        recon, mu, logvar = model(images, noise)
        value = loss(recon, images, mu, logvar)[0]
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        return value.detach()

    return step


def compare_step(device: str, kind: str) -> Line:
    """The whole training step: sampling, loss, backward, Adam."""
    images = torch.rand(BATCH, PIXELS, device=device)
    steps = {name: training_step(kind, name == "fused", images) for name in ("stock", "fused")}
    first = {name: float(step()) for name, step in steps.items()}
    if not abs(first["fused"] - first["stock"]) <= AGREE * abs(first["stock"]):
        raise WrongResultError(f"first loss of the {kind} step: {first['fused']}, stock has {first['stock']}")
    clock = timing.clock_for(device)
    subjects = {name: timing.Subject([steps[name.split()[0]]]) for name in ("stock", "fused", "stock again")}
    for subject in subjects.values():
        timing.calibrate(subject, clock)
    measured = timing.interleave(subjects, clock, rounds=ROUNDS, samples=SAMPLES, seed=0)
    walls = {name: [[sample.wall for sample in samples] for samples in rounds] for name, rounds in measured.items()}
    stock_us, fused_us = (stats.summarize(walls[name]).median for name in ("stock", "fused"))
    speed = stats.speed_ratio(walls["stock"], walls["fused"]).value
    noisy = stats.noisy(stats.speed_ratio(walls["stock"], walls["stock again"]))
    what = f"training step of the MLP VAE, {kind}, {BATCH}x{PIXELS}"
    return Line(what, stock_us / 1e3, fused_us / 1e3, speed, noisy)


def render(lines: Sequence[Line], device: str) -> str:
    """The table, with what it ran on."""
    facts = machine.facts(device)
    width = max(len(line.what) for line in lines)
    body = [
        f"{line.what:<{width}}  {line.stock_ms:9.2f}  {line.fused_ms:9.2f}  {line.speed:7.2f}x"
        + ("  (noisy)" if line.noisy else "")
        for line in lines
    ]
    head = f"{facts['card']}, {facts['threads']} CPU threads, torch {facts['torch']}; medians, wall time"
    return "\n".join([head, f"{'':<{width}}  {'stock ms':>9}  {'fused ms':>9}  {'speed':>8}", *body])


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; 1 where a result is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=default)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of both sides (default 2)")
    parser.add_argument("--batch", type=int, default=256, help="images of 3x64x64 for the loss (default 256)")
    options = parser.parse_args(arguments)
    try:
        lines = compare_loss(options.device, options.threads, (options.batch, 3, 64, 64))
        lines += [compare_step(options.device, kind) for kind in KINDS]
    except WrongResultError as error:
        print(f"no speed is shown: {error}")
        return 1
    print(render(lines, options.device))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
