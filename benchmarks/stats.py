"""Summaries of timing samples: medians, the speed ratio of two candidates and its interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

Rounds = Sequence[Sequence[float]]  # samples of one candidate, by round

SLOWEST = 0.97  # a published row may not be slower than this share of eager's speed
# An A/A control whose ratio or interval leaves these bounds says that the machine was not quiet.
NOISE, NOISE_INTERVAL = (0.97, 1.03), (0.9, 1.1)


@dataclass(frozen=True)
class Summary:
    """Median with the 20th and 80th percentile, all samples together."""

    median: float
    p20: float
    p80: float


@dataclass(frozen=True)
class Ratio:
    """Speed ratio (above 1: faster than the baseline) with its bootstrap 95 % interval."""

    value: float
    low: float
    high: float


def summarize(rounds: Rounds) -> Summary:
    """Median and percentiles over every round's samples."""
    samples = np.concatenate([np.asarray(samples, dtype=float) for samples in rounds])
    p20, median, p80 = np.percentile(samples, (20, 50, 80))
    return Summary(float(median), float(p20), float(p80))


def speed_ratio(baseline: Rounds, candidate: Rounds, *, resamples: int = 2000, seed: int = 0) -> Ratio:
    """Median over rounds of (baseline's median / candidate's median).

    Rounds are compared pairwise, so that a drift of the machine cancels. The bootstrap draws rounds with
    replacement and, within each drawn round, samples of both sides.
    """
    if len(baseline) != len(candidate) or not baseline:
        raise ValueError(f"need the same rounds on both sides, got {len(baseline)} and {len(candidate)}")
    generator = np.random.default_rng(seed)
    drawn = np.stack(
        [
            _medians(old, resamples, generator) / _medians(new, resamples, generator)
            for old, new in zip(baseline, candidate, strict=True)
        ]
    )
    rounds = generator.integers(len(drawn), size=(len(drawn), resamples))
    medians = np.median(np.take_along_axis(drawn, rounds, axis=0), axis=0)
    exact = [float(np.median(old) / np.median(new)) for old, new in zip(baseline, candidate, strict=True)]
    low, high = np.percentile(medians, (2.5, 97.5))
    return Ratio(float(np.median(exact)), float(low), float(high))


def too_slow(ratio: Ratio) -> bool:
    """Whether even the upper bound of the ratio is under the limit."""
    return ratio.high < SLOWEST


def noisy(control: Ratio) -> bool:
    """Whether the A/A control, which should be 1, is not, or is not known well enough."""
    quiet = NOISE[0] <= control.value <= NOISE[1]
    return not (quiet and NOISE_INTERVAL[0] <= control.low and control.high <= NOISE_INTERVAL[1])


def geometric_mean(values: Iterable[float]) -> float:
    """exp of the mean logarithm; NaN of nothing."""
    logs = [math.log(value) for value in values]
    return math.exp(math.fsum(logs) / len(logs)) if logs else math.nan


def _medians(samples: Sequence[float], resamples: int, generator: np.random.Generator) -> np.ndarray:
    values = np.asarray(samples, dtype=float)
    picks = generator.integers(len(values), size=(len(values), resamples))
    return np.median(values[picks], axis=0)
