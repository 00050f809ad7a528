"""The gate of ops that draw noise refuses wrong noise and wrong results of right noise, and lets through the rest."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks import timing
from benchmarks.case import Candidate, Case, CheckedSuite, Inputs, Outputs, Step
from benchmarks.draws import elements_fault, noise_fault
from benchmarks.registry import SUITES, get_suite
from benchmarks.rows import failures
from benchmarks.runner import Runner, Settings
from benchmarks.suites import corrupt, reparameterize

SAMPLE = reparameterize.make_case((128, 131), "reparameterize_kl")
FAST = Settings(rounds=2, samples=1, compiled=False)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "copy_bandwidth", lambda device, clock: 10.0)
    monkeypatch.setattr(timing, "CPU_SAMPLE_US", 100.0)
    monkeypatch.setattr(timing.gc, "collect", lambda: 0)


def run(case: Case, step: Step, given: Step | None = None) -> dict[str, dict]:
    """The rows of eager and of one planted candidate, by name."""
    suite = get_suite(case.op.removesuffix("_kl"))

    def candidates(case: Case) -> list[Candidate]:
        eager = next(one for one in suite.candidates(case, "cpu", compiled=False) if one.name == "eager")
        planted = Candidate(
            "planted", "ours", lambda: step, published=True, given=None if given is None else lambda: given
        )
        return [planted, eager]

    return {row["candidate"]: row for row in Runner(suite, FAST, candidates).run(case)}


def refused(case: Case, step: Step, given: Step | None = None) -> str:
    """The reason, after checks that there is no speed and that the run fails."""
    rows = run(case, step, given)
    assert rows["planted"]["status"] == "wrong", rows["planted"]
    assert not [key for key in rows["planted"] if key.endswith("_us") or key.startswith("vs_")]
    assert rows["eager"]["status"] == "ok"
    assert any("planted" in line for line in failures(rows.values()))
    return rows["planted"]["reason"]


def sampling(inputs: Inputs, eps: Tensor, *, backward_eps: Tensor | None = None) -> Outputs:
    """z, KL and gradients written out, the logvar's gradient from `backward_eps`."""
    mu, logvar, g = (tensor.detach() for tensor in inputs.values())
    scaled, again = ((0.5 * logvar).exp() * noise for noise in (eps, eps if backward_eps is None else backward_eps))
    kl = 0.5 * (logvar.exp() - 1 - logvar + mu * mu).sum()
    return mu + scaled, kl, g + mu, 0.5 * g * again + 0.5 * torch.expm1(logvar)


def normal(inputs: Inputs) -> Tensor:
    return torch.randn_like(inputs["mu"])


def right(inputs: Inputs) -> Outputs:
    return sampling(inputs, normal(inputs))


def right_given(inputs: Inputs) -> Outputs:
    return sampling(inputs, reparameterize.given_noise(SAMPLE, inputs["mu"]))


def same_noise_again(inputs: Inputs) -> Outputs:
    torch.manual_seed(1)
    return right(inputs)


def wide_noise(inputs: Inputs) -> Outputs:
    return sampling(inputs, 1.1 * normal(inputs))


def shifted_noise(inputs: Inputs) -> Outputs:
    return sampling(inputs, normal(inputs) + 0.1)


def repeated_noise(inputs: Inputs) -> Outputs:
    return sampling(inputs, normal(inputs).flatten()[::2].repeat_interleave(2).view(SAMPLE.shape))


def one_huge_normal(inputs: Inputs) -> Outputs:
    eps = normal(inputs)
    eps[3, 5] = 12.0
    return sampling(inputs, eps)


def infinite_noise(inputs: Inputs) -> Outputs:
    eps = normal(inputs)
    eps[0, 0] = torch.inf
    return sampling(inputs, eps)


def gradient_of_other_noise(inputs: Inputs) -> Outputs:
    return sampling(inputs, normal(inputs), backward_eps=normal(inputs))


