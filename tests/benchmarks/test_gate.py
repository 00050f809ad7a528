"""The gate refuses what is wrong, in any output and element, and lets through what is right."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from benchmarks import gate, timing
from benchmarks.case import Candidate, Case, Inputs, Step
from benchmarks.rows import failures
from benchmarks.runner import Runner, Settings
from benchmarks.suites.vae_loss import VaeLossSuite, make_case, step_of, stock_loss

CASE = make_case((8, 12), "mse")
FAST = Settings(rounds=2, samples=1, compiled=False)


@pytest.fixture(autouse=True)
def no_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "copy_bandwidth", lambda device, clock: 10.0)


def run(step: Step, *, role: str = "ours") -> dict[str, dict]:
    """The rows of eager and of one planted candidate, by name."""

    def candidates(case: Case) -> list[Candidate]:
        planted = Candidate("planted", role, lambda: step, published=True)  # type: ignore[arg-type]
        return [planted, Candidate("eager", "stock", lambda: step_of(stock_loss("mse"), case))]

    return {row["candidate"]: row for row in Runner(VaeLossSuite(), FAST, candidates).run(CASE)}


def right(inputs: Inputs) -> tuple[Tensor, ...]:
    return step_of(stock_loss("mse"), CASE)(inputs)


def wrong_value(inputs: Inputs) -> tuple[Tensor, ...]:
    value, *gradients = right(inputs)
    return (value * 1.001, *gradients)


def one_wrong_element(inputs: Inputs) -> tuple[Tensor, ...]:
    value, recon, *rest = right(inputs)
    recon.view(-1)[17] += 1e-3
    return (value, recon, *rest)


def not_finite(inputs: Inputs) -> tuple[Tensor, ...]:
    value, mu, *rest = right(inputs)
    return (value, mu * math.nan, *rest)


def wrong_shape(inputs: Inputs) -> tuple[Tensor, ...]:
    value, recon, *rest = right(inputs)
    return (value, recon.flatten(), *rest)


def output_missing(inputs: Inputs) -> tuple[Tensor, ...]:
    return right(inputs)[:-1]


def writes_to_its_input(inputs: Inputs) -> tuple[Tensor, ...]:
    outputs = right(inputs)
    inputs["target"][0, 0] = 0.123
    return outputs


WRONG = [wrong_value, one_wrong_element, not_finite, wrong_shape, output_missing, writes_to_its_input]


@pytest.mark.parametrize("step", WRONG, ids=lambda step: step.__name__)
def test_a_wrong_candidate_gets_no_speed_and_fails_the_run(step: Step) -> None:
    rows = run(step)
    assert rows["planted"]["status"] == "wrong" and rows["planted"]["reason"]
    assert not [key for key in rows["planted"] if key.endswith("_us") or key.startswith("vs_")]
    assert rows["eager"]["status"] == "ok"
    assert any("planted" in line for line in failures(rows.values()))


def test_a_candidate_that_raises_is_an_error_row() -> None:
    def broken(inputs: Inputs) -> tuple[Tensor, ...]:
        raise RuntimeError("no kernel for this card")

    row = run(broken)["planted"]
    assert row["status"] == "error" and "no kernel for this card" in row["reason"]
    assert failures([row])


def test_a_right_candidate_is_timed() -> None:
    row = run(right)["planted"]
    assert row["median_us"] > 0 and row["p20_us"] <= row["median_us"] <= row["p80_us"]
    assert row["vs_eager"]["low"] <= row["vs_eager"]["high"]


def test_an_informational_candidate_may_be_inexact_but_not_infinite() -> None:
    assert run(wrong_value, role="info")["planted"]["status"] == "ok"
    assert run(not_finite, role="info")["planted"]["status"] == "wrong"


def test_nothing_is_timed_when_eager_itself_is_not_finite() -> None:
    def candidates(case: Case) -> list[Candidate]:
        return [Candidate("eager", "stock", lambda: not_finite), Candidate("mine", "ours", lambda: right)]

    rows = Runner(VaeLossSuite(), FAST, candidates).run(CASE)
    assert all("median_us" not in row for row in rows)
    assert failures(rows)


def test_twice_stocks_error_is_allowed_and_no_more() -> None:
    reference = torch.rand(100, dtype=torch.float64) + 1
    stock = (reference * (1 + 1e-4)).float()
    for factor, ok in ((1.9e-4, True), (2.1e-4, False)):
        outputs = ((reference * (1 + factor)).float(),)
        assert gate.judge(outputs, (stock,), (reference,)).ok is ok


def test_the_floor_is_the_outputs_own_rounding() -> None:
    reference = torch.rand(100, dtype=torch.float64)
    exact = (reference.float(),)
    rounded = (reference.bfloat16(),)
    assert gate.judge(rounded, exact, (reference,)).ok
    assert not gate.judge((reference.bfloat16().float(),), exact, (reference,)).ok


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_long_sum_may_be_off_by_the_root_of_its_terms(dtype: torch.dtype) -> None:
    reference = torch.full((100,), 2.0, dtype=torch.float64)
    exact = (reference.to(dtype),)
    for share, ok in ((0.9, True), (1.1, False)):
        off = 2 * reference * share * 32 * torch.finfo(dtype).eps  # an error counts half: |ref| + mean |ref|
        outputs = ((reference + off).to(dtype),)
        assert gate.judge(outputs, exact, (reference,), terms=(1024,)).ok is ok
        assert not gate.judge(outputs, exact, (reference,)).ok
    wide = ((reference * 1.05).bfloat16(),)
    assert not gate.judge(wide, (reference.bfloat16(),), (reference,), terms=(1 << 20,)).ok


def test_error_of_exact_zeros_is_zero() -> None:
    zeros = torch.zeros(3)
    assert gate.error_of(zeros, zeros.double()) == 0
    assert gate.error_of(torch.empty(0), torch.empty(0).double()) == 0
    assert gate.error_of(zeros + 1, zeros.double()) == math.inf


@pytest.mark.parametrize(("noisy", "runs"), [([True, True, True], 3), ([True, False], 2), ([False], 1)])
def test_only_a_noisy_case_is_measured_again(noisy: list[bool], runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    left = list(noisy)
    runner = Runner(VaeLossSuite(), Settings(retries=2))
    monkeypatch.setattr(runner, "_gate", lambda case: ([(Candidate("eager", "stock", lambda: None), None)], []))
    monkeypatch.setattr(runner, "_time", lambda case, ready: [{"noisy": left.pop(0)}])
    assert runner.run(CASE) == [{"noisy": noisy[-1]}]
    assert len(left) == len(noisy) - runs
