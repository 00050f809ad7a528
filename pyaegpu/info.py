"""What was built, what this machine has, and which backends can run."""

from __future__ import annotations

import ctypes
import importlib
import platform
from typing import Any

import torch

from pyaegpu import _extension, backends
from pyaegpu._version import __version__


def info() -> dict[str, Any]:
    """Facts about the build and this machine, as JSON-serialisable values.

    Keys: ``version``, ``commit``, ``python``, ``platform``, ``torch``, ``torch_cuda``, ``triton``,
    ``driver``, ``driver_cuda``, ``devices`` (name, compute capability and memory of each GPU), ``build``
    (torch, compilers, CUDA version and architectures, why there is no CUDA code), ``extensions`` (the
    compiled objects) and ``backends`` (``available`` and, if not, the ``reason``). What is missing is None.
    """
    record = _extension.build_record()
    driver_cuda = _extension.driver_cuda_version()
    return {
        "version": __version__,
        "commit": record.get("commit"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "triton": _triton_version(),
        "driver": _driver_version(),
        "driver_cuda": ".".join(map(str, driver_cuda)) if driver_cuda else None,
        "devices": _devices(),
        "build": {name: record.get(name) for name in ("torch", "compilers", "cuda")} if record else None,
        "extensions": {
            name: {"loaded": extension.loaded, "path": str(extension.path), "reason": extension.reason}
            for name, extension in (("cpu", _extension.load_cpu()), ("cuda", _extension.load_cuda()))
        },
        "backends": {
            name: {"available": reason is None, "reason": reason} for name, reason in backends.status().items()
        },
    }


def _triton_version() -> str | None:
    try:
        return str(importlib.import_module("triton").__version__)
    except ImportError:
        return None


def _driver_version() -> str | None:
    """The NVIDIA driver's version, asked of NVML, which starts no CUDA context."""
    text = ctypes.create_string_buffer(96)
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        if nvml.nvmlInit_v2() != 0 or nvml.nvmlSystemGetDriverVersion(text, len(text)) != 0:
            return None
    except OSError:
        return None
    return text.value.decode()


def _devices() -> list[dict[str, Any]]:
    if not torch.cuda.is_available():
        return []
    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [
        {"name": device.name, "capability": f"{device.major}.{device.minor}", "memory": device.total_memory}
        for device in devices
    ]