def one_gradient_of_other_noise(inputs: Inputs) -> Outputs:
    eps = normal(inputs)
    other = eps.clone()
    other[-1, -1] += 0.01
    return sampling(inputs, eps, backward_eps=other)


def wrong_divergence(inputs: Inputs) -> Outputs:
    z, kl, *gradients = right(inputs)
    return z, kl * 1.0001, *gradients


def wrong_mu_gradient(inputs: Inputs) -> Outputs:
    z, kl, d_mu, d_logvar = right(inputs)
    return z, kl, d_mu * 1.0001, d_logvar


def wrong_shape(inputs: Inputs) -> Outputs:
    z, *rest = right(inputs)
    return z.flatten(), *rest


def wrong_gradient_shape(inputs: Inputs) -> Outputs:
    *rest, d_logvar = right(inputs)
    return *rest, d_logvar[:1]


def output_missing(inputs: Inputs) -> Outputs:
    return right(inputs)[:-1]


def writes_to_its_input(inputs: Inputs) -> Outputs:
    outputs = right(inputs)
    inputs["g"][0, 0] = 0.125
    return outputs


WRONG = {
    same_noise_again: "two calls",
    wide_noise: "variance",
    shifted_noise: "mean",
    repeated_noise: "neighbours",
    one_huge_normal: "size 12",
    infinite_noise: "mean",
    gradient_of_other_noise: "logvar's gradient",
    one_gradient_of_other_noise: "logvar's gradient: 1 of",
    wrong_divergence: "divergence",
    wrong_mu_gradient: "mu's gradient",
    wrong_shape: "shape",
    wrong_gradient_shape: "shape",
    output_missing: "outputs",
    writes_to_its_input: "wrote to its inputs: g",
}


