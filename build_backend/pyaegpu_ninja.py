"""Writes the ninja file that compiles csrc/; paths in it are relative to the source tree."""

from __future__ import annotations

import shlex
from pathlib import Path

from pyaegpu_toolchain import BuildError, Cuda, architecture_flags

BUILD = Path("build/native")
CPU = "_C_cpu.abi3.so"
CUDA = "_C_cuda.abi3.so"

# The oldest torch whose stable ABI the objects may use; every later torch runs them. 2.11, as 0xMMmm….
STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020b000000000000", "-DTORCH_STABLE_ONLY"]
COMMON = ["-std=c++17", "-O3", "-Icsrc", *STABLE_ABI]
# None of these changes a value: they keep a comparison a blend, and a branch single, so that its loop vectorises.
VECTORISED = ["-fopenmp-simd", "-fno-trapping-math", "-fno-math-errno", "-fno-thread-jumps"]
CXX = ["-fPIC", *VECTORISED, "-fvisibility=hidden", "-Wall", "-Wextra"]
NVCC = ["--expt-relaxed-constexpr", "-Xcompiler=-fPIC,-fvisibility=hidden", "-DUSE_CUDA"]

RULES = """\
ninja_required_version = 1.5
builddir = build/native
rule cxx
  command = $cxx $flags -MD -MF $out.d -c $in -o $out
  depfile = $out.d
  deps = gcc
  description = c++ $in
rule nvcc
  command = $nvcc $flags -MD -MF $out.d -c $in -o $out
  depfile = $out.d
  deps = gcc
  description = nvcc $in
rule link
  command = $cxx -shared -o $out $in $flags
  description = link $out
"""


def torch_includes(torch_root: Path) -> list[str]:
    """Include flags for torch's headers, as system headers: their warnings are not ours."""
    include = torch_root / "include"
    return ["-isystem", str(include), "-isystem", str(include / "torch/csrc/api/include")]


class Plan:
    """What is compiled, from which sources and with which flags."""

    def __init__(self, torch_root: Path, cxx: str, cuda: Cuda | None, jobs: int) -> None:
        self.torch_root, self.cxx, self.cuda, self.jobs = torch_root, cxx, cuda, jobs
        shared = sorted(Path("csrc/common").glob("*.cpp"))
        self.cpu_sources = [*shared, *sorted(Path("csrc/cpu").glob("*.cpp"))]
        self.cuda_kernels = sorted(Path("csrc/cuda").glob("*.cu"))
        self.cuda_sources = [*shared, *sorted(Path("csrc/cuda").glob("*.cpp"))]
        for folder, sources in (("cpu", self.cpu_sources), ("cuda", self.cuda_kernels)):
            if not sources:
                raise BuildError(f"csrc/{folder} holds no source files: the source tree is incomplete")

    def write(self) -> Path:
        """Write the ninja file, where it changed, and return its path."""
        lines = [RULES, f"cxx = {self.cxx}"]
        includes = torch_includes(self.torch_root)
        cpu = [self._cxx(source, "cpu", [*COMMON, *CXX, *includes], lines) for source in self.cpu_sources]
        self._link(BUILD / CPU, cpu, [], lines)
        lines.append(f"build cpu: phony {BUILD / CPU}")
        if self.cuda:
            self._write_cuda(self.cuda, includes, lines)
        path = BUILD / "build.ninja"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "\n".join(lines) + "\n"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
        return path

    def _write_cuda(self, cuda: Cuda, includes: list[str], lines: list[str]) -> None:
        lines.append(f"nvcc = {_quote([cuda.nvcc])}")
        host = [*COMMON, *CXX, "-DUSE_CUDA", *includes, "-isystem", str(cuda.include)]
        objects = [self._cxx(source, "cuda", host, lines) for source in self.cuda_sources]
        threads = max(1, min(len(cuda.architectures), self.jobs // max(1, len(self.cuda_kernels))))
        flags = [*COMMON, *NVCC, *includes, *architecture_flags(cuda.architectures), f"--threads={threads}"]
        for source in self.cuda_kernels:
            objects.append(self._edge("nvcc", source, "cuda", flags, lines))
        # --exclude-libs: torch may have loaded another cudart, and ours must not bind to its symbols.
        runtime = ["-Wl,--exclude-libs,ALL", str(cuda.static_runtime), "-ldl", "-lrt", "-lpthread"]
        self._link(BUILD / CUDA, objects, runtime, lines)
        lines.append(f"build cuda: phony {BUILD / CUDA}")

    def _cxx(self, source: Path, group: str, flags: list[str], lines: list[str]) -> Path:
        return self._edge("cxx", source, group, flags, lines)

    def _edge(self, rule: str, source: Path, group: str, flags: list[str], lines: list[str]) -> Path:
        target = BUILD / group / f"{source.parent.name}_{source.name}.o"
        lines += [f"build {target}: {rule} {source}", f"  flags = {_quote(flags)}"]
        return target

    def _link(self, target: Path, objects: list[Path], libraries: list[str], lines: list[str]) -> None:
        # torch's libraries are NEEDED even where no symbol asks for them at link time, so that the loader
        # finds the symbols of whichever torch is imported; no rpath, since that torch may live elsewhere.
        torch = [
            "-L" + str(self.torch_root / "lib"),
            "-Wl,--no-as-needed",
            "-ltorch",
            "-ltorch_cpu",
            "-Wl,--as-needed",
        ]
        lines += [
            f"build {target}: link {' '.join(map(str, objects))}",
            f"  flags = {_quote([*torch, *libraries])}",
        ]


def _quote(words: list[str]) -> str:
    return shlex.join(words).replace("$", "$$")
