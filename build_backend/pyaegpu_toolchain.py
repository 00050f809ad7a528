"""Finds what the build needs: torch's files (without importing torch), ninja, a C++ compiler, CUDA."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

MINIMUM_TORCH = "2.11"
DEFAULT_ARCHITECTURES = ("8.0", "8.6", "8.9", "9.0a", "10.0", "12.0+PTX")


class BuildError(Exception):
    """The build cannot go on; the text says what to do."""


class CudaUnavailable(Exception):
    """No CUDA code can be built; the text is the reason."""


@dataclass(frozen=True)
class Torch:
    """The torch that the objects are compiled against."""

    root: Path
    version: str


@dataclass(frozen=True)
class Cuda:
    """A CUDA compiler and the architectures to compile for."""

    nvcc: str
    include: Path
    static_runtime: Path
    version: str
    architectures: tuple[str, ...]


def run(*command: str) -> str:
    """Standard output and error of a command; raises OSError or CalledProcessError."""
    result = subprocess.run(
        command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace"
    )
    return result.stdout


def find_torch() -> Torch:
    """The torch of this interpreter, or of the interpreter an isolated build is made for."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        spec = importlib.machinery.PathFinder.find_spec("torch", _target_site_packages())
    if spec is None or spec.origin is None:
        raise BuildError(
            f"torch was not found for {sys.executable}: install torch>={MINIMUM_TORCH} first, "
            "or build without --no-build-isolation"
        )
    root = Path(spec.origin).parent
    match = re.search(r"__version__\s*=\s*['\"]([^'\"]+)", (root / "version.py").read_text(encoding="utf-8"))
    version = match[1] if match else "0"
    if _numbers(version) < _numbers(MINIMUM_TORCH):
        raise BuildError(f"torch {version} in {root.parent} is too old: pyaegpu needs torch>={MINIMUM_TORCH}")
    return Torch(root, version)


def _target_site_packages() -> list[str]:
    """Where the target interpreter keeps packages: pip's isolated build hides them from sys.path."""
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    settings = Path(sys.prefix, "pyvenv.cfg")
    in_venv = sys.prefix != sys.base_prefix
    sees_base = settings.is_file() and re.search(
        r"include-system-site-packages\s*=\s*true", settings.read_text(encoding="utf-8"), re.IGNORECASE
    )
    if sees_base:
        folders += site.getsitepackages([sys.base_prefix])
    if sees_base or not in_venv:
        folders.append(site.getusersitepackages())
    return folders


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def find_ninja() -> str:
    """A ninja that runs: the `ninja` package of this interpreter, or one on PATH."""
    candidates = [shutil.which("ninja")]
    if importlib.util.find_spec("ninja"):
        import ninja

        candidates.insert(0, os.path.join(ninja.BIN_DIR, "ninja"))
    for candidate in filter(None, candidates):
        try:
            # A script of another environment can be on PATH and yet fail inside an isolated build.
            run(candidate, "--version")
        except (OSError, subprocess.CalledProcessError):
            continue
        return candidate
    raise BuildError("ninja was not found: run `pip install ninja`, or install it with the system's packages")


def find_cxx() -> tuple[str, str]:
    """Command and version line of the C++ compiler: $CXX, else g++, else c++."""
    for candidate in filter(None, (os.environ.get("CXX"), "g++", "c++")):
        try:
            return candidate, run(*candidate.split(), "--version").splitlines()[0]
        except (OSError, subprocess.CalledProcessError, IndexError):
            continue
    raise BuildError("no C++ compiler was found: install g++ (11 or newer), or set CXX")


def find_cuda() -> Cuda:
    """The CUDA compiler named by CUDA_HOME or PATH, whatever GPU this machine has or lacks."""
    nvcc = _find_nvcc()
    try:
        version = run(nvcc, "--version")
        # nvcc on PATH may be a wrapper script or link: only nvcc itself knows where its toolkit lies.
        dry_run = run(nvcc, "--dryrun", "probe.cu")
        known = set(re.findall(r"compute_(\d+)", run(nvcc, "--list-gpu-arch")))
    except (OSError, subprocess.CalledProcessError) as error:
        raise CudaUnavailable(f"{nvcc} does not run: {getattr(error, 'stdout', None) or error}") from error
    release = re.search(r"V(\d+\.\d+\.\d+)", version)
    top = re.search(r"^#\$ TOP=(.*)$", dry_run, re.MULTILINE)
    home = Path(top[1] if top else Path(nvcc).parent.parent).resolve()
    return Cuda(
        nvcc=nvcc,
        include=_find_in_toolkit(home, "cuda_runtime.h", ("include", "targets/*/include")).parent,
        static_runtime=_find_in_toolkit(home, "libcudart_static.a", ("lib64", "lib", "targets/*/lib")),
        version=release[1] if release else "unknown",
        architectures=choose_architectures(os.environ.get("TORCH_CUDA_ARCH_LIST", ""), known),
    )


def _find_nvcc() -> str:
    home = os.environ.get("CUDA_HOME")
    at_home = shutil.which("nvcc", path=os.path.join(home, "bin")) if home else None
    nvcc = at_home or shutil.which("nvcc")
    if nvcc is None:
        where = f"under CUDA_HOME={home} or on PATH" if home else "on PATH and CUDA_HOME is not set"
        raise CudaUnavailable(f"no nvcc {where}")
    return nvcc


def _find_in_toolkit(home: Path, name: str, folders: tuple[str, ...]) -> Path:
    for folder in folders:
        for found in sorted(home.glob(f"{folder}/{name}")):
            return found
    raise CudaUnavailable(f"the CUDA toolkit in {home} has no {name}: install its runtime development files")


def choose_architectures(requested: str, known: set[str]) -> tuple[str, ...]:
    """The architectures asked for, or the default ones that this nvcc knows ("90" for 9.0 or 9.0a).

    Raises CudaUnavailable where `requested` names one that is malformed or that this nvcc lacks.
    """
    names = tuple(re.split(r"[;,\s]+", requested.strip())) if requested.strip() else ()
    for name in names:
        if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", name):
            raise CudaUnavailable(f"TORCH_CUDA_ARCH_LIST: {name!r} is not of the form 9.0, 9.0a or 9.0+PTX")
        if _digits(name) not in known:
            raise CudaUnavailable(f"TORCH_CUDA_ARCH_LIST: this nvcc cannot compile for {name}")
    if names:
        return names
    chosen = [name for name in DEFAULT_ARCHITECTURES if _digits(name) in known]
    if chosen and not any("+PTX" in name for name in chosen):
        # PTX lets newer cards run; that of an architecture with a suffix (9.0a) does not carry over.
        plain = max(index for index, name in enumerate(chosen) if name[-1].isdigit())
        chosen[plain] += "+PTX"
    if not chosen:
        raise CudaUnavailable("this nvcc knows none of the architectures " + " ".join(DEFAULT_ARCHITECTURES))
    return tuple(chosen)


def _digits(architecture: str) -> str:
    return re.sub(r"\D", "", architecture.split("+")[0])


def architecture_flags(architectures: tuple[str, ...]) -> list[str]:
    """nvcc's -gencode flags."""
    flags = []
    for architecture in architectures:
        name, _, ptx = architecture.partition("+")
        number = name.replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if ptx:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags
