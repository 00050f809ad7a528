"""The command line as a whole: help, errors, exit statuses."""

import subprocess
import sys

import pytest

from pyaegpu._version import __version__
from pyaegpu.cli import train_vae
from pyaegpu.cli.main import main


def error_line(capsys, *argv):
    """The one line on stderr of a call that fails with status 2 and prints nothing else."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pyaegpu: error: ")
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")
    return captured.err


@pytest.mark.parametrize(
    "command", [[], ["info"], ["train"], ["train", "vae"], ["train", "conv_vae"], ["generate"]], ids=" ".join
)
def test_help(capsys, command):
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(" ".join(["usage: pyaegpu", *command]))
    assert captured.err == ""


@pytest.mark.parametrize(("model", "own", "other"), [("vae", "hidden", "channels"), ("conv_vae", "channels", "hidden")])
def test_help_of_train_names_every_option(capsys, model, own, other):
    with pytest.raises(SystemExit):
        main(["train", model, "--help"])
    text = capsys.readouterr().out
    options = "data data-root download image-size epochs batch-size lr latent beta kind seed device dtype stock out"
    for option in [*options.split(), own, "resume", "json", "quiet", "progress", "no-progress"]:
        assert f"--{option}" in text
    assert "--limit" not in text
    assert f"--{other}" not in text


def test_help_of_generate_names_every_option(capsys):
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    text = capsys.readouterr().out
    for option in ["count", "columns", "out", "seed", "device", "stock", "json", "quiet", "temperature"]:
        assert f"--{option}" in text


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"pyaegpu {__version__}\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "COMMAND"),
        (["trian"], "'trian'"),
        (["train"], "MODEL"),
        (["train", "gan"], "'gan'"),
        (["train", "vae", "--data", "cifar"], "--data"),
        (["train", "vae", "--epochs", "0"], "--epochs: '0' is not a whole number of at least 1"),
        (["train", "vae", "--batch-size", "x"], "--batch-size: 'x' is not a whole number"),
        (["train", "vae", "--hidden", "9" * 30], "at least 1 and at most 16777216"),
        (["train", "vae", "--lr", "0"], "--lr: '0' is not a finite number above 0"),
        (["train", "vae", "--lr", "nan"], "--lr: 'nan'"),
        (["train", "vae", "--lr", "inf"], "--lr: 'inf'"),
        (["train", "vae", "--beta", "-1"], "--beta: '-1' is not a finite number of at least 0"),
        (["train", "vae", "--seed", "-1"], "--seed: '-1'"),
        (["train", "vae", "--seed", str(2**63)], "--seed"),
        (["train", "vae", "--kind", "l3"], "--kind"),
        (["train", "vae", "--device", "tpu"], "--device"),
        (["train", "vae", "--frobnicate"], "--frobnicate"),
        (["train", "vae", "--dtype", "fp8"], "--dtype"),
        (["train", "vae", "--channels", "3"], "--channels"),
        (["train", "conv_vae", "--hidden", "3"], "--hidden"),
        (["train", "conv_vae", "--channels", "32,"], "--channels: '' is not a whole number"),
        (["train", "conv_vae", "--channels", "32,0"], "--channels: '0' is not a whole number of at least 1"),
        (["train", "vae", "--image-size", "0"], "--image-size: '0'"),
        (["generate"], "CHECKPOINT"),
        (["generate", "x", "--count", "0"], "--count: '0'"),
        (["generate", "x", "--temperature", "-1"], "--temperature: '-1'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_command_lines(capsys, argv, message):
    line = error_line(capsys, *argv)
    assert message in line
    assert "--help" in line


def test_errors_of_a_separate_process(tmp_path):
    command = [sys.executable, "-m", "pyaegpu", "train", "vae", "--data", "mnist", "--data-root", "nowhere"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert last.startswith("pyaegpu: error: data folder nowhere does not exist")
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "pyaegpu: interrupted\n"),
        (MemoryError(), 2, "pyaegpu: error: out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "pyaegpu: error: out of memory"),
        (RuntimeError("CUDA out of memory. Tried"), 2, "pyaegpu: error: out of memory"),
        (OSError(28, "No space left on device", "x/y"), 2, "pyaegpu: error: x/y: No space left on device"),
    ],
)
def test_what_the_machine_may_do(capsys, monkeypatch, error, status, message):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(train_vae, "load_dataset", fail)
    assert main(["train", "vae"]) == status
    captured = capsys.readouterr().err
    assert captured.startswith(message)
    assert captured.count("\n") == 1


def test_a_bug_is_not_hidden(monkeypatch):
    def fail(*arguments):
        raise RuntimeError("a bug")

    monkeypatch.setattr(train_vae, "load_dataset", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["train", "vae"])
