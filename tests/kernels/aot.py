"""Ahead-of-time compilation of the Triton kernels as their launchers start them, for machines without a GPU.

The launchers run on meta tensors while the JIT entry point is replaced by a recorder, so that every
signature, constant, alignment and configuration is the one a GPU would get. `python tests/kernels/aot.py`
prints the table.
"""

import itertools
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import triton
from pyaegpu.kernels import vae_loss as kernels
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

ARCHITECTURES = (80, 90, 100)
SHARED_LIMITS = {80: 166_912, 90: 232_448, 100: 232_448}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "f64": torch.float64}
KINDS = {"bce": 0, "bce_logits": 1, "mse": 2, "l1": 3, "smooth_l1": 4}
FORMS = {"logvar": 0, "std": 1, "var": 2}
NONE, TOTAL, ROWS, COLUMNS = range(4)
INF = float("inf")

# Shapes that take each tile: one long row, long rows, middling rows, short rows.
IMAGES = (1024, 3, 64, 64)
MNIST = (128, 784)
NARROW = (4096, 64)
LATENT = (128, 64)
# Rows that no 16-byte access can follow: narrow tiles.
ODD = (127, 785)
ODD_LATENT = (127, 20)


@dataclass
class Launch:
    """One kernel start: what it was started for, and the call."""

    label: str
    kernel: JITFunction
    args: tuple[Any, ...]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        return self.kernel.fn.__name__


@dataclass
class Compiled:
    launch: Launch
    arch: int
    warps: int
    ptx: str
    registers: int
    shared: int
    stack: int


@contextmanager
def recording(label: str, launches: list[Launch]) -> Iterator[None]:
    def record(kernel: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        launches.append(Launch(label, kernel, args, options))

    with mock.patch.object(JITFunction, "run", record):
        yield


def compile_launch(launch: Launch, arch: int) -> Compiled:
    """What JITFunction.run does on a GPU of that architecture, up to the start."""
    target = GPUTarget("cuda", arch, 32)
    backend = make_backend(target)
    kernel = launch.kernel
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, options = bind(*launch.args, debug=False, **launch.options)
    parsed, signature, constants, attributes = kernel._pack_args(backend, options, bound, specialization, options)
    source = ASTSource(kernel, signature, constants, attributes)
    binary = triton.compile(source, target=target, options=parsed.__dict__)
    registers, stack = resource_usage(binary.asm["cubin"])
    return Compiled(launch, arch, parsed.num_warps, binary.asm["ptx"], registers, binary.metadata.shared, stack)


def resource_usage(cubin: bytes) -> tuple[int, int]:
    """Registers, and bytes of stack per thread, which is where spilled registers go."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = next(line for line in text.splitlines() if "REG:" in line)
    usage = {name: int(value) for name, value in re.findall(r"\b(REG|STACK):(\d+)", line)}
    return usage["REG"], usage["STACK"]


def acc_of(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def meta(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def reconstruction_calls(kind: str, dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], Any]]]:
    number = KINDS[kind]

    def forward(shape: tuple[int, ...], reduction: int, store: bool, weighted: bool = False) -> Any:
        x = meta(shape, dtype)
        return kernels.reconstruction_loss_fwd(x, x, x if weighted else None, number, 1.0, reduction, 1.0, store)

    def backward(shape: tuple[int, ...], reduction: int) -> Any:
        x = meta(shape, dtype)
        g = x if reduction == NONE else meta((), acc_of(dtype))
        return kernels.reconstruction_loss_bwd(g, x, x, None, number, 1.0, reduction, 1.0)

    yield f"{kind} sum+grad", lambda: forward(IMAGES, TOTAL, True)
    yield f"{kind} rows, weight", lambda: forward(MNIST, ROWS, True, weighted=True)
    yield f"{kind} short rows", lambda: forward(NARROW, ROWS, False)
    yield f"{kind} odd rows, weight", lambda: forward(ODD, ROWS, True, weighted=True)
    yield f"{kind} elements", lambda: forward(IMAGES, NONE, True)
    yield f"{kind} sum backward", lambda: backward(IMAGES, TOTAL)
    yield f"{kind} elements backward", lambda: backward(IMAGES, NONE)


def vae_calls(kind: str, dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], Any]]]:
    acc = acc_of(dtype)

    def pass_(shape: tuple[int, ...], reduction: int, stored: bool | None) -> Any:
        x, mu = meta(shape, dtype), meta((shape[0], 64), dtype)
        beta, g = meta((), acc), meta((shape[0],) if reduction == ROWS else (), acc)
        latents = (mu, mu, beta, 1.0)
        if stored is None:
            return kernels.vae_loss_fwd(x, x, None, *latents, KINDS[kind], reduction, 1.0, 1.0, -INF, INF, True)
        if stored:
            return kernels.vae_loss_bwd_stored_(x, g, None, None, *latents, reduction, 1.0, -INF, INF)
        return kernels.vae_loss_bwd(g, None, None, x, x, None, *latents, KINDS[kind], reduction, 1.0, 1.0, -INF, INF)

    yield f"{kind} sum", lambda: pass_(IMAGES, TOTAL, None)
    yield f"{kind} rows", lambda: pass_(MNIST, ROWS, None)
    yield f"{kind} sum backward", lambda: pass_(IMAGES, TOTAL, False)
    if kind == "bce_logits":
        yield "stored sum backward", lambda: pass_(IMAGES, TOTAL, True)
        yield "stored rows backward", lambda: pass_(MNIST, ROWS, True)


def kl_calls(form: str, dtype: torch.dtype, other: bool) -> Iterator[tuple[str, Callable[[], Any]]]:
    label = f"{form}{', other' if other else ''}"

    def operands(shape: tuple[int, ...]) -> tuple[Tensor | None, ...]:
        mu = meta(shape, dtype)
        return (mu, mu, mu if other else None, mu if other else None)

    numbers = (FORMS[form], -INF, INF, 0.0)

    def forward(shape: tuple[int, ...], reduction: int) -> Any:
        return kernels.gaussian_kl_fwd(*operands(shape), *numbers, reduction, 1.0)

    def backward(shape: tuple[int, ...], reduction: int) -> Any:
        g = meta({TOTAL: (), COLUMNS: shape[1:], NONE: shape}[reduction], acc_of(dtype))
        return kernels.gaussian_kl_bwd(g, *operands(shape), *numbers, reduction, 1.0)

    yield f"{label} sum", lambda: forward(IMAGES, TOTAL)
    yield f"{label} sum backward", lambda: backward(IMAGES, TOTAL)
    yield f"{label} odd columns backward", lambda: backward(ODD_LATENT, COLUMNS)
    if form == "logvar" and not other:
        yield f"{label} rows", lambda: forward(MNIST, ROWS)
        yield f"{label} short rows", lambda: forward(LATENT, ROWS)
        yield f"{label} columns", lambda: forward(NARROW, COLUMNS)
        yield f"{label} elements", lambda: forward(IMAGES, NONE)
        yield f"{label} columns backward", lambda: backward(LATENT, COLUMNS)
        yield f"{label} elements backward", lambda: backward(IMAGES, NONE)


def scale_calls(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], Any]]]:
    for label, shape, reduction in [("sum", IMAGES, TOTAL), ("rows", MNIST, ROWS), ("short rows", NARROW, ROWS)]:
        grad, g = meta(shape, dtype), meta(shape[:1] if reduction == ROWS else (), acc_of(dtype))
        yield label, lambda grad=grad, g=g, r=reduction: kernels.reconstruction_loss_scale_(grad, g, r)


def launches(name: str) -> list[Launch]:
    """Every kernel in every configuration for one dtype: all kinds and forms in float32, the common ones else."""
    dtype = DTYPES[name]
    kinds = KINDS if name == "f32" else {"f16": []}.get(name, ["bce_logits", "mse"])
    forms = FORMS if name == "f32" else ["logvar"]
    calls = itertools.chain(
        *(reconstruction_calls(kind, dtype) for kind in kinds),
        *(vae_calls(kind, dtype) for kind in kinds or ["bce_logits"]),
        *(kl_calls(form, dtype, other) for form in forms for other in (False, True)),
        scale_calls(dtype),
    )
    found: list[Launch] = []
    for label, call in calls:
        with recording(label, found):
            call()
    # The second stages do not depend on what is summed: one of each is enough.
    once = {(each.name, "" if each.name == "sum_kernel" else each.label): each for each in found}
    return list(once.values())


def main() -> None:
    heading = f"registers sm_{'/'.join(map(str, ARCHITECTURES))}"
    print(f"{'dtype':5} {'kernel':26} {'for':28} warps {heading:24} shared stack")
    for name in DTYPES:
        for launch in launches(name):
            built = [compile_launch(launch, arch) for arch in ARCHITECTURES]
            registers = "/".join(str(each.registers) for each in built)
            shared, stack = max(each.shared for each in built), max(each.stack for each in built)
            print(f"{name:5} {launch.name:26} {launch.label:28} {built[0].warps:5} {registers:24} {shared:6} {stack:5}")


if __name__ == "__main__":
    main()