@pytest.mark.parametrize(("step", "reason"), WRONG.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_wrong_sampler_gets_no_speed(step: Step, reason: str) -> None:
    assert reason in refused(SAMPLE, step, right_given)


def test_a_sampler_that_is_wrong_with_given_noise_gets_no_speed() -> None:
    def planted(inputs: Inputs) -> Outputs:
        z, *rest = right_given(inputs)
        z[7, 7] += 1e-4
        return z, *rest

    assert "output 0: error" in refused(SAMPLE, right, planted)


@pytest.mark.parametrize("given", [right_given, None])
def test_a_right_sampler_is_timed(given: Step | None) -> None:
    assert run(SAMPLE, right, given)["planted"]["median_us"] > 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("op", reparameterize.OPS)
def test_every_sampler_here_passes(op: str, dtype: str) -> None:
    suite = get_suite("reparameterize")
    rows = Runner(suite, FAST).run(reparameterize.make_case((64, 3, 5, 7), op, dtype=dtype, layout="channels_last"))
    assert {row["status"] for row in rows} <= {"ok", "slow", "loss"}, rows


def corruption(kind: str) -> Case:
    return corrupt.make_case((128, 131), kind)


def corrupting(kind: str, inputs: Inputs, amount: float | None = None) -> Outputs:
    """The corruption written out."""
    amount = corrupt.AMOUNTS[kind] if amount is None else amount
    x, g = (tensor.detach() for tensor in inputs.values())
    if kind == "gaussian":
        return x + amount * torch.randn_like(x), g
    noise = torch.rand_like(x)
    low, high = noise < (amount if kind == "masking" else amount / 2), noise < amount
    return torch.where(low, 0.0, torch.where(high, 1.0, x)), torch.where(high, 0.0, g)


@pytest.mark.parametrize("kind", corrupt.KINDS)
def test_a_right_corruption_is_timed(kind: str) -> None:
    assert run(corruption(kind), lambda inputs: corrupting(kind, inputs))["planted"]["median_us"] > 0


@pytest.mark.parametrize("kind", corrupt.KINDS)
def test_a_wrong_amount_gets_no_speed(kind: str) -> None:
    amount = 1.4 * corrupt.AMOUNTS[kind]
    assert "noise has" in refused(corruption(kind), lambda inputs: corrupting(kind, inputs, amount))


@pytest.mark.parametrize("kind", corrupt.KINDS)
def test_the_same_corruption_at_each_call_gets_no_speed(kind: str) -> None:
    def step(inputs: Inputs) -> Outputs:
        torch.manual_seed(1)
        return corrupting(kind, inputs)

    assert "two calls" in refused(corruption(kind), step)


@pytest.mark.parametrize("kind", corrupt.KINDS)
def test_one_wrong_gradient_of_a_corruption_gets_no_speed(kind: str) -> None:
    def step(inputs: Inputs) -> Outputs:
        output, gradient = corrupting(kind, inputs)
        gradient = gradient.clone()
        gradient[5, 5] = 2 * inputs["g"][5, 5]
        return output, gradient

    assert "the gradient: 1 of" in refused(corruption(kind), step)


@pytest.mark.parametrize("kind", ["masking", "salt_and_pepper"])
def test_a_gradient_mask_of_another_draw_gets_no_speed(kind: str) -> None:
    def step(inputs: Inputs) -> Outputs:
        return corrupting(kind, inputs)[0], corrupting(kind, inputs)[1]

    assert "the gradient" in refused(corruption(kind), step)


@pytest.mark.parametrize("kind", ["masking", "salt_and_pepper"])
def test_a_kept_element_that_changed_gets_no_speed(kind: str) -> None:
    def step(inputs: Inputs) -> Outputs:
        output, gradient = corrupting(kind, inputs)
        kept = (output > 0) & (output < 1)
        output[kept] = output[kept].nextafter(torch.ones(()))
        return output, gradient

    assert "neither kept nor replaced" in refused(corruption(kind), step)


def test_salt_without_pepper_gets_no_speed() -> None:
    def step(inputs: Inputs) -> Outputs:
        output, gradient = corrupting("salt_and_pepper", inputs)
        return torch.where(gradient == 0, 1.0, output), gradient

    assert "places of 0" in refused(corruption("salt_and_pepper"), step)


def test_outputs_of_another_shape_get_no_speed() -> None:
    case = corruption("masking")
    assert "shape" in refused(case, lambda inputs: tuple(each.flatten() for each in corrupting("masking", inputs)))
    assert "2 outputs" in refused(case, lambda inputs: corrupting("masking", inputs)[:1])


@pytest.mark.parametrize("kind", corrupt.KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_corruption_here_passes(kind: str, dtype: str) -> None:
    rows = Runner(get_suite("corrupt"), FAST).run(corrupt.make_case((64, 3, 5, 7), kind, dtype=dtype))
    assert {row["status"] for row in rows} <= {"ok", "slow", "loss"}, rows


def test_the_suites_that_draw_noise_or_give_integers_check_themselves() -> None:
    checked = {name for name, suite in SUITES.items() if isinstance(suite, CheckedSuite)}
    assert checked == {"reparameterize", "corrupt", "max_unpool"}


def test_small_samples_of_right_noise_are_not_refused() -> None:
    torch.manual_seed(0)
    for count in (1, 2, 3, 8, 96):
        for _ in range(200):
            first, second = torch.randn(2, count, dtype=torch.float64)
            assert not noise_fault(first, second, normal=True)


def test_the_allowance_shrinks_with_the_count() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, 1 << 20, dtype=torch.float64)
    assert not noise_fault(first, second, normal=True)
    assert "mean" in noise_fault(first + 0.01, second, normal=True)
    assert "variance" in noise_fault(first * 1.01, second, normal=True)


def test_elements_are_held_to_the_rounding_of_their_dtype() -> None:
    expected = torch.rand(50, dtype=torch.float64) + 1
    assert not elements_fault("x", expected.bfloat16(), expected, expected)
    assert "x: 50 of 50" in elements_fault("x", (expected * 1.0001).float(), expected, expected)
    assert "1 of 50" in elements_fault(
        "x", expected.float().index_fill(0, torch.tensor([3]), torch.nan), expected, expected
    )
