"""Bad arguments of the sampling functions and the penalties: the type of error, the argument's name, nothing drawn."""

import pytest
import torch

import pyaegpu

M = torch.zeros(3, 2)
CPU = torch.Generator()
NAN = float("nan")


def sample(*args, **kwargs):
    return lambda: pyaegpu.reparameterize(*(args or (M, M)), **kwargs)


def sample_kl(*args, **kwargs):
    return lambda: pyaegpu.reparameterize_kl(*(args or (M, M)), **kwargs)


def corrupt(*args, **kwargs):
    return lambda: pyaegpu.corrupt(*(args or (M, "masking", 0.5)), **kwargs)


def sparsity(*args, **kwargs):
    return lambda: pyaegpu.sparsity_penalty(*(args or (M,)), **kwargs)


def contraction(*args, **kwargs):
    return lambda: pyaegpu.contractive_penalty(*(args or (M, torch.zeros(2, 4))), **kwargs)


SHAPES = r"\(3, 2\).*\({}"
BOTH = {
    "logvar shape": (ValueError, "logvar.*mu.*" + SHAPES.format("2, 3"), (M, M.t())),
    "logvar broadcasts": (ValueError, "logvar.*mu.*" + SHAPES.format("2,"), (M, M[0])),
    "mu type": (TypeError, "mu.*Tensor.*list", ([1.0], M)),
    "logvar type": (TypeError, "logvar.*Tensor.*float", (M, 1.0)),
    "mu dtype": (RuntimeError, "mu.*floating.*int64", (M.long(), M)),
    "logvar dtype": (RuntimeError, "logvar.*floating.*int64", (M, M.long())),
    "complex": (RuntimeError, "mu.*floating.*complex", (M.cfloat(), M.cfloat())),
    "device": (RuntimeError, "logvar.*mu.*cpu.*meta", (M, M.to("meta"))),
    "eps shape": (ValueError, "eps.*mu.*" + SHAPES.format("2,"), {"eps": M[0]}),
    "eps type": (TypeError, "eps.*Tensor.*float", {"eps": 0.5}),
    "eps dtype": (RuntimeError, "eps.*floating.*int64", {"eps": M.long()}),
    "eps device": (RuntimeError, "eps.*cpu.*meta", {"eps": M.to("meta")}),
    "generator type": (TypeError, r"generator.*torch.*Generator.*int", {"generator": 3}),
    "generators' type": (TypeError, r"generator\[1\].*Generator.*int", {"generator": [CPU, 3, CPU]}),
    "too few generators": (ValueError, "generator.*3.*got 2", {"generator": [CPU, CPU]}),
    "too many generators": (ValueError, "generator.*3.*got 4", {"generator": (CPU,) * 4}),
    "no generators": (ValueError, "generator.*3.*got 0", {"generator": []}),
    "clamp order": (ValueError, "clamp.*lo <= hi", {"clamp": (1.0, -1.0)}),
    "clamp nan": (ValueError, "clamp", {"clamp": (NAN, 1.0)}),
    "clamp number": (TypeError, "clamp.*pair.*3", {"clamp": 3.0}),
    "clamp of three": (TypeError, "clamp.*pair", {"clamp": (1.0, 2.0, 3.0)}),
    "clamp none": (TypeError, r"clamp\[0\].*NoneType", {"clamp": (None, 1.0)}),
    "unknown argument": (TypeError, "colour", {"colour": 1}),
}
SAMPLE = {
    "no spread": (TypeError, "exactly one of logvar and std.*none", sample(M)),
    "two spreads": (TypeError, "exactly one of logvar and std.*both", sample(M, M, std=M)),
    "clamp of std": (TypeError, "clamp.*logvar.*std", sample(M, std=M, clamp=(-1.0, 1.0))),
    "std shape": (ValueError, "std.*mu.*" + SHAPES.format("2,"), sample(M, std=M[0])),
    "std type": (TypeError, "std.*Tensor.*float", sample(M, std=1.0)),
    "std dtype": (RuntimeError, "std.*floating.*int64", sample(M, std=M.long())),
    "generators of one sample": (ValueError, "generator.*1; got 2", sample(M[0], M[0], generator=[CPU, CPU])),
    "not trained": (ValueError, "logvar.*mu", sample(M, M[0], training=False)),
    "positional std": (TypeError, "positional", sample(M, None, M)),
}
SAMPLE_KL = {
    "reduction": (ValueError, "reduction.*'dim'.*'rows'", sample_kl(reduction="rows")),
    "no logvar": (TypeError, "logvar", sample_kl(M)),
    "logvar none": (TypeError, "logvar.*Tensor.*None", sample_kl(M, None)),
    "std": (TypeError, "std", sample_kl(M, std=M)),
}
CORRUPT = {
    "input type": (TypeError, "input.*Tensor.*list", corrupt([1.0], "masking", 0.5)),
    "input dtype": (RuntimeError, "input.*floating.*int64", corrupt(M.long(), "masking", 0.5)),
    "kind": (ValueError, "kind.*'gaussian'.*'poisson'", corrupt(M, "poisson", 0.5)),
    "kind type": ((TypeError, ValueError), "kind.*None", corrupt(M, None, 0.5)),
    "probability": (ValueError, r"amount.*at most 1.*1\.5", corrupt(M, "masking", 1.5)),
    "probability of both": (ValueError, r"amount.*'salt_and_pepper'.*1\.01", corrupt(M, "salt_and_pepper", 1.01)),
    "negative probability": (ValueError, "amount.*-0.1", corrupt(M, "masking", -0.1)),
    "negative deviation": (ValueError, "amount.*-0.1", corrupt(M, "gaussian", -0.1)),
    "amount nan": (ValueError, "amount.*nan", corrupt(M, "gaussian", NAN)),
    "amount type": (TypeError, "amount.*number.*str", corrupt(M, "masking", "0.5")),
    "amount bool": (TypeError, "amount.*number.*bool", corrupt(M, "masking", True)),
    "amount tensor": (TypeError, "amount.*number.*Tensor", corrupt(M, "masking", torch.tensor(0.5))),
    "no amount": (TypeError, "amount", corrupt(M, "masking")),
    "low": (TypeError, "low.*number.*str", corrupt(low="0")),
    "high": (TypeError, "high.*number.*NoneType", corrupt(high=None)),
    "generator type": (TypeError, "generator.*Generator.*str", corrupt(generator="seed")),
    "generators' type": (TypeError, r"generator\[0\].*Generator.*NoneType", corrupt(generator=[None, CPU, CPU])),
    "too few generators": (ValueError, "generator.*input.*3.*got 2", corrupt(generator=[CPU, CPU])),
}
PENALTIES = {
    "code type": (TypeError, "code.*Tensor.*list", sparsity([1.0])),
    "code dtype": (RuntimeError, "code.*floating.*int64", sparsity(M.long())),
    "kind": (ValueError, "kind.*'squared'.*'l2'", sparsity(kind="l2")),
    "reduction of sparsity": (ValueError, "reduction.*'mean', 'sum'.*'none'", sparsity(reduction="none")),
    "target of 0": (ValueError, "target.*0", sparsity(kind="kl", target=0.0)),
    "target of 1": (ValueError, "target.*1", sparsity(kind="kl", target=1.0)),
    "target nan": (ValueError, "target.*nan", sparsity(kind="kl", target=NAN)),
    "target type": (TypeError, "target.*number.*str", sparsity(kind="kl", target="0.5")),
    "hidden type": (TypeError, "hidden.*Tensor.*list", contraction([1.0], M)),
    "weight type": (TypeError, "weight.*Tensor.*NoneType", contraction(M, None)),
    "weight dtype": (RuntimeError, "weight.*floating.*int64", contraction(M, M.long())),
    "weight shape": (ValueError, r"weight.*hidden.*\(3, 2\).*\(3, 2\)", contraction(M, M)),
    "weight vector": (ValueError, r"weight.*\(2,\)", contraction(M, M[0])),
    "hidden of 0 dimensions": (ValueError, "hidden", contraction(torch.zeros(()), M)),
    "dtypes": (RuntimeError, "hidden: torch.float32.*weight: torch.float64", contraction(M, M.t().double())),
    "device": (RuntimeError, "weight.*cpu.*meta", contraction(M, M.t().to("meta"))),
    "reduction": (ValueError, "reduction.*'none'", contraction(reduction="none")),
}
CASES = {
    f"{name}: {case}": spec
    for name, cases in (
        ("reparameterize", SAMPLE),
        ("reparameterize_kl", SAMPLE_KL),
        ("corrupt", CORRUPT),
        ("penalties", PENALTIES),
    )
    for case, spec in cases.items()
}
for _name, _make in (("reparameterize", sample), ("reparameterize_kl", sample_kl)):
    for _case, (_error, _text, _given) in BOTH.items():
        _call = _make(**_given) if isinstance(_given, dict) else _make(*_given)
        CASES[f"{_name}: {_case}"] = (_error, _text, _call)


@pytest.mark.parametrize("case", CASES)
def test_bad_arguments(case):
    before = torch.get_rng_state(), CPU.get_state()
    error, text, call = CASES[case]
    with pytest.raises(error, match=text):
        call()
    assert torch.equal(torch.get_rng_state(), before[0]) and torch.equal(CPU.get_state(), before[1])


def test_numpy_scalars_are_numbers():
    numpy = pytest.importorskip("numpy")
    for half in (numpy.float64(0.5), numpy.float32(0.5)):
        for kind in ("gaussian", "masking", "salt_and_pepper"):
            assert pyaegpu.corrupt(M, kind, half, low=half, high=half).shape == M.shape
        assert pyaegpu.reparameterize(M, M, clamp=(-half, half)).shape == M.shape
        assert pyaegpu.sparsity_penalty(M + 0.5, "kl", target=half) == 0
    assert torch.equal(pyaegpu.corrupt(M + 1, "masking", numpy.int64(1)), M)


def test_integers_are_numbers():
    assert torch.equal(pyaegpu.corrupt(M + 3, "salt_and_pepper", 1, low=2, high=2), M + 2)
    assert torch.equal(pyaegpu.reparameterize(M, M + 9, eps=M + 1, clamp=(0, 0)), M + 1)
