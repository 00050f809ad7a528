"""The cases are what they say: unique, complete, and their inputs and work fit the formulas."""

from __future__ import annotations

import pytest
import torch

from benchmarks.case import DTYPES, LAYOUTS, MODES
from benchmarks.registry import SUITES, get_suite
from benchmarks.suites import (
    conv_transpose_loss,
    conv_transpose_shapes,
    corrupt,
    max_unpool_shapes,
    norm_act_shapes,
    reparameterize,
)
from benchmarks.suites.vae_loss import CACHE_RESIDENT, LEAVES, VaeLossSuite, make_case, step_of, stock_loss

SUITE = VaeLossSuite()
OPS = {
    "reparameterize": reparameterize.OPS,
    "conv_transpose": conv_transpose_shapes.OPS,
    "norm_act": norm_act_shapes.OPS,
    "conv_transpose_loss": (conv_transpose_loss.OP,),
    "max_unpool": max_unpool_shapes.OPS,
    "nearest_unpool": max_unpool_shapes.WINDOW_OPS,
}
EVERY = [(device, size) for device in ("cpu", "cuda") for size in ("full", "tiny")]


@pytest.mark.parametrize("name", sorted(SUITES))
@pytest.mark.parametrize(("device", "size"), EVERY)
def test_cases_are_unique_and_well_formed(name: str, device: str, size: str) -> None:
    suite = get_suite(name)
    cases = suite.cases(device, size)
    assert cases and len({case.id for case in cases}) == len(cases)
    for case in cases:
        assert case.op in OPS.get(name, (name,))
        assert case.dtype in DTYPES and case.layout in LAYOUTS and case.mode in MODES
        assert suite.work(case).bytes > 0 and suite.work(case).flops > 0
        assert device == "cuda" or not case.graph


def test_unknown_suite_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="vae_loss"):
        get_suite("conv")


def test_cpu_cases_hold_the_promised_rows() -> None:
    wanted = {(shape, kind) for shape in ((128, 784), (256, 3, 64, 64)) for kind in ("bce", "bce_logits", "mse")}
    for mode in MODES:
        there = {(case.shape, case.option("kind")) for case in SUITE.cases("cpu", "full") if case.mode == mode}
        assert wanted <= there


def test_cuda_cases_cover_each_axis() -> None:
    cases = SUITE.cases("cuda", "full")
    assert {case.shape for case in cases} == {(128, 784), (1024, 3, 64, 64), (64, 3, 256, 256)}
    assert {case.dtype for case in cases} == {"bfloat16", "float32", "float16"}
    assert {case.layout for case in cases} == {"contiguous", "channels_last"}
    assert {case.option("g") == 1 for case in cases} == {True, False}
    assert any(case.graph for case in cases)


def test_work_counts_the_tensors_of_the_call() -> None:
    case = make_case((256, 3, 64, 64), "mse")
    elements, latents = 256 * 3 * 64 * 64, 256 * 128
    assert SUITE.work(case).bytes == 4 * (3 * elements + 4 * latents)
    other = make_case((256, 3, 64, 64), "mse", g=0.5)
    assert SUITE.work(other).bytes == 4 * (5 * elements + 4 * latents)
    forward = make_case((256, 3, 64, 64), "mse", dtype="bfloat16", mode="fwd")
    assert SUITE.work(forward).bytes == 2 * (2 * elements + 2 * latents)
    assert case.out_of_cache and elements > CACHE_RESIDENT


