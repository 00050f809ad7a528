"""Real processes, killed with SIGKILL."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from pyaegpu.training import load_checkpoint

# Dies in the middle of writing the temporary file of the given write.
HALF_WRITTEN = """
import os, pathlib, signal, sys
from pyaegpu.cli.main import main

count, write = iter(range(1000)), pathlib.Path.write_bytes

def half(self, content):
    if next(count) == int(sys.argv[1]):
        write(self, content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    return write(self, content)

pathlib.Path.write_bytes = half
main(sys.argv[2:])
"""
EPOCHS = 30
WAIT_SECONDS = 60
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}  # as in this process


@pytest.fixture(scope="module")
def whole(tmp_path_factory, train, result, small):
    """The result of the run that nobody stopped."""
    out = tmp_path_factory.mktemp("whole")
    assert train(out, small["vae"], EPOCHS, "--quiet") == 0
    return result(out)


@pytest.fixture
def arguments(tmp_path, small):
    """The command line of the run that will be killed."""
    return ["train", *small["vae"], "--out", str(tmp_path / "run"), "--epochs", str(EPOCHS), "--quiet"]


@pytest.fixture
def finish(tmp_path, train, result, small):
    """Resumes the run that was killed and returns its result."""

    def finish():
        out = tmp_path / "run"
        if (out / "model.safetensors").exists():
            load_checkpoint(out / "model.safetensors")
        assert train(out, small["vae"], EPOCHS, "--resume", "--quiet") == 0
        assert not [name for name in os.listdir(out) if name.endswith(".tmp")]
        return result(out)

    return finish


def test_at_a_random_moment(tmp_path, arguments, finish, whole):
    process = subprocess.Popen([sys.executable, "-m", "pyaegpu", *arguments], cwd=tmp_path, env=ONE_THREAD)
    deadline = time.monotonic() + WAIT_SECONDS
    while not (tmp_path / "run" / "training.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(random.uniform(0, 0.15))
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it had finished; give it more epochs"
    assert finish() == whole


@pytest.mark.parametrize("write", [3, 7], ids=["state of epoch 2", "checkpoint of epoch 3"])
def test_in_the_middle_of_a_write(tmp_path, arguments, finish, whole, write):
    command = [sys.executable, "-c", HALF_WRITTEN, str(write), *arguments]
    assert subprocess.run(command, cwd=tmp_path, env=ONE_THREAD, check=False).returncode == -signal.SIGKILL
    assert [name for name in os.listdir(tmp_path / "run") if name.endswith(".tmp")]
    assert finish() == whole
