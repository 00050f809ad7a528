"""Every Triton kernel of every configuration compiles for the supported GPUs, in their limits, on any machine."""

import os
import sys
from pathlib import Path

import pytest

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = [
    pytest.mark.aot,
    pytest.mark.skipif(INTERPRETING, reason="Triton compiles nothing where TRITON_INTERPRET=1"),
]

sys.path.append(str(Path(__file__).parent))
import aot  # noqa: E402

SECOND_STAGE = {"sum_kernel", "vae_sum_kernel"}


@pytest.mark.parametrize("name", aot.DTYPES)
@pytest.mark.parametrize("arch", aot.ARCHITECTURES)
def test_resources_and_access_width(arch, name):
    wrong = []
    for launch in aot.launches(name):
        built = aot.compile_launch(launch, arch)
        if built.stack:
            wrong.append(f"{launch.name} ({launch.label}): {built.stack} bytes of stack: registers spill")
        if built.shared > aot.SHARED_LIMITS[arch]:
            wrong.append(f"{launch.name} ({launch.label}): {built.shared} bytes of shared memory")
        if launch.name not in SECOND_STAGE and " odd " not in f" {launch.label} ":
            wrong += [f"{launch.name} ({launch.label}): {problem}" for problem in narrow_accesses(built.ptx, name)]
    assert not wrong, "\n".join(wrong)


def narrow_accesses(ptx, name):
    """Loads or stores of tensor data under 16 bytes. Scalars and partial sums are 4 or 8 bytes wide."""
    wide = "ld.global.v2.b64" if name == "f64" else "ld.global.v4.b32"
    if wide not in ptx:
        yield f"no {wide}"
    if name in ("f16", "bf16") and any(f"{access}.global.b16" in ptx for access in ("ld", "st")):
        yield "2-byte accesses"


def test_a_launch_is_compiled_as_recorded():
    launch = next(each for each in aot.launches("bf16") if each.label == "bce_logits sum+grad")
    ptx = aot.compile_launch(launch, 90).ptx
    assert ptx.count("ld.global.v4.b32") == 2 and ptx.count("st.global.v4.b32") == 1
