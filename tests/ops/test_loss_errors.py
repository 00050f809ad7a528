"""Bad arguments: the type of error that stock PyTorch raises, the argument's name, and nothing computed."""

import pytest
import torch

import pyaegpu
from pyaegpu.ops import vae_loss as ops

X = torch.full((3, 4), 0.5)
M = torch.zeros(3, 2)
NAN = float("nan")
META = X.to("meta")
SHAPES = r"\(3, 4\).*\({}"


def reconstruction(*args, **kwargs):
    return lambda: pyaegpu.reconstruction_loss(*(args or (X, X)), **kwargs)


def kl(*args, **kwargs):
    return lambda: pyaegpu.gaussian_kl(*(args or (M, M)), **kwargs)


def vae(*args, **kwargs):
    return lambda: pyaegpu.vae_loss(*(args or (X, X, M, M)), **kwargs)


RECONSTRUCTION = {
    "target shape": (ValueError, "target.*recon.*" + SHAPES.format("3, 5"), reconstruction(X, torch.zeros(3, 5))),
    "target broadcasts": (ValueError, "target.*" + SHAPES.format("4"), reconstruction(X, torch.zeros(4))),
    "target dtype": (RuntimeError, "target: torch.float64", reconstruction(X, X.double())),
    "target device": (RuntimeError, "target.*device.*cpu.*meta", reconstruction(X, META)),
    "recon device": (RuntimeError, "target.*device.*meta.*cpu", reconstruction(META, X)),
    "recon integer": (RuntimeError, "recon.*floating.*int64", reconstruction(X.long(), X)),
    "target integer": (RuntimeError, "target.*floating.*bool", reconstruction(X, X.bool())),
    "recon complex": (RuntimeError, "recon.*floating.*complex64", reconstruction(X.to(torch.complex64), X)),
    "recon list": (TypeError, "recon.*Tensor.*list", reconstruction([0.5], X)),
    "target number": (TypeError, "target.*Tensor.*float", reconstruction(X, 0.5)),
    "target none": (TypeError, "target.*Tensor.*None", reconstruction(X, None)),
    "kind": (ValueError, "kind.*'bce_logits'.*'huber'", reconstruction(kind="huber")),
    "kind none": (ValueError, "kind.*None", reconstruction(kind=None)),
    "reduction": (ValueError, "reduction.*'batchmean'.*'total'", reconstruction(reduction="total")),
    "reduction none": (ValueError, "reduction.*None", reconstruction(reduction=None)),
    "reduction of kl": (ValueError, "reduction.*'dim'", reconstruction(reduction="dim")),
    "weight shape": (ValueError, "weight.*" + SHAPES.format("5"), reconstruction(weight=torch.ones(5))),
    "weight larger": (ValueError, "weight.*", reconstruction(weight=torch.ones(2, 3, 4))),
    "weight number": (TypeError, "weight.*Tensor.*float", reconstruction(weight=2.0)),
    "weight integer": (RuntimeError, "weight.*floating.*int64", reconstruction(weight=torch.ones(4).long())),
    "weight device": (RuntimeError, "weight.*device.*cpu.*meta", reconstruction(weight=META)),
    "scale string": (TypeError, "scale.*number.*str", reconstruction(scale="2")),
    "scale tensor": (TypeError, "scale.*number.*Tensor", reconstruction(scale=torch.tensor(2.0))),
    "scale bool": (TypeError, "scale.*number.*bool", reconstruction(scale=True)),
    "beta negative": (RuntimeError, "beta.*-1", reconstruction(kind="smooth_l1", beta=-1.0)),
    "beta string": (TypeError, "beta.*number.*str", reconstruction(kind="smooth_l1", beta="1")),
}
KL = {
    "no spread": (TypeError, "logvar, std and var", kl(M)),
    "std and logvar": (TypeError, "logvar, std and var.*logvar, std", kl(M, M, std=M)),
    "std and var": (TypeError, "logvar, std and var.*std, var", kl(M, std=M, var=M)),
    "logvar shape": (ValueError, r"logvar.*mu.*\(3, 2\).*\(3, 3\)", kl(M, torch.zeros(3, 3))),
    "logvar broadcasts": (ValueError, "logvar.*mu", kl(M, torch.zeros(2))),
    "std shape": (ValueError, "std.*mu", kl(M, std=torch.zeros(2))),
    "var dtype": (RuntimeError, "var: torch.float64", kl(M, var=M.double())),
    "logvar device": (RuntimeError, "logvar.*device.*meta", kl(M, M.to("meta"))),
    "mu integer": (RuntimeError, "mu.*floating.*int64", kl(M.long(), M)),
    "mu number": (TypeError, "mu.*Tensor.*float", kl(0.0, M)),
    "logvar number": (TypeError, "logvar.*Tensor.*float", kl(M, 0.0)),
    "other tensor": (TypeError, "other.*pair", kl(M, M, other=M)),
    "other of three": (TypeError, "other.*pair", kl(M, M, other=(M, M, M))),
    "other numbers": (TypeError, r"other\[0\].*Tensor.*float", kl(M, M, other=(0.0, 0.0))),
    "other shape": (ValueError, r"other\[1\].*\(3, 2\).*\(3,\)", kl(M, M, other=(M, torch.zeros(3)))),
    "other dtype": (RuntimeError, r"other\[0\]: torch.float64", kl(M, M, other=(M.double(), M))),
    "other device": (RuntimeError, r"other\[1\].*device.*meta", kl(M, M, other=(M, M.to("meta")))),
    "clamp order": (ValueError, r"clamp.*lo <= hi.*\(1.0, -1.0\)", kl(M, M, clamp=(1.0, -1.0))),
    "clamp nan": (ValueError, "clamp", kl(M, M, clamp=(NAN, 1.0))),
    "clamp number": (TypeError, "clamp.*pair.*3", kl(M, M, clamp=3.0)),
    "clamp none": (TypeError, r"clamp\[0\].*NoneType", kl(M, M, clamp=(None, 1.0))),
    "clamp of std": (TypeError, "clamp.*std", kl(M, std=M, clamp=(-1.0, 1.0))),
    "log_eps of logvar": (TypeError, "log_eps.*logvar", kl(M, M, log_eps=0.1)),
    "log_eps negative": (ValueError, "log_eps.*-0.1", kl(M, var=M, log_eps=-0.1)),
    "log_eps string": (TypeError, "log_eps.*str", kl(M, var=M, log_eps="0.1")),
    "free_bits negative": (ValueError, "free_bits.*-0.1", kl(M, M, free_bits=-0.1)),
    "free_bits nan": (ValueError, "free_bits.*nan", kl(M, M, free_bits=NAN)),
    "free_bits string": (TypeError, "free_bits.*str", kl(M, M, free_bits="a")),
    "free_bits none": (ValueError, "free_bits.*'none'", kl(M, M, free_bits=0.1, reduction="none")),
    "free_bits sample": (ValueError, "free_bits.*'sample'", kl(M, M, free_bits=0.1, reduction="sample")),
    "reduction": (ValueError, "reduction.*'dim'.*'rows'", kl(M, M, reduction="rows")),
    "dims of sum": (ValueError, "dims.*'sample'.*'sum'", kl(M, M, reduction="sum", dims=1)),
    "dims too large": ((IndexError, ValueError), "dims.*2", kl(M, M, reduction="sample", dims=2)),
    "dims too small": ((IndexError, ValueError), "dims.*-3", kl(M, M, reduction="sample", dims=(0, -3))),
    "dims twice": ((RuntimeError, ValueError), "dims", kl(M, M, reduction="sample", dims=(1, -1))),
    "dims float": (TypeError, "dims.*float", kl(M, M, reduction="sample", dims=1.0)),
    "dims of float": (TypeError, "dims.*float", kl(M, M, reduction="sample", dims=(0.5,))),
    "dims string": (TypeError, "dims.*str", kl(M, M, reduction="sample", dims="1")),
    "dims of 0-d": (
        (IndexError, ValueError),
        "dims",
        kl(torch.zeros(()), torch.zeros(()), reduction="sample", dims=1),
    ),
}
VAE = {
    "target shape": (ValueError, "target.*recon", vae(X, M, M, M)),
    "logvar shape": (ValueError, "logvar.*mu", vae(X, X, M, torch.zeros(2))),
    "logvar none": (TypeError, "logvar.*Tensor.*None", vae(X, X, M, None)),
    "target dtype": (RuntimeError, "target: torch.float16", vae(X, X.half(), M, M)),
    "logvar dtype": (RuntimeError, "logvar: torch.float16", vae(X, X, M, M.half())),
    "float64 and float32": (RuntimeError, "recon and mu.*float64", vae(X, X, M.double(), M.double())),
    "mu device": (RuntimeError, "mu.*recon.*device|mu.*device.*recon", vae(X, X, M.to("meta"), M.to("meta"))),
    "kind": (ValueError, "kind.*'l2'", vae(kind="l2")),
    "recon_reduction": (ValueError, "recon_reduction.*'none'", vae(recon_reduction="none")),
    "kl_reduction": (ValueError, "kl_reduction.*'dim'", vae(kl_reduction="dim")),
    "sample for one": (ValueError, "recon_reduction.*kl_reduction.*'sample'", vae(recon_reduction="sample")),
    "sample for the other": (ValueError, "recon_reduction.*kl_reduction.*'sample'", vae(kl_reduction="sample")),
    "batch sizes": (ValueError, r"recon and mu.*batch", vae(X, X, M[:2], M[:2], recon_reduction="batchmean")),
    "batch sizes by sample": (
        ValueError,
        r"recon and mu.*batch",
        vae(X, X, M[:2], M[:2], recon_reduction="sample", kl_reduction="sample"),
    ),
    "beta shape": (ValueError, r"beta.*0-d.*\(1,\)", vae(beta=torch.ones(1))),
    "beta integer tensor": (RuntimeError, "beta.*floating.*int64", vae(beta=torch.tensor(1))),
    "beta string": (TypeError, "beta.*number.*str", vae(beta="1")),
    "beta none": (TypeError, "beta.*number.*None", vae(beta=None)),
    "recon_scale": (TypeError, "recon_scale.*number.*list", vae(recon_scale=[1.0])),
    "weight shape": (ValueError, "weight.*" + SHAPES.format("3,"), vae(weight=torch.ones(3))),
    "clamp order": (ValueError, "clamp", vae(clamp=(1, -1))),
    "free_bits negative": (ValueError, "free_bits", vae(free_bits=-1.0)),
    "free_bits of samples": (
        ValueError,
        "free_bits.*'sample'",
        vae(recon_reduction="sample", kl_reduction="sample", free_bits=0.1),
    ),
}
CASES = {
    f"{name}: {case}": spec
    for name, cases in (("reconstruction_loss", RECONSTRUCTION), ("gaussian_kl", KL), ("vae_loss", VAE))
    for case, spec in cases.items()
}


