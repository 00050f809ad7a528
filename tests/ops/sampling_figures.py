"""Statistics of the drawn noise, each with the limit that it must keep; run it to see a table."""

import itertools
import sys

import torch

import pyaegpu
from pyaegpu import backends

SIDE = 2048
LAGS = range(1, 9)
# Standard errors that a figure may be off: with a few hundred figures, a sound generator fails once in a thousand runs.
ERRORS = 5.0
# Quantile of the Kolmogorov distribution at 0.999.
KOLMOGOROV = 1.95
AMOUNTS = (0.003, 0.6)


def moments(x):
    """Of numbers that should be standard normals."""
    n, mean, deviation = x.numel(), x.mean(), x.std()
    standard = (x - mean) / deviation
    square = standard * standard
    yield "mean", mean, n**-0.5
    yield "variance - 1", x.var() - 1, (2 / n) ** 0.5
    yield "skewness", (square * standard).mean(), (6 / n) ** 0.5
    yield "kurtosis - 3", (square * square).mean() - 3, (24 / n) ** 0.5
    yield "share beyond 4", (x.abs() > 4).double().mean() - 6.334e-5, (6.334e-5 / n) ** 0.5


def distance(x):
    """Kolmogorov and Smirnov's, from the standard normal."""
    below = torch.special.ndtr(x.sort().values)
    steps = torch.arange(x.numel() + 1, dtype=torch.float64) / x.numel()
    worst = torch.maximum((below - steps[:-1]).abs().max(), (below - steps[1:]).abs().max())
    yield "Kolmogorov-Smirnov", worst, KOLMOGOROV * x.numel() ** -0.5 / ERRORS


def autocorrelations(name, values):
    """Of the numbers at a distance."""
    values = (values - values.mean()) / values.std()
    for lag in LAGS:
        yield f"{name} {lag}", values[lag:] @ values[:-lag] / len(values), len(values) ** -0.5


def correlations(rows):
    """The largest between any two rows, which are samples or latents."""
    found = torch.corrcoef(rows) - torch.eye(len(rows), dtype=rows.dtype)
    yield f"between {len(rows)} rows", found.abs().max(), rows.shape[1] ** -0.5


def normals(draw):
    """Figures of ``draw()``, a square of standard normals, and of a second one."""
    first, second = (draw().detach().cpu().double() for _ in range(2))
    x, y = first.reshape(-1), second.reshape(-1)
    # The squares share a radius where the pairs go wrong.
    yield from itertools.chain(
        moments(x), distance(x), autocorrelations("lag", x), autocorrelations("squares' lag", x * x)
    )
    yield from itertools.chain(correlations(first[:64]), correlations(first[:, :64].t()))
    yield "between two calls", torch.corrcoef(torch.stack([x, y]))[0, 1], x.numel() ** -0.5


def hits(hit, amount):
    """Figures of a square of flags, each set with probability ``amount``."""
    hit = hit.cpu().double().reshape(-1)
    yield f"share hit - {amount}", hit.mean() - amount, (amount * (1 - amount) / hit.numel()) ** 0.5
    yield from autocorrelations(f"lag at {amount}", hit)


def figures(device="cpu"):
    """(what, figure, limit) of everything drawn on ``device``: each figure lies within its limit of 0."""
    zeros = torch.zeros(SIDE, SIDE, device=device)
    yield from _rows("reparameterize", normals(lambda: pyaegpu.reparameterize(zeros, zeros)))
    if backends.selected() == "cuda":
        return  # It has no kernels of corrupt.
    yield from _rows("corrupt gaussian", normals(lambda: pyaegpu.corrupt(zeros, "gaussian", 1.0)))
    for amount in AMOUNTS:
        yield from _rows("masking", hits(pyaegpu.corrupt(zeros + 1, "masking", amount) == 0, amount))
        spoiled = pyaegpu.corrupt(zeros + 0.5, "salt_and_pepper", amount)
        yield from _rows("salt and pepper", hits(spoiled != 0.5, amount))
        salt = (spoiled[spoiled != 0.5] == 1).double()
        share = (f"salt - pepper at {amount}", 2 * salt.mean() - 1, salt.numel() ** -0.5)
        yield from _rows("salt and pepper", [share])


def _rows(source, rows):
    for what, figure, error in rows:
        yield f"{source}: {what}", float(figure), ERRORS * error


def main():
    torch.manual_seed(0)
    for what, figure, limit in figures(*sys.argv[1:]):
        print(f"{what:45} {figure:11.2e}  limit {limit:9.2e}{'' if abs(figure) <= limit else '  EXCEEDED'}")


if __name__ == "__main__":
    main()
