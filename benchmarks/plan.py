"""Which cases a run takes, in which order."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.case import Case
from benchmarks.registry import SUITES
from benchmarks.tiers import in_tier

Planned = tuple[str, Case]  # a suite's name and one of its cases


def plan(suites: Sequence[str], device: str, size: str, tier: str, only: str, shard: tuple[int, int]) -> list[Planned]:
    """The cases of the suites that are in the tier and whose id holds `only`, dealt out to `shard` = (which, of how
    many), from 1. Suites take turns, each in proportion to its cases, so that all of them are begun when time ends."""
    places = []
    for order, name in enumerate(suites):
        cases = [case for case in SUITES[name].cases(device, size) if only in case.id and in_tier(tier, name, case)]
        places += [((i + 1) / len(cases), order, case) for i, case in enumerate(cases)]
    places.sort(key=lambda place: place[:2])
    which, count = shard
    return [(suites[order], case) for _, order, case in places][which - 1 :: count]