@pytest.mark.parametrize("case", CASES)
def test_bad_arguments(monkeypatch, case):
    def computed(*args):
        raise AssertionError("the op ran")

    for op in ("reconstruction_loss", "gaussian_kl", "vae_loss"):
        monkeypatch.setattr(ops, op, computed)
    error, text, call = CASES[case]
    with pytest.raises(error, match=text):
        call()


OUTSIDE = [1.5, -0.25, NAN, float("inf")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("value", OUTSIDE)
@pytest.mark.parametrize("name", ["recon", "target"])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_bce_outside_the_unit_interval(backend, name, value, dtype):
    tensors = {n: torch.full((5, 20000), 0.5, dtype=dtype) for n in ("recon", "target")}
    tensors[name][3, 7] = value
    recon, target = tensors["recon"], tensors["target"]
    mu = torch.zeros(5, 2, dtype=dtype)
    name = name if backend == "cpu" else f"{name}|{'input' if name == 'recon' else name}"
    text = rf"({name}).*between 0 and 1"
    with pyaegpu.backend(backend):
        for x in (recon, recon.clone().requires_grad_()):
            for reduction in ("none", "sum", "mean", "sample"):
                with pytest.raises(RuntimeError, match=text):
                    pyaegpu.reconstruction_loss(x, target, reduction=reduction)
            with pytest.raises(RuntimeError, match=text):
                pyaegpu.vae_loss(x, target, mu, mu)
            with pytest.raises(RuntimeError, match=text):
                pyaegpu.vae_loss(x, target, mu, mu, recon_reduction="sample", kl_reduction="sample")


def test_bce_names_value_and_position_of_the_first_one_outside():
    recon, target = torch.full((5, 20000), 0.5), torch.full((5, 20000), 0.5)
    recon[4, 100], recon[3, 7], target[2, 3] = 7.0, 1.25, -2.0
    with pyaegpu.backend("cpu"):
        with pytest.raises(RuntimeError, match=r"target.*-2.*position 40003") as raised:
            pyaegpu.reconstruction_loss(recon, target)
        assert "bce_logits" in str(raised.value)
        target[2, 3] = 0.5
        with pytest.raises(RuntimeError, match=r"recon.*1\.25.*position 60007"):
            pyaegpu.reconstruction_loss(recon, target)


def test_the_bounds_themselves_are_inside():
    edges = torch.tensor([0.0, 1.0, -0.0])
    for backend in ("reference", "cpu"):
        with pyaegpu.backend(backend):
            assert pyaegpu.reconstruction_loss(edges, edges) == 0


def test_other_kinds_take_any_value():
    x = torch.tensor([5.0, -3.0])
    for kind in ("bce_logits", "mse", "l1", "smooth_l1"):
        for backend in ("reference", "cpu"):
            with pyaegpu.backend(backend):
                assert pyaegpu.reconstruction_loss(x, x * 2, kind).isfinite()


def test_numpy_scalars_are_numbers_as_in_stock():
    numpy = pytest.importorskip("numpy")
    for number in (numpy.float64(2.0), numpy.float32(2.0), numpy.int64(2)):
        assert torch.nn.functional.smooth_l1_loss(X, X + 1, beta=number) == 0.25
        assert pyaegpu.reconstruction_loss(X, X + 1, "mse", scale=number) == 24
        assert pyaegpu.vae_loss(X, X, M + 1, M, kind="mse", beta=number) == 6


def test_unknown_arguments_are_refused():
    with pytest.raises(TypeError, match="colour"):
        pyaegpu.vae_loss(X, X, M, M, colour=1)
    with pytest.raises(TypeError):
        pyaegpu.reconstruction_loss(X, X, "mse", "sum")


@pytest.mark.parametrize("call", [reconstruction(META, META), kl(META, META), vae(META, META, META, META)])
def test_meta_tensors_give_shapes(call):
    assert call().device.type == "meta" and call().shape == ()
