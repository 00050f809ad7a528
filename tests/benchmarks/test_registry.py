"""The cases are what they say: unique, complete, and their inputs and work fit the formulas."""

from __future__ import annotations

import pytest
import torch

from benchmarks.case import DTYPES, LAYOUTS, MODES
from benchmarks.registry import SUITES, get_suite
from benchmarks.suites.vae_loss import CACHE_RESIDENT, LEAVES, VaeLossSuite, make_case, step_of, stock_loss

SUITE = VaeLossSuite()
EVERY = [(device, size) for device in ("cpu", "cuda") for size in ("full", "tiny")]


@pytest.mark.parametrize("name", sorted(SUITES))
@pytest.mark.parametrize(("device", "size"), EVERY)
def test_cases_are_unique_and_well_formed(name: str, device: str, size: str) -> None:
    suite = get_suite(name)
    cases = suite.cases(device, size)
    assert cases and len({case.id for case in cases}) == len(cases)
    for case in cases:
        assert case.op == suite.name
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


def test_exactly_one_candidate_is_eager_and_one_is_published() -> None:
    for case in SUITE.cases("cpu", "tiny"):
        candidates = SUITE.candidates(case, "cpu", compiled=True)
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
