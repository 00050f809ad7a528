"""PEP 517 backend: setuptools, with torch as a build requirement only where the target has none.

A `torch` in `build-system.requires` would make every isolated `pip install .` download a second torch of
several GB. pip runs this hook with the target's interpreter, so its torch can be found and used instead.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyaegpu_toolchain import MINIMUM_TORCH, BuildError, find_ninja, find_torch
from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

Settings = Mapping[str, Any] | None


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """setuptools' own requirements and what this interpreter lacks."""
    return build_meta.get_requires_for_build_wheel(config_settings) + _missing_tools()


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    """setuptools' own requirements and what this interpreter lacks."""
    return build_meta.get_requires_for_build_editable(config_settings) + _missing_tools()


def build_wheel(wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None) -> str:
    """Build a wheel from a clean `build/lib*`: setuptools would ship files deleted since the last build."""
    for stale in Path("build").glob("lib*"):
        shutil.rmtree(stale)
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def _missing_tools() -> list[str]:
    missing = []
    try:
        find_torch()
    except BuildError:
        missing.append(f"torch>={MINIMUM_TORCH}")
    try:
        find_ninja()
    except BuildError:
        missing.append("ninja")
    return missing
