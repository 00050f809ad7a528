"""Loads the compiled objects, once each, and says why where one cannot be loaded."""

from __future__ import annotations

import ctypes
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import json
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

PACKAGE = Path(__file__).parent
MINIMUM_TORCH = (2, 11)


@dataclass(frozen=True)
class Extension:
    """Whether a compiled object is loaded, where it lies, and the root cause where it is not loaded."""

    loaded: bool
    path: Path
    reason: str | None


@functools.cache
def build_record() -> dict[str, Any]:
    """What the build wrote down: version, commit, torch, compilers, CUDA architectures; {} where unbuilt."""
    try:
        record: dict[str, Any] = json.loads((PACKAGE / "_build.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record


@functools.cache
def load_cpu() -> Extension:
    """Load the C++ CPU kernels; one warning where that fails, since every CPU call is then slower."""
    path = PACKAGE / "_C_cpu.abi3.so"
    reason = _why_unloadable(path) or _load(path)
    if reason is not None:
        _warn("C++", reason)
    return Extension(reason is None, path, reason)


@functools.cache
def load_cuda() -> Extension:
    """Load the C++/CUDA kernels. Asks torch for its GPUs, so it is called with the first CUDA tensor."""
    path = PACKAGE / "_C_cuda.abi3.so"
    no_gpu = _why_no_gpu()
    reason = no_gpu or _why_unloadable(path) or _why_unfit() or _load(path)
    # Kernels that were not built are no surprise (there was no nvcc); built ones that cannot run are.
    if reason is not None and no_gpu is None and path.is_file():
        _warn("CUDA", reason)
    return Extension(reason is None, path, reason)


def driver_cuda_version() -> tuple[int, int] | None:
    """The newest CUDA version that the NVIDIA driver supports, or None without a driver."""
    version = ctypes.c_int()
    try:
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version)) != 0:
            return None
    except OSError:
        return None
    return version.value // 1000, version.value % 1000 // 10


def _warn(kernels: str, reason: str) -> None:
    warnings.warn(
        f"pyaegpu runs without its {kernels} kernels: {reason}. "
        "Plain PyTorch serves instead, and Triton where it is selected.",
        RuntimeWarning,
        stacklevel=3,
    )


def _load(path: Path) -> str | None:
    try:
        torch.ops.load_library(path)
    except (OSError, RuntimeError) as error:
        # torch wraps the loader's own words, which name the cause.
        return f"{path} does not load ({error.__cause__ or error}); {_how_to_build()}"
    return None


def _why_unloadable(path: Path) -> str | None:
    """Reasons seen without opening the file: the loader itself is killed by one that was cut short."""
    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < MINIMUM_TORCH:
        return f"torch {torch.__version__} is older than {'.'.join(map(str, MINIMUM_TORCH))}"
    if not path.is_file():
        cause = build_record().get("cuda", {}).get("reason") if "cuda" in path.name else None
        return f"not built (at build time: {cause})" if cause else f"not built ({path} is missing); {_how_to_build()}"
    size = build_record().get("sizes", {}).get(path.name, path.stat().st_size)
    if size != path.stat().st_size:
        found = path.stat().st_size
        return f"{path} is damaged ({found} bytes where the build wrote {size}); {_how_to_build()}"
    return None


def _how_to_build() -> str:
    if (PACKAGE.parent / "setup.py").is_file():
        return f"build it with `pip install -e .` in {PACKAGE.parent}"
    return "install pyaegpu again with `pip install --force-reinstall --no-deps`"


def _why_no_gpu() -> str | None:
    if torch.version.cuda is None:
        return f"this torch ({torch.__version__}) is built without CUDA"
    if not torch.cuda.is_available():
        return "torch finds no usable CUDA device"
    return None


def _why_unfit() -> str | None:
    """Why the driver or a card cannot run the built object; its CUDA runtime is linked in statically."""
    cuda = build_record().get("cuda", {})
    built, driver = cuda.get("version"), driver_cuda_version()
    # Within one major version newer runtimes work with older drivers (CUDA's minor version compatibility).
    if built and driver and driver[0] < int(built.split(".")[0]):
        return (
            f"the NVIDIA driver supports CUDA {driver[0]}.{driver[1]}, the kernels were built with {built}; "
            "update the driver, or build with an older CUDA toolkit"
        )
    architectures = cuda.get("architectures", [])
    for index in range(torch.cuda.device_count()):
        capability = torch.cuda.get_device_capability(index)
        if architectures and not any(covers(name, capability) for name in architectures):
            card = ".".join(map(str, capability))
            return (
                f"built for compute capability {', '.join(architectures)}, but GPU {index} has {card}; "
                f"build with TORCH_CUDA_ARCH_LIST={card}"
            )
    return None


def covers(architecture: str, capability: tuple[int, int]) -> bool:
    """Whether code built for ``architecture`` (9.0, 9.0a, 10.0f, 12.0+PTX) runs on a card."""
    number, _, ptx = architecture.partition("+")
    major, minor = (int(part) for part in re.findall(r"\d+", number))
    if number.endswith("a"):
        return capability == (major, minor)
    if ptx and not number.endswith("f") and capability >= (major, minor):
        return True
    return capability[0] == major and capability[1] >= minor


def _map_kernels() -> None:
    """Let an unbuilt checkout import ``pyaegpu.kernels``, which stands beside the package there."""
    if importlib.util.find_spec("pyaegpu.kernels") is not None:
        return
    folder = PACKAGE.parent / "kernels"
    if not (PACKAGE.parent / "setup.py").is_file() or not folder.is_dir():
        return
    sys.meta_path.append(_CheckoutKernels(folder))


class _CheckoutKernels(importlib.abc.MetaPathFinder):
    """Import finder for the one package ``pyaegpu.kernels``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of ``pyaegpu.kernels``; its modules are then found through its own path."""
        if name != "pyaegpu.kernels":
            return None
        return importlib.util.spec_from_file_location(
            name, self._folder / "__init__.py", submodule_search_locations=[str(self._folder)]
        )


_map_kernels()
