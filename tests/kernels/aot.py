"""Ahead-of-time compilation of the Triton kernels as their launchers start them, for machines without a GPU.

The launchers run on meta tensors while the JIT entry point is replaced by a recorder, so that every
signature, constant, alignment and configuration is the one a GPU would get. `python tests/kernels/aot.py`
prints the table.
"""

import itertools
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import aot_calls_conv_transpose
import aot_calls_conv_transpose_loss
import aot_calls_conv_transpose_small
import aot_calls_max_unpool
import aot_calls_norm_act
import aot_calls_sampling
import aot_calls_vae_loss
import triton
from aot_calls import DTYPES
from pyaegpu.kernels import target
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

ARCHITECTURES = (80, 90, 100)
SHARED_LIMITS = {80: 166_912, 90: 232_448, 100: 232_448}
PROCESSORS = 132
FAMILIES = (
    aot_calls_vae_loss,
    aot_calls_sampling,
    aot_calls_conv_transpose,
    aot_calls_conv_transpose_small,
    aot_calls_conv_transpose_loss,
    aot_calls_norm_act,
    aot_calls_max_unpool,
)


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


def bind(launch: Launch, backend: Any) -> tuple[Any, Any, Any]:
    binder = create_function_from_signature(launch.kernel.signature, launch.kernel.params, backend)
    return binder(*launch.args, debug=False, **launch.options)


def specialization(launch: Launch, arch: int) -> str:
    """What JITFunction.run compiles anew for: types, constants, divisibility."""
    _, specialized, options = bind(launch, make_backend(GPUTarget("cuda", arch, 32)))
    return f"{specialized} {options}"


def compile_launch(launch: Launch, arch: int) -> Compiled:
    """What JITFunction.run does on a GPU of that architecture, up to the start."""
    target = GPUTarget("cuda", arch, 32)
    backend = make_backend(target)
    kernel = launch.kernel
    bound, specialization, options = bind(launch, backend)
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


@contextmanager
def gpu(arch: int) -> Iterator[None]:
    """What the launchers find out about the GPU."""
    with (
        mock.patch.object(target, "architecture", lambda device: arch),
        mock.patch.object(target, "processors", lambda device: PROCESSORS),
    ):
        yield


def launches(name: str, arch: int = 90) -> list[Launch]:
    """Every kernel in every configuration for one dtype, as on a GPU of that architecture."""
    found: list[Launch] = []
    with gpu(arch):
        for label, call in itertools.chain.from_iterable(family.calls(name) for family in FAMILIES):
            with recording(label, found):
                call()
    # The second stages do not depend on what is summed: one of each is enough.
    once = {(each.name, "" if each.name == "sum_kernel" else each.label): each for each in found}
    return list(once.values())


def main() -> None:
    heading = f"registers sm_{'/'.join(map(str, ARCHITECTURES))}"
    print(f"{'dtype':5} {'kernel':26} {'for':28} warps {heading:24} shared stack")
    for name in DTYPES:
        # What is launched depends on the architecture.
        rows: dict[tuple[str, str], dict[int, Compiled]] = {}
        for arch in ARCHITECTURES:
            for launch in launches(name, arch):
                rows.setdefault((launch.name, launch.label), {})[arch] = compile_launch(launch, arch)
        for (kernel, label), built in rows.items():
            registers = "/".join(str(built[arch].registers) if arch in built else "-" for arch in ARCHITECTURES)
            warps = "/".join(sorted({str(each.warps) for each in built.values()}))
            shared, stack = (max(getattr(each, what) for each in built.values()) for what in ("shared", "stack"))
            print(f"{name:5} {kernel:26} {label:28} {warps:>5} {registers:24} {shared:6} {stack:5}")


if __name__ == "__main__":
    main()
