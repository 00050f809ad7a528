"""What can be said of a random op's outputs without knowing its noise."""

from __future__ import annotations

import math

from torch import Tensor, finfo

STANDARD_ERRORS = 5.0
TAILS = 25.0  # over the count: the tails of small samples (Laurent and Massart 2000, lemma 1, at about e^-12.5)
LARGEST = 9.0  # no generator of 53 bits or fewer gives a larger normal
ROUNDINGS = 8.0  # stock rounds after every one of its operations


def noise_fault(first: Tensor, second: Tensor, *, normal: bool) -> str:
    """Why float64 noise of mean 0 and variance 1 from two calls cannot be right, or "".

    Mean, correlation of neighbours and of the two calls must lie within five standard errors of 0, and of normal noise
    the variance of 1.
    """
    count = first.numel()
    one, two = first.flatten(), second.flatten()
    figures = {
        "the noise has mean": (float(one.mean()), 1.0),
        "neighbours have a correlation of": (float((one[1:] * one[:-1]).sum()) / count, 1.0),
        "two calls have a correlation of": (float((one * two).mean()), 1.0),
    }
    if normal:
        figures["the noise has variance - 1 ="] = (float((one * one).mean()) - 1, math.sqrt(2))
    for what, (figure, deviation) in figures.items():
        allowed = STANDARD_ERRORS * deviation / math.sqrt(count) + TAILS / count
        if not abs(figure) <= allowed:  # so that NaN fails
            return f"{what} {figure:.3g}, allowed {allowed:.3g}"
    largest = max(float(one.abs().max()), float(two.abs().max()))
    return f"noise of size {largest:.3g} is not normal" if normal and not largest <= LARGEST else ""


def elements_fault(name: str, output: Tensor, expected: Tensor, size: Tensor) -> str:
    """Which share of the elements is farther from the float64 `expected` than a few roundings of `size`, or ""."""
    if output.shape != expected.shape:
        return f"{name} has shape {tuple(output.shape)}, expected {tuple(expected.shape)}"
    near = (output.double() - expected).abs() <= ROUNDINGS * finfo(output.dtype).eps * size
    wrong = near.numel() - int(near.sum())
    return f"{name}: {wrong} of {near.numel()} elements are wrong" if wrong else ""
