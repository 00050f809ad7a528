"""Every Triton kernel of every configuration compiles for the supported GPUs, in their limits, on any machine."""

import math
import os
import re

import aot
import aot_calls
import aot_calls_conv_transpose
import pytest
import torch
from pyaegpu.kernels import corrupt, norm_act, reparameterize
from triton.tools.tensor_descriptor import TensorDescriptor

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = [
    pytest.mark.aot,
    pytest.mark.skipif(INTERPRETING, reason="Triton compiles nothing where TRITON_INTERPRET=1"),
]

# Kernels whose operands are not all read 16 bytes at a time: those of second stages, and what a family names.
NARROW = {"sum_kernel", "vae_sum_kernel"}.union(*(getattr(family, "NARROW", ()) for family in aot.FAMILIES))


@pytest.mark.parametrize("name", aot.DTYPES)
@pytest.mark.parametrize("arch", aot.ARCHITECTURES)
def test_resources_and_access_width(arch, name):
    wrong = []
    for launch in aot.launches(name, arch):
        built = aot.compile_launch(launch, arch)
        if built.stack:
            wrong.append(f"{launch.name} ({launch.label}): {built.stack} bytes of stack: registers spill")
        if built.shared > aot.SHARED_LIMITS[arch]:
            wrong.append(f"{launch.name} ({launch.label}): {built.shared} bytes of shared memory")
        if launch.name in aot_calls_conv_transpose.PRODUCTS:
            wrong += [f"{launch.name} ({launch.label}): {problem}" for problem in slow_operands(built)]
        elif launch.name not in NARROW and " odd " not in f" {launch.label} ":
            wrong += [f"{launch.name} ({launch.label}): {problem}" for problem in narrow_accesses(built.ptx, name)]
    assert not wrong, "\n".join(wrong)


def narrow_accesses(ptx, name):
    """Loads or stores of tensor data under 16 bytes. Scalars and partial sums are 4 or 8 bytes wide."""
    wide = "ld.global.v2.b64" if name == "f64" else "ld.global.v4.b32"
    if wide not in ptx:
        yield f"no {wide}"
    if name in ("f16", "bf16") and any(f"{access}.global.b16" in ptx for access in ("ld", "st")):
        yield "2-byte accesses"


def slow_operands(built):
    """Products that do not use what the architecture has for their operands and results. A contiguous result has its
    phases, or its taps, side by side, so that none stores 16 bytes at once."""
    ptx, arch, label = built.ptx, built.arch, built.launch.label
    if arch == 90:
        multiplied = re.findall(r"wgmma\.mma_async[^;]*;", ptx)
        if not multiplied:
            yield "no wgmma"
        if any(re.search(r"\},\s*\{", each) for each in multiplied):
            yield "an operand of wgmma in registers"
    copied = "cp.async.bulk.tensor" if isinstance(built.launch.args[0], TensorDescriptor) else "cp.async.c"
    if copied not in ptx:
        yield f"no {copied}"
    if "contiguous" not in label and "st.global.v4.b32" not in ptx:
        yield "narrow stores"


def test_a_launch_is_compiled_as_recorded():
    launch = next(each for each in aot.launches("bf16") if each.label == "bce_logits sum+grad")
    ptx = aot.compile_launch(launch, 90).ptx
    assert ptx.count("ld.global.v4.b32") == 2 and ptx.count("st.global.v4.b32") == 1


@pytest.mark.parametrize("name", ["f32", "f64"])
def test_seeds_offsets_and_batch_sizes_do_not_recompile(name):
    x = aot_calls.meta((4, 64), aot_calls.DTYPES[name])
    numbers = [(1, 1, x), (16, 0, x[:3]), (-(2**63), 2**40, x[:2])]
    launches = []
    for seed, offset, like in numbers:
        apart = like.new_empty(like.shape[0], 128)[:, :64]
        arguments = (apart, apart, None, None, seed, offset)
        with aot.recording("", launches):
            reparameterize.reparameterize_fwd(*arguments, 0, -math.inf, math.inf, False)
            reparameterize.reparameterize_kl_bwd(apart, None, *arguments, -1.0, 1.0, 1, 1.0, False)
            corrupt.corrupt_fwd(apart, None, seed, offset, 1, 0.3, 0.0, 1.0)
    specializations = {}
    for launch in launches:
        specializations.setdefault(launch.name, set()).add(aot.specialization(launch, 90))
    assert all(len(found) == 1 for found in specializations.values()), specializations


@pytest.mark.parametrize("channels_last", [False, True])
def test_batch_sizes_do_not_recompile_a_norm(channels_last):
    found = set()
    for batch in (128, 37, 1):
        x = aot_calls.meta((batch, 64, 8, 8), torch.float32)
        launches = []
        with aot.recording("", launches):
            _, mean, invstd, _ = norm_act.batch_norm_act_fwd(
                x, None, None, None, None, True, 1e-5, 1, 0.0, channels_last
            )
            norm_act.batch_norm_act_bwd(x, x, None, None, mean, invstd, True, 1, 0.0, channels_last, True, True)
        assert len(launches) == 6
        found.add(tuple(aot.specialization(launch, 90) for launch in launches))
    assert len(found) == 1, found


def test_the_copy_engine_reads_what_it_can():
    """From sm_90 on; channels of 200 bytes it cannot."""
    for arch in aot.ARCHITECTURES:
        by_descriptor = {
            each.label: isinstance(each.args[0], TensorDescriptor)
            for each in aot.launches("bf16", arch)
            if each.name in aot_calls_conv_transpose.PRODUCTS
        }
        wide = {label for label, found in by_descriptor.items() if found}
        narrow = {"dcgan 1", "unaligned", "unaligned contiguous"}
        narrow |= {f"{label} contiguous" for label in aot_calls_conv_transpose.MATMULS}
        narrow |= {f"{label} moments" for label in narrow}
        assert wide == (by_descriptor.keys() - narrow if arch >= 90 else set())
