"""What the build finds, and what it says where something is missing."""

import subprocess
import sys
import sysconfig

import pyaegpu_native as native
import pyaegpu_toolchain as toolchain
import pytest


@pytest.fixture
def no_nvcc(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_HOME", raising=False)


def test_toolkit_behind_a_wrapper_is_found(toolkit):
    cuda = toolchain.find_cuda()
    assert cuda.include == toolkit / "include"
    assert cuda.static_runtime == toolkit / "lib64" / "libcudart_static.a"
    assert cuda.version == "12.4.131"
    assert cuda.architectures == ("8.0", "8.6", "8.9+PTX", "9.0a")


def test_toolkit_without_runtime_says_so(toolkit):
    (toolkit / "lib64" / "libcudart_static.a").unlink()
    with pytest.raises(toolchain.CudaUnavailable, match=r"no libcudart_static\.a"):
        toolchain.find_cuda()


def test_no_nvcc_is_a_reason(no_nvcc):
    cuda, reason = native._decide_cuda("")
    assert cuda is None
    assert "no nvcc on PATH" in reason


def test_no_nvcc_under_cuda_home_names_it(no_nvcc, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", "/nowhere")
    assert "CUDA_HOME=/nowhere" in native._decide_cuda("")[1]


def test_forcing_cuda_without_nvcc_says_what_to_do(no_nvcc):
    with pytest.raises(toolchain.BuildError, match="Install a CUDA toolkit and set CUDA_HOME"):
        native._decide_cuda("1")


def test_forbidding_cuda_asks_for_no_nvcc(toolkit):
    assert native._decide_cuda("0")[0] is None


@pytest.mark.parametrize(
    ("requested", "known", "chosen"),
    [
        ("", {"80", "86", "89", "90", "100", "120"}, toolchain.DEFAULT_ARCHITECTURES),
        ("", {"75", "80", "90"}, ("8.0+PTX", "9.0a")),
        ("9.0a", {"80", "90"}, ("9.0a",)),
        ("8.0;9.0+PTX", {"80", "90"}, ("8.0", "9.0+PTX")),
        (" 8.0, 8.6 ", {"80", "86"}, ("8.0", "8.6")),
        ("10.0f", {"100"}, ("10.0f",)),
    ],
)
def test_architectures(requested, known, chosen):
    assert toolchain.choose_architectures(requested, known) == chosen


@pytest.mark.parametrize("requested", ["12.0", "Hopper", "90", "9.0+ptx"])
def test_unknown_architectures_are_refused(requested):
    with pytest.raises(toolchain.CudaUnavailable, match="TORCH_CUDA_ARCH_LIST"):
        toolchain.choose_architectures(requested, {"80", "90"})


def test_architecture_flags():
    assert toolchain.architecture_flags(("9.0a", "12.0+PTX")) == [
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_120,code=sm_120",
        "-gencode=arch=compute_120,code=compute_120",
    ]


def test_isolated_build_finds_the_torch_of_its_target(monkeypatch):
    """pip's build isolation hides site-packages, but the interpreter still knows where they are."""
    hidden = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder not in hidden])
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert (toolchain.find_torch().root / "lib" / "libtorch_cpu.so").is_file()


def test_torch_that_is_missing_or_too_old_is_a_requirement(monkeypatch, tmp_path):
    import pyaegpu_backend

    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(toolchain, "_target_site_packages", lambda: [str(tmp_path)])
    assert "torch>=2.11" in pyaegpu_backend._missing_tools()
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("")
    (tmp_path / "torch" / "version.py").write_text("__version__ = '2.10.1+cpu'\n")
    assert "torch>=2.11" in pyaegpu_backend._missing_tools()
    (tmp_path / "torch" / "version.py").write_text("__version__ = '2.11.0+cu130'\n")
    assert "torch>=2.11" not in pyaegpu_backend._missing_tools()


def test_commit_is_that_of_the_checkout_or_of_the_sdist(tmp_path):
    def git(*arguments):
        identity = ("-c", "user.name=Tester", "-c", "user.email=tester@localhost")
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True)

    assert native.source_commit(tmp_path) == "unknown"
    (tmp_path / "COMMIT").write_text("0123abc\n")
    assert native.source_commit(tmp_path) == "0123abc"
    git("init")
    assert native.source_commit(tmp_path) == "unknown"
    git("add", "COMMIT")
    git("commit", "-m", "first")
    commit = native.source_commit(tmp_path)
    assert len(commit) == 40
    (tmp_path / "COMMIT").write_text("changed")
    assert native.source_commit(tmp_path) == f"{commit}-dirty"
