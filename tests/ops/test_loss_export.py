"""torch.export and torch.jit.trace."""

import io
import subprocess
import sys

import oracle
import pytest
import torch
from calls import FEW, KL
from oracle import images, latents
from torch.export import Dim, export

import pyaegpu


class Wrapped(torch.nn.Module):
    """Named arguments, as dynamic shapes need them."""

    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, recon, target, mu, logvar):
        return self.fn(recon, target, mu, logvar)


class Positional(torch.nn.Module):
    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, *inputs):
        return self.fn(*inputs)


def saved_and_loaded(program):
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file)


def nodes(program):
    return [str(n.target) for n in program.graph.nodes if "pyaegpu" in str(n.target)]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("call", [*FEW, *KL[6:10]], ids=str)
def test_round_trip(kernel_device, call, strict):
    inputs = tuple(call.inputs(device=kernel_device))
    program = export(Positional(call.ours), inputs, strict=strict)
    assert nodes(program), "the graph holds no registered op"
    for module in (program.module(), saved_and_loaded(program).module()):
        torch.testing.assert_close(module(*inputs), call.stock(*inputs))


@pytest.mark.parametrize("strict", [True, False])
def test_dynamic_batch(kernel_device, strict):
    def loss(*inputs):
        return pyaegpu.vae_loss(*inputs, recon_reduction="mean", kl_reduction="batchmean", return_parts=True)

    def inputs(size):
        return (*images("bce", (size, 3, 5), device=kernel_device), *latents((size, 4), device=kernel_device))

    batch = Dim("batch", min=2, max=1024)
    shapes = {name: {0: batch} for name in ("recon", "target", "mu", "logvar")}
    program = export(Wrapped(loss), inputs(4), dynamic_shapes=shapes, strict=strict)
    loaded = saved_and_loaded(program).module()
    for size in (4, 9, 17):
        expected = oracle.vae(*inputs(size), recon_reduction="mean", kl_reduction="batchmean")
        torch.testing.assert_close(loaded(*inputs(size)), expected)


def test_an_exported_loss_keeps_its_gradient(kernel_device):
    recon, target = images("bce", (3, 4), device=kernel_device)
    module = export(Positional(pyaegpu.reconstruction_loss), (recon, target), strict=False).module()
    x, y = (recon.clone().requires_grad_() for _ in range(2))
    module(x, target).backward()
    oracle.reconstruction(y, target, "bce").backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_a_saved_program_runs_in_another_process(tmp_path):
    recon, target = images("bce", (3, 4))
    torch.export.save(export(Positional(pyaegpu.reconstruction_loss), (recon, target)), tmp_path / "loss.pt2")
    program = (
        "import sys, torch, pyaegpu\n"
        "module = torch.export.load(sys.argv[1]).module()\n"
        "print(module(torch.full((3, 4), 0.5), torch.ones(3, 4)).item())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "loss.pt2"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) == pytest.approx(12 * 0.6931472)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call", FEW, ids=str)
def test_jit_trace(kernel_device, call):
    inputs = tuple(call.inputs(device=kernel_device))
    traced = torch.jit.trace(call.ours, inputs)
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    loaded = torch.jit.load(file)
    changed = tuple(t * 0.9 for t in inputs)
    for module in (traced, loaded):
        torch.testing.assert_close(module(*changed), call.stock(*changed))


@pytest.mark.filterwarnings("ignore")
def test_a_traced_loss_keeps_its_gradient(kernel_device):
    recon, target = images("bce", (3, 4), device=kernel_device)
    mu, logvar = latents((3, 4), device=kernel_device)
    traced = torch.jit.trace(pyaegpu.vae_loss, (recon, target, mu, logvar))
    results = [
        oracle.run(lambda x, m, v, f=f: f(x, target, m, v), (recon, mu, logvar))[1]
        for f in (traced, lambda *a: oracle.vae(*a)[0])
    ]
    for ours, stock in zip(*results, strict=True):
        torch.testing.assert_close(ours, stock)
