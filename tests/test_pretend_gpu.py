"""The pretended GPU that the tests marked `gpu` are tried on: it tells places apart, and some of those tests pass."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.interpret,
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1 when pytest starts"),
]
HERE = Path(__file__).parent
SOME = (
    "ops/test_conv_transpose_gpu.py::test_the_host_never_waits[triton-asymmetric]",
    "ops/test_nearest_unpool_gpu.py::test_on_another_stream[triton-line-nearest_unpool]",
    "ops/test_sampling_gpu.py::test_each_replay_draws_anew[triton-masking]",
    "kernels/test_nearest_unpool_triton.py::test_dtypes[cuda-dtype0]",
)
PROGRAM = """
import pytest, torch, pretend_gpu
pretend_gpu.pretend()
x, y = torch.ones(3, device="cuda"), torch.ones(3)
moved = torch.nn.Linear(3, 2).to("cuda")(x)
assert moved.is_cuda and x[1:].is_cuda and not y.is_cuda and not x.cpu().is_cuda and y.cuda().is_cuda
moved.sum().backward()
with pytest.raises(RuntimeError, match="same device"):
    x + y
with pytest.raises(TypeError, match="numpy"):
    x.numpy()
torch.cuda.set_sync_debug_mode("error")
x + x.sum()
for wait in (lambda: x.sum().item(), lambda: x.nonzero(), lambda: x.cpu()):
    with pytest.raises(RuntimeError, match="synchronizing"):
        wait()
"""


def run(*arguments):
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=HERE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_places_are_told_apart():
    run("-c", PROGRAM)


def test_some_tests_pass():
    out = run("-m", "pytest", "-p", "pretend_gpu", "-m", "gpu", "-q", "-p", "no:cacheprovider", *SOME)
    assert "passed" in out and "skipped" not in out
