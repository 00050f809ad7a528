"""The compiled objects ask the loader for torch and nothing of Python or CUDA."""

import json
import re
import shutil
import subprocess

import pytest

CPU, CUDA = "_C_cpu.abi3.so", "_C_cuda.abi3.so"


@pytest.fixture(params=[CPU, CUDA])
def built(request, package):
    path = package / request.param
    if not path.is_file():
        reason = json.loads((package / "_build.json").read_text())["cuda"]["reason"]
        pytest.skip(f"{request.param} was not built: {reason}")
    return path


def readelf(option, path):
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed (binutils)")
    return subprocess.run(["readelf", option, "--wide", path], check=True, text=True, stdout=subprocess.PIPE).stdout


def test_needed_libraries(built):
    dynamic = readelf("--dynamic", built)
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic)
    assert {"libtorch.so", "libtorch_cpu.so"} <= set(needed)
    for unwanted in ("libcudart", "libcuda", "libpython", "libtorch_python", "libtorch_cuda", "libc10"):
        assert not any(name.startswith(unwanted) for name in needed), needed
    # A path of the build machine would find another torch than the imported one.
    assert "(RPATH)" not in dynamic and "(RUNPATH)" not in dynamic


def test_no_symbol_of_python_or_of_the_cuda_runtime_is_left_open(built):
    symbols = readelf("--dyn-syms", built)
    open_or_exported = re.findall(r"\s(_?Py[A-Z_]\w*|_?_?cuda[A-Z]\w*)(?:@\S+)?$", symbols, re.MULTILINE)
    # An exported or open cudaLaunchKernel would bind to the cudart that torch has loaded.
    assert open_or_exported == []


def test_objects_use_the_stable_abi_only(built):
    symbols = readelf("--dyn-syms", built)
    undefined = re.findall(r"\sUND\s+(\S+)", symbols)
    assert [name for name in undefined if re.match(r"_ZN?K?(2at|3c10|5torch)", name)] == []


def test_record_describes_the_objects(package):
    record = json.loads((package / "_build.json").read_text())
    assert set(record) == {"version", "commit", "torch", "compilers", "cuda", "sizes"}
    assert record["sizes"] == {path.name: path.stat().st_size for path in package.glob("_C_*.abi3.so")}
    assert (CUDA in record["sizes"]) == (record["cuda"]["reason"] is None) == bool(record["cuda"]["architectures"])
