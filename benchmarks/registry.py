"""The suites by name; a new family adds one import and one entry."""

from __future__ import annotations

from benchmarks.case import Suite
from benchmarks.suites.conv_transpose import ConvTransposeSuite
from benchmarks.suites.conv_transpose_loss import ConvTransposeLossSuite
from benchmarks.suites.corrupt import CorruptSuite
from benchmarks.suites.max_unpool import MaxUnpoolSuite, NearestUnpoolSuite
from benchmarks.suites.norm_act import NormActSuite
from benchmarks.suites.reparameterize import ReparameterizeSuite
from benchmarks.suites.vae_loss import VaeLossSuite

SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        VaeLossSuite(),
        ReparameterizeSuite(),
        CorruptSuite(),
        ConvTransposeSuite(),
        NormActSuite(),
        ConvTransposeLossSuite(),
        MaxUnpoolSuite(),
        NearestUnpoolSuite(),
    )
}


def get_suite(name: str) -> Suite:
    """The suite of that name; ValueError naming the known ones."""
    if name not in SUITES:
        raise ValueError(f"unknown suite {name!r}; known: {', '.join(sorted(SUITES))}")
    return SUITES[name]
