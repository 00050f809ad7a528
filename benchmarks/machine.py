"""What every row carries: the card or CPU, the versions, the commit, the date."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("csrc", "kernels", "pyaegpu", "benchmarks", "setup.py", "pyproject.toml", ":!benchmarks/results")
Fact = str | int | bool | None


def facts(device: str) -> dict[str, Fact]:
    """Card or CPU, threads, versions, commit and UTC date."""
    return {
        "device": device,
        "card": torch.cuda.get_device_name() if device == "cuda" else cpu_model(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "triton": _version("triton"),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if device == "cuda" else None,
        "pyaegpu": _version("pyaegpu"),
        **commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def commit() -> dict[str, Fact]:
    """The commit and whether sources differ from it; PYAEGPU_COMMIT names it where there is no repository."""
    given = os.environ.get("PYAEGPU_COMMIT")
    if given:
        return {"commit": given, "dirty": given.endswith("-dirty")}
    head = _git("rev-parse", "HEAD")
    if head is None:
        return {"commit": "unknown", "dirty": None}
    return {"commit": head, "dirty": bool(_git("status", "--porcelain", "--", *SOURCES))}


def keep_pages() -> bool:
    """Makes glibc keep freed memory, for both sides alike; False where it cannot be asked.

    Whether freed tensors go back to the system, to be paged in again by the next call, otherwise hangs on
    the process's history: it changed eager's time of one and the same loss fourfold.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    trim_threshold, mmap_threshold, most = -1, -3, 1 << 30
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(trim_threshold, most) and mallopt(mmap_threshold, most))


def cpu_model() -> str:
    """The processor's name, or its architecture where the system does not tell."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else os.uname().machine


def cache_bytes(device: str) -> int:
    """Size of the last-level cache; 64 MiB where the system does not tell."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).L2_cache_size)
    folder = Path("/sys/devices/system/cpu/cpu0/cache")
    sizes = [_size(path.read_text()) for path in folder.glob("index*/size")]
    return max(sizes, default=64 << 20)


def _size(text: str) -> int:
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    text = text.strip()
    return int(text[:-1]) * units[text[-1]] if text[-1:] in units else int(text)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
