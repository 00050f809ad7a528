"""The `build_ext` command: compiles csrc/ through ninja into the two shared objects and records how."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyaegpu_ninja import BUILD, CPU, CUDA, Plan
from pyaegpu_toolchain import (
    BuildError,
    Cuda,
    CudaUnavailable,
    find_cuda,
    find_cxx,
    find_ninja,
    find_torch,
    run,
)
from setuptools.command.build_ext import build_ext

RECORD = "_build.json"


def source_commit(root: Path) -> str:
    """The commit of the checkout (`-dirty` where files differ from it), or the one an sdist was made from."""
    if not (root / ".git").exists():
        note = root / "COMMIT"
        return note.read_text(encoding="utf-8").strip() if note.is_file() else "unknown"
    try:
        commit = run("git", "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.strip()


class NinjaBuild(build_ext):
    """Builds `_C_cpu.abi3.so`, and where an nvcc is found `_C_cuda.abi3.so`, beside the Python files."""

    def run(self) -> None:
        try:
            self._build()
        except BuildError as error:
            sys.exit(f"pyaegpu: {error}")

    def get_outputs(self) -> list[str]:
        """The files of this build, for the commands that install them."""
        folder = self._package_folder()
        return [str(folder / name) for name in (CPU, CUDA, RECORD) if (folder / name).exists()]

    def get_output_mapping(self) -> dict[str, str]:
        """Nothing is linked from elsewhere: an in-place build writes its files where they are used."""
        return {}

    def _package_folder(self) -> Path:
        in_place = self.inplace or self.editable_mode
        return Path("pyaegpu") if in_place else Path(self.build_lib) / "pyaegpu"

    def _build(self) -> None:
        wish = os.environ.get("PYAEGPU_CUDA", "")
        if wish not in ("", "0", "1"):
            raise BuildError(f"PYAEGPU_CUDA must be 0 or 1; got {wish!r}")
        torch = find_torch()
        cxx, cxx_version = find_cxx()
        cuda, reason = _decide_cuda(wish)
        jobs = int(os.environ.get("MAX_JOBS") or len(os.sched_getaffinity(0)))
        plan = Plan(torch.root, cxx, cuda, jobs)
        _say(f"torch {torch.version}, {cxx_version}, {jobs} jobs")
        _say(f"CPU code: {len(plan.cpu_sources)} files")
        _say(
            f"CUDA code: nvcc {cuda.version} for {' '.join(cuda.architectures)}" if cuda else f"no CUDA code: {reason}"
        )
        with _locked(BUILD):
            failure = _compile(plan, jobs)
            if failure and wish == "1":
                raise BuildError(f"PYAEGPU_CUDA=1, but the CUDA code does not compile: {failure}")
            if failure:
                cuda, reason = None, f"the build failed: {failure}"
                _say(f"going on without CUDA code: {reason}")
            folder = self._package_folder()
            folder.mkdir(parents=True, exist_ok=True)
            sizes = _install(folder, [CPU, CUDA] if cuda else [CPU])
        record = {
            "version": self.distribution.get_version(),
            "commit": source_commit(Path.cwd()),
            "torch": torch.version,
            "compilers": {"cxx": cxx_version, "nvcc": cuda.version if cuda else None},
            "cuda": {
                "version": cuda.version if cuda else None,
                "architectures": list(cuda.architectures) if cuda else [],
                "reason": reason,
            },
            "sizes": sizes,
        }
        _write(folder / RECORD, record)


def _decide_cuda(wish: str) -> tuple[Cuda | None, str | None]:
    if wish == "0":
        return None, "PYAEGPU_CUDA=0 was set"
    try:
        return find_cuda(), None
    except CudaUnavailable as error:
        if wish == "1":
            raise BuildError(
                f"PYAEGPU_CUDA=1, but {error}. Install a CUDA toolkit and set CUDA_HOME to its folder, or "
                "put nvcc on PATH, or unset PYAEGPU_CUDA to build without CUDA code"
            ) from error
        return None, str(error)


def _compile(plan: Plan, jobs: int) -> str | None:
    """Bring both objects up to date; the reason if the CUDA one failed, BuildError if the CPU one did."""
    ninja = [find_ninja(), "-f", str(plan.write())]
    targets = ["cpu", "cuda"] if plan.cuda else ["cpu"]
    lines = []
    command = [*ninja, "-j", str(jobs), "-k", "0", *targets]
    with subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace"
    ) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line.strip())
    if process.returncode == 0:
        return None
    cause = next((line for line in lines if "error" in line.lower() or "fatal" in line.lower()), lines[-1])
    if "no work to do" in run(*ninja, "-n", "cpu"):
        return cause
    raise BuildError(f"the C++ code does not compile: {cause}")


def _install(folder: Path, names: list[str]) -> dict[str, int]:
    """Put the objects in place, each at once (a running process keeps the old one), and remove stale ones."""
    for stale in {CPU, CUDA} - set(names):
        (folder / stale).unlink(missing_ok=True)
    for name in names:
        temporary = folder / f"{name}.tmp"
        shutil.copy2(BUILD / name, temporary)
        temporary.replace(folder / name)
    return {name: (folder / name).stat().st_size for name in names}


def _write(path: Path, record: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


@contextmanager
def _locked(folder: Path):
    """One build at a time in a source tree: ninja itself does not guard its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _say(text: str) -> None:
    print(f"pyaegpu: {text}", flush=True)