@pytest.mark.parametrize("kind", ["bce", "bce_logits", "l1"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_inputs_are_random_and_in_range(kind: str, layout: str) -> None:
    case = make_case((3, 2, 5, 4), kind, dtype="bfloat16", layout=layout)
    inputs = SUITE.inputs(case, "cpu", seed=1)
    assert {name for name, tensor in inputs.items() if tensor.requires_grad} == set(LEAVES)
    for name in ("recon", "target"):
        assert inputs[name].is_contiguous(memory_format=LAYOUTS[layout])
        assert inputs[name].dtype == torch.bfloat16 and inputs[name].unique().numel() > 10
    assert inputs["mu"].shape == inputs["logvar"].shape == (3, 128)
    assert (inputs["target"] >= 0).all() and (inputs["target"] <= 1).all()
    assert bool((inputs["recon"] < 0).any()) == (kind == "bce_logits")
    again, other = SUITE.inputs(case, "cpu", seed=1), SUITE.inputs(case, "cpu", seed=2)
    assert torch.equal(again["recon"], inputs["recon"]) and not torch.equal(other["recon"], inputs["recon"])


@pytest.mark.parametrize("name", sorted(SUITES))
def test_exactly_one_candidate_is_eager_and_one_is_published(name: str) -> None:
    suite = get_suite(name)
    for case in suite.cases("cpu", "tiny"):
        candidates = suite.candidates(case, "cpu", compiled=True)
        assert {candidate.name for candidate in candidates} >= {"eager", "compile", "pyaegpu:auto"}
        assert [candidate.name for candidate in candidates].count("eager") == 1
        assert [candidate.name for candidate in candidates if candidate.published] == ["pyaegpu:auto"]


def test_reference_agrees_with_a_formula_written_out() -> None:
    case = make_case((4, 6), "bce", g=0.5)
    inputs = SUITE.inputs(case, "cpu", seed=3)
    x, t, mu, logvar = (inputs[name].detach().double() for name in ("recon", "target", "mu", "logvar"))
    value, dx, dmu, dlogvar = SUITE.reference(case, inputs)
    kl = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum()
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, kl - (t * x.log() + (1 - t) * (1 - x).log()).sum())
    torch.testing.assert_close(dx, 0.5 * (x - t) / (x * (1 - x)))
    torch.testing.assert_close(dmu, 0.5 * mu)
    torch.testing.assert_close(dlogvar, 0.25 * (logvar.exp() - 1))


def test_float16_eager_is_finite_where_a_half_precision_sum_is_not() -> None:
    case = make_case((128, 784), "bce_logits", dtype="float16")
    inputs = SUITE.inputs(case, "cpu", seed=0)
    eager = next(c for c in SUITE.candidates(case, "cpu", compiled=False) if c.name == "eager")
    value, gradient, *_ = eager.make()(inputs)
    assert torch.isfinite(value) and gradient.dtype == torch.float16
    assert not torch.isfinite(step_of(stock_loss("bce_logits"), case)(inputs)[0])


@pytest.mark.parametrize(
    ("op", "mode", "accesses"),
    [
        ("reparameterize", "fwd", 3),
        ("reparameterize", "fwd+bwd", 6),
        ("reparameterize_kl", "fwd", 3),
        ("reparameterize_kl", "fwd+bwd", 8),
    ],
)
def test_work_of_a_sample(op: str, mode: str, accesses: int) -> None:
    case = reparameterize.make_case((64, 4, 64, 64), op, dtype="bfloat16", mode=mode)
    assert get_suite("reparameterize").work(case).bytes == 2 * accesses * 64 * 4 * 64 * 64


@pytest.mark.parametrize(("kind", "accesses"), [("gaussian", 2), ("masking", 4), ("salt_and_pepper", 4)])
def test_work_of_a_corruption(kind: str, accesses: int) -> None:
    for mode, moved in (("fwd", 2), ("fwd+bwd", accesses)):
        case = corrupt.make_case((1024, 784), kind, mode=mode)
        assert get_suite("corrupt").work(case).bytes == 4 * moved * 1024 * 784


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_random_suites_hold_the_promised_rows(device: str) -> None:
    samples, corruptions = (get_suite(name).cases(device, "full") for name in ("reparameterize", "corrupt"))
    for op in reparameterize.OPS:
        mine = [case for case in samples if case.op == op]
        assert {case.shape for case in mine} >= {(1024, 128), (64, 4, 64, 64), (4096, 4096)}
        assert {case.mode for case in mine} == set(MODES)
        assert any(case.graph and case.shape == (1024, 128) for case in mine) == (device == "cuda")
    for kind in corrupt.KINDS:
        mine = [case for case in corruptions if case.option("kind") == kind]
        assert {case.shape[0] for case in mine} == {1024, 256, 4096} and {case.mode for case in mine} == set(MODES)
    assert {case.dtype for case in (*samples, *corruptions)} == {"float32", "bfloat16"}


@pytest.mark.parametrize("name", ["reparameterize", "corrupt"])
def test_random_suites_ask_for_a_gradient_that_is_not_constant(name: str) -> None:
    suite = get_suite(name)
    for case in suite.cases("cpu", "tiny"):
        inputs, other = (suite.inputs(case, "cpu", seed) for seed in (1, 2))
        assert ("g" in inputs) == (case.mode == "fwd+bwd")
        assert all(tensor.unique().numel() > 10 for tensor in inputs.values())
        assert not any(torch.equal(inputs[key], other[key]) for key in inputs)
        assert {key for key, tensor in inputs.items() if tensor.requires_grad} == inputs.keys() - {"g"}


def test_a_reference_of_a_sample_agrees_with_a_formula_written_out() -> None:
    suite = get_suite("reparameterize")
    case = reparameterize.make_case((4, 6), "reparameterize_kl", dtype="bfloat16")
    inputs = suite.inputs(case, "cpu", seed=3)
    mu, logvar, g = (inputs[name].detach().double() for name in ("mu", "logvar", "g"))
    noise = reparameterize.given_noise(case, inputs["mu"])
    sigma = (0.5 * logvar).exp()
    z, kl, d_mu, d_logvar = suite.reference(case, inputs)
    assert noise.dtype == torch.bfloat16 and z.dtype == torch.float64
    torch.testing.assert_close(z, mu + sigma * noise.double())
    torch.testing.assert_close(kl, 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum())
    torch.testing.assert_close(d_mu, g + mu)
    torch.testing.assert_close(d_logvar, 0.5 * g * sigma * noise.double() + 0.5 * (logvar.exp() - 1))
