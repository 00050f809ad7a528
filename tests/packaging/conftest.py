"""The checkout, its build modules, and copies of the package to break."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD_BACKEND = ROOT / "build_backend"
JUNK = shutil.ignore_patterns("__pycache__", "*.so", "*.tmp", "_build.json")

NVCC = """#!/bin/sh
case "$*" in
  *--version*) echo "Cuda compilation tools, release 12.4, V12.4.131" ;;
  *--dryrun*) echo "#\\$ TOP={home}" ;;
  *--list-gpu-arch*) printf 'compute_80\\ncompute_86\\ncompute_89\\ncompute_90\\n' ;;
  *) echo "probe.cu(3): error: this compiler compiles nothing"; exit 1 ;;
esac
"""

# The modules that the build imports by name are imported by these tests in the same way.
sys.path.append(str(BUILD_BACKEND))

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def package() -> Path:
    """The folder of the installed package, with its objects."""
    import pyaegpu

    folder = Path(pyaegpu.__file__).parent
    if not (folder / "_C_cpu.abi3.so").is_file():
        pytest.fail(f"{folder} holds no compiled object: run `make install` first")
    return folder


@pytest.fixture(scope="session")
def copy_source() -> Callable[[Path], Path]:
    """Copy what the build reads, so that builds leave the checkout alone."""

    def copy(tree: Path) -> Path:
        for folder in ("build_backend", "csrc", "kernels", "pyaegpu"):
            shutil.copytree(ROOT / folder, tree / folder, ignore=JUNK)
        for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, tree)
        return tree

    return copy


@pytest.fixture
def toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A CUDA toolkit whose nvcc is reached through a wrapper elsewhere on PATH, and compiles nothing."""
    home, wrapper = tmp_path / "cuda", tmp_path / "bin" / "nvcc"
    for path in (home / "include" / "cuda_runtime.h", home / "lib64" / "libcudart_static.a", wrapper):
        path.parent.mkdir(parents=True)
        path.write_text("")
    wrapper.write_text(NVCC.format(home=home))
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}{os.pathsep}{os.environ['PATH']}")
    for name in ("CUDA_HOME", "TORCH_CUDA_ARCH_LIST", "PYAEGPU_CUDA"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture
def run_in_copy() -> Run:
    """Run Python code with the packages of this environment but its own pyaegpu, found in `folder`."""

    def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
        # -S: the .pth file of an editable install would bring the checkout back.
        path = os.pathsep.join([str(folder), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
        environment = os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "default::RuntimeWarning"}
        environment.pop("PYAEGPU_BACKEND", None)
        return subprocess.run(
            [sys.executable, "-S", "-c", code],
            cwd=folder,
            env=environment,
            text=True,
            capture_output=True,
            timeout=300,
        )

    return run
