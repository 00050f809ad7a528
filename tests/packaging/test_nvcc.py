"""nvcc's own account of csrc/cuda: no spills, no stack, 16-byte accesses."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pyaegpu_ninja as plan
import pyaegpu_toolchain as toolchain
import pytest

pytestmark = pytest.mark.nvcc

ROOT = Path(__file__).parents[2]
KERNELS = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
ARCHITECTURES = ("80", "90a")
# These touch the latents or one number per block: little memory, in widths that follow the latent dimension; or they
# are the form of a kernel for what does not lie on 16 bytes.
NARROW = (
    *("finalise_kernel", "kl_columns_kernel", "kl_forward_kernel", "kl_backward_kernel"),
    *("channel_sum_kernel", "weight_sum_kernel"),
    *("gradient_columns_kernelILi1E", "gradient_runs_kernelILi1E"),
    *("pool_kernelILi1E", "pool_rows_kernelILi8E", "cells_kernelILi1E", "gather_kernelILi1E"),
    *("unpool_rows_kernelILi8E", "unpool_rows_backward_kernelILi8E", "place_kernel", "scatter_"),
)
# The pooled side of these is a quarter of their memory: it goes in half vectors, or in single elements that neighbours
# share.
ONE_SIDE = {"unpool_rows_kernel": "LDG", "strips_kernel": "LDG", "unpool_rows_backward_kernel": "STG"}
FUNCTION = re.compile(
    r"Function properties for (\S+)\s+"
    r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
)


@pytest.fixture(scope="module")
def cuda():
    try:
        return toolchain.find_cuda()
    except toolchain.CudaUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(
    scope="module",
    params=[(path, architecture) for path in KERNELS for architecture in ARCHITECTURES],
    ids=lambda parameter: f"{parameter[0].stem}-sm_{parameter[1]}",
)
def compiled(request, cuda, tmp_path_factory):
    """The cubin of one file for one architecture, and what ptxas said."""
    path, architecture = request.param
    cubin = tmp_path_factory.mktemp("cubin") / f"{path.stem}.cubin"
    flags = [*plan.COMMON, *plan.NVCC, *plan.torch_includes(toolchain.find_torch().root)]
    command = [cuda.nvcc, *flags, f"-arch=sm_{architecture}", "-Xptxas=-v", "-cubin", path, "-o", cubin]
    result = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    return cubin, result.stderr


def find_cuobjdump(cuda):
    beside_nvcc = shutil.which("cuobjdump", path=str(cuda.include.parent / "bin"))
    found = beside_nvcc or shutil.which("cuobjdump")
    if found is None and (triton := importlib.util.find_spec("triton")):
        bundled = Path(triton.origin).parent / "backends" / "nvidia" / "bin"
        found = shutil.which("cuobjdump", path=str(bundled))
    if found is None:
        pytest.skip("no cuobjdump: neither the CUDA toolkit nor Triton has one")
    return found


def missing_accesses(sass):
    """Kernel -> the 16-byte accesses that its machine code lacks, for those that stream whole tensors."""
    missing = {}
    for function in sass.split("Function : ")[1:]:
        name, _, code = function.partition("\n")
        # Blackwell also has 32-byte ones.
        lacking = [access for access in ("LDG", "STG") if not re.search(rf"{access}[.\w]*\.(128|256)\b", code)]
        lacking = [access for access in lacking if access not in {ONE_SIDE[k] for k in ONE_SIDE if k in name}]
        if lacking and not any(narrow in name for narrow in NARROW):
            missing[name.strip()] = lacking
    return missing


def test_no_spills_and_no_stack(compiled):
    functions = FUNCTION.findall(compiled[1])
    assert len(functions) == compiled[1].count("Compiling entry function") > 0
    assert [row for row in functions if row[1:] != ("0", "0", "0")] == []


def test_memory_bound_kernels_access_16_bytes_at_once(compiled, cuda):
    command = [find_cuobjdump(cuda), "--dump-sass", compiled[0]]
    sass = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout
    assert "Function : " in sass
    assert missing_accesses(sass) == {}


def test_scalar_stores_are_seen():
    scalar = "Function : stream_kernel\n LDG.E.128.CONSTANT R4, [R2]\n STG.E [R8], R4\n"
    assert missing_accesses(scalar) == {"stream_kernel": ["STG"]}
    assert missing_accesses(scalar.replace("STG.E ", "STG.E.128 ")) == {}
    assert missing_accesses(scalar.replace("stream", "finalise")) == {}
    assert missing_accesses(scalar.replace("stream", "unpool_rows")) == {"unpool_rows_kernel": ["STG"]}
