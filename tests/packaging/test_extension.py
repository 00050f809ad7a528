"""A missing or broken object gives one message with its cause, and the other paths go on."""

import json
import shutil

import pytest

from pyaegpu import _extension
from pyaegpu.info import info

CPU = "_C_cpu.abi3.so"
USE = """
import torch, pyaegpu, pyaegpu.kernels
from pyaegpu import _extension, backends
recon, mu = torch.rand(4, 6, requires_grad=True), torch.randn(4, 3)
pyaegpu.vae_loss(recon, torch.rand(4, 6), mu, mu).backward()
print("gradient", bool(recon.grad.isfinite().all()))
print("package", pyaegpu.__file__)
print("cpu reason:", backends.status()["cpu"])
"""


@pytest.fixture
def copied(package, root, tmp_path):
    """An installed package, copied; the kernels are inside it, as in a wheel."""
    folder = tmp_path / "site"
    shutil.copytree(package, folder / "pyaegpu", ignore=shutil.ignore_patterns("__pycache__", "kernels"))
    shutil.copytree(root / "kernels", folder / "pyaegpu" / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def warnings_of(result):
    return [line for line in result.stderr.splitlines() if "RuntimeWarning: pyaegpu runs without" in line]


def check_reference_serves(result, folder, *cause):
    assert result.returncode == 0, result.stderr
    assert "gradient True" in result.stdout
    assert f"package {folder}" in result.stdout
    assert len(warnings_of(result)) == 1, result.stderr
    for words in cause:
        assert words in warnings_of(result)[0]
        assert words in result.stdout


def test_whole_copy_loads_without_a_word(copied, run_in_copy):
    result = run_in_copy(copied, USE)
    assert result.returncode == 0, result.stderr
    assert warnings_of(result) == []
    assert "cpu reason: None" in result.stdout


def test_foreign_file(copied, run_in_copy):
    path = copied / "pyaegpu" / CPU
    path.write_bytes(b"\0" * path.stat().st_size)
    check_reference_serves(run_in_copy(copied, USE), copied, "invalid ELF header", "pip install")


def test_truncated_file(copied, run_in_copy):
    path = copied / "pyaegpu" / CPU
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    check_reference_serves(run_in_copy(copied, USE), copied, "damaged", "pip install")


def test_missing_library(copied, run_in_copy):
    path = copied / "pyaegpu" / CPU
    path.write_bytes(path.read_bytes().replace(b"libtorch.so\0", b"libt0rch.so\0"))
    check_reference_serves(run_in_copy(copied, USE), copied, "libt0rch.so")


def test_unbuilt_checkout(root, tmp_path, run_in_copy):
    checkout = tmp_path / "checkout"
    junk = shutil.ignore_patterns("__pycache__", "*.so", "_build.json")
    shutil.copytree(root / "pyaegpu", checkout / "pyaegpu", ignore=junk)
    shutil.copytree(root / "kernels", checkout / "kernels", ignore=junk)
    shutil.copy(root / "setup.py", checkout)
    code = USE + "print(pyaegpu.kernels.__file__)"
    result = run_in_copy(checkout, code)
    check_reference_serves(result, checkout, "not built", "pip install -e .")
    assert str(checkout / "kernels") in result.stdout


def test_missing_kernels_are_a_reason_not_a_crash(copied, run_in_copy):
    shutil.rmtree(copied / "pyaegpu" / "kernels")
    code = "import pyaegpu; from pyaegpu import backends; print(backends.status()['triton'])"
    result = run_in_copy(copied, code)
    assert result.returncode == 0, result.stderr
    assert "pyaegpu.kernels" in result.stdout


def test_info_is_json_and_names_a_reason_for_each_missing_backend():
    facts = json.loads(json.dumps(info()))
    assert set(facts["backends"]) == {"cuda", "triton", "cpu", "reference"}
    assert facts["backends"]["cpu"] == {"available": True, "reason": None}
    for state in facts["backends"].values():
        assert state["available"] == (state["reason"] is None)


@pytest.mark.parametrize(
    ("architecture", "capability", "runs"),
    [
        ("8.0", (8, 0), True),
        ("8.0", (8, 9), True),
        ("8.6", (8, 0), False),
        ("8.9", (9, 0), False),
        ("9.0a", (9, 0), True),
        ("9.0a", (10, 0), False),
        ("10.0f", (10, 3), True),
        ("10.0f", (12, 0), False),
        ("12.0+PTX", (12, 1), True),
        ("8.9+PTX", (12, 0), True),
        ("12.0+PTX", (10, 0), False),
    ],
)
def test_which_cards_an_architecture_serves(architecture, capability, runs):
    assert _extension.covers(architecture, capability) is runs


@pytest.fixture
def pretend_gpu(monkeypatch, tmp_path):
    """A CUDA torch with a GPU of compute capability 8.6, and an object whose build the test describes."""
    (tmp_path / "_C_cuda.abi3.so").write_bytes(b"not an object")
    monkeypatch.setattr(_extension, "PACKAGE", tmp_path)
    monkeypatch.setattr(_extension.torch.version, "cuda", "13.0")
    monkeypatch.setattr(_extension.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(_extension.torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(_extension.torch.cuda, "get_device_capability", lambda index: (8, 6))
    monkeypatch.setattr(_extension, "driver_cuda_version", lambda: (12, 4))

    def load(**cuda):
        monkeypatch.setattr(_extension, "build_record", lambda: {"cuda": cuda})
        return _extension.load_cuda.__wrapped__()

    return load


def test_old_driver_is_named(pretend_gpu):
    with pytest.warns(RuntimeWarning, match=r"driver supports CUDA 12\.4.*built with 13\.0"):
        assert not pretend_gpu(version="13.0.88", architectures=["8.0"]).loaded


def test_minor_version_of_the_driver_may_be_older(pretend_gpu):
    with pytest.warns(RuntimeWarning, match="does not load"):
        pretend_gpu(version="12.9.1", architectures=["8.0"])


def test_uncovered_card_is_named(pretend_gpu):
    with pytest.warns(RuntimeWarning, match=r"built for compute capability 9\.0a, but GPU 0 has 8\.6"):
        pretend_gpu(version="12.4.0", architectures=["9.0a"])


def test_absent_object_gives_the_reason_of_the_build_without_a_warning(pretend_gpu, tmp_path, recwarn):
    (tmp_path / "_C_cuda.abi3.so").unlink()
    assert pretend_gpu(reason="no nvcc on PATH").reason == "not built (at build time: no nvcc on PATH)"
    assert not recwarn.list
