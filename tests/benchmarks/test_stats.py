"""Ratios and intervals on numbers whose answer is known."""

from __future__ import annotations

import math
import random

import pytest

from benchmarks import stats


def rounds(median: float, spread: float, *, seed: int, drift: float = 0.0) -> list[list[float]]:
    draw = random.Random(seed)
    return [[median * (1 + drift * r) * (1 + draw.uniform(-spread, spread)) for _ in range(9)] for r in range(9)]


def test_summary_of_all_rounds() -> None:
    summary = stats.summarize([[1.0, 2.0], [3.0, 4.0, 5.0]])
    assert (summary.p20, summary.median, summary.p80) == pytest.approx((1.8, 3.0, 4.2))


def test_a_speed_ratio_is_found_with_an_interval_around_it() -> None:
    ratio = stats.speed_ratio(rounds(300, 0.05, seed=1), rounds(100, 0.05, seed=2))
    assert ratio.value == pytest.approx(3, rel=0.02)
    assert ratio.low < 3 < ratio.high and ratio.high - ratio.low < 0.3


def test_a_drift_of_the_machine_cancels() -> None:
    ratio = stats.speed_ratio(rounds(200, 0.01, seed=1, drift=0.5), rounds(100, 0.01, seed=2, drift=0.5))
    assert ratio.value == pytest.approx(2, rel=0.02) and ratio.high - ratio.low < 0.1


def test_a_constant_ratio_has_no_interval() -> None:
    ratio = stats.speed_ratio([[2.0, 2.0]] * 5, [[4.0, 4.0]] * 5)
    assert (ratio.value, ratio.low, ratio.high) == (0.5, 0.5, 0.5)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(60):
        old, new = rounds(100, 0.2, seed=2 * seed), rounds(100, 0.2, seed=2 * seed + 1)
        ratio = stats.speed_ratio(old, new, resamples=300)
        covered += ratio.low <= 1 <= ratio.high
    assert covered >= 52


def test_the_same_samples_give_the_same_interval() -> None:
    arguments = rounds(10, 0.3, seed=1), rounds(9, 0.3, seed=2)
    assert stats.speed_ratio(*arguments) == stats.speed_ratio(*arguments)


@pytest.mark.parametrize("candidate", [[], [[1.0]], [[1.0]] * 3])
def test_unequal_rounds_are_refused(candidate: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="rounds"):
        stats.speed_ratio([[1.0]] * 2, candidate)


def test_a_row_is_too_slow_only_by_its_upper_bound() -> None:
    assert stats.too_slow(stats.Ratio(0.9, 0.85, 0.96))
    assert not stats.too_slow(stats.Ratio(0.9, 0.85, 0.97))


def test_noise_is_seen_on_either_side() -> None:
    assert stats.noisy(stats.Ratio(0.96, 0.9, 1)) and stats.noisy(stats.Ratio(1.04, 1, 1.1))
    assert stats.noisy(stats.Ratio(1.0, 0.8, 1.05)) and stats.noisy(stats.Ratio(1.0, 0.95, 1.2))
    assert not stats.noisy(stats.Ratio(1.01, 0.9, 1.1))


def test_geometric_mean() -> None:
    assert stats.geometric_mean([1, 4]) == pytest.approx(2)
    assert math.isnan(stats.geometric_mean([]))
