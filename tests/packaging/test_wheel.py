"""sdist, wheel, installation: what users get, made from a copy of the source."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pyaegpu_toolchain as toolchain
import pytest

pytestmark = pytest.mark.packaging

USE = """
import json, torch, pyaegpu, pyaegpu.kernels
from pyaegpu import backends
recon, mu = torch.rand(4, 6, requires_grad=True), torch.randn(4, 3)
pyaegpu.vae_loss(recon, torch.rand(4, 6), mu, mu).backward()
assert backends.status()["cpu"] is None and recon.grad.isfinite().all()
print(pyaegpu.__file__, pyaegpu.kernels.__file__)
"""


def run(*command, cwd, **variables):
    """Run a command away from the checkout; shows its output where it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    result = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=1500,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}"
    return result.stdout


def pip_wheel(source, out, **variables):
    """Build a wheel with this environment's setuptools: no network."""
    pip = [sys.executable, "-m", "pip", "-v", "wheel", "--no-deps", "--no-build-isolation", "-w", out, source]
    return run(*pip, cwd=out.parent, **variables), next(out.glob("*.whl"))


def make_venv(folder):
    """An environment that sees this one's packages, but not the editable install among them."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    # The .pth files inside a folder that a .pth file names are not read.
    Path(purelib, "packages.pth").write_text("\n".join(sorted(here)) + "\n")
    return python


def install(python, *what, **variables):
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-build-isolation"]
    # The host's pyaegpu is seen from the new environment and must stay.
    run(*pip, "--ignore-installed", *what, cwd=python.parent, **variables)


def cuda_available():
    try:
        return bool(toolchain.find_cuda())
    except toolchain.CudaUnavailable:
        return False


@pytest.fixture(scope="module")
def sdist(copy_source, tmp_path_factory):
    work = tmp_path_factory.mktemp("sdist")
    source = copy_source(work / "source")
    code = "import pyaegpu_backend; print(pyaegpu_backend.build_sdist('..'))"
    run(sys.executable, "-c", code, cwd=source, PYTHONPATH="build_backend")
    return next(work.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """The wheel that the sdist gives; one CUDA architecture, to keep the build short."""
    out = tmp_path_factory.mktemp("wheel") / "out"
    return pip_wheel(sdist, out, TORCH_CUDA_ARCH_LIST="9.0a")[1]


def test_sdist_holds_the_sources_and_nothing_built(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for needed in ("build_backend/pyaegpu_backend.py", "setup.py", "COMMIT", "kernels/vae_loss.py"):
        assert needed in names
    assert any(name.startswith("csrc/cpu/") for name in names)
    assert any(name.startswith("csrc/common/") and name.endswith(".h") for name in names)
    assert not [name for name in names if name.endswith((".so", ".pyc", "_build.json"))]


def test_wheel_contents(wheel, root):
    assert wheel.name.split("-")[2:4] == ["cp310", "abi3"]
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.split("/")[0] for name in names}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"pyaegpu"}
    expected = {path.relative_to(root).as_posix() for path in (root / "pyaegpu").rglob("*.py")}
    expected |= {f"pyaegpu/kernels/{path.name}" for path in (root / "kernels").glob("*.py")}
    expected |= {"pyaegpu/py.typed", "pyaegpu/_build.json", "pyaegpu/_C_cpu.abi3.so"}
    if cuda_available():
        expected.add("pyaegpu/_C_cuda.abi3.so")
    assert expected <= names


def test_wheel_of_the_sdist_works_when_installed(wheel, tmp_path):
    python = make_venv(tmp_path / "venv")
    install(python, wheel)
    where = run(python, "-W", "error::RuntimeWarning", "-c", USE, cwd=tmp_path)
    assert where.count(str(tmp_path / "venv")) == 2
    assert "pyaegpu" in run(tmp_path / "venv" / "bin" / "pyaegpu", "--help", cwd=tmp_path)


def test_editable_install_works(copy_source, tmp_path):
    source_tree = copy_source(tmp_path / "source")
    python = make_venv(tmp_path / "venv")
    install(python, "-e", source_tree, PYAEGPU_CUDA="0")
    where = run(python, "-W", "error::RuntimeWarning", "-c", USE, cwd=tmp_path)
    assert where.split() == [
        str(source_tree / "pyaegpu/__init__.py"),
        str(source_tree / "kernels/__init__.py"),
    ]


def test_failing_cuda_build_is_recorded_and_the_cpu_code_installed(copy_source, toolkit, tmp_path):
    log, wheel = pip_wheel(copy_source(tmp_path / "source"), tmp_path / "out")
    assert "going on without CUDA code" in log
    with zipfile.ZipFile(wheel) as archive:
        assert "pyaegpu/_C_cpu.abi3.so" in archive.namelist()
        assert "pyaegpu/_C_cuda.abi3.so" not in archive.namelist()
        assert b"this compiler compiles nothing" in archive.read("pyaegpu/_build.json")
