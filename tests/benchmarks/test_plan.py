"""Which cases a run takes, and in which order."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.case import MODES
from benchmarks.plan import Planned, plan
from benchmarks.registry import SUITES
from benchmarks.suites.conv_transpose_shapes import dcgan
from benchmarks.tiers import FIRST, in_tier

EVERY = (1, 1)


def ids(cases: list[Planned]) -> list[str]:
    return [case.id for _, case in cases]


def test_shards_deal_out_every_case_once() -> None:
    cases = plan(["vae_loss"], "cuda", "full", "all", "", EVERY)
    dealt = [case for which in (1, 2, 3) for case in plan(["vae_loss"], "cuda", "full", "all", "", (which, 3))]
    assert sorted(ids(dealt)) == sorted(ids(cases)) == sorted(c.id for c in SUITES["vae_loss"].cases("cuda", "full"))
    assert all("bce" in name for name in ids(plan(["vae_loss"], "cuda", "full", "all", "bce", EVERY)))


def test_suites_take_turns() -> None:
    """However many cases each has, half of them are in the first half."""
    cases = plan([*SUITES], "cuda", "full", "all", "", EVERY)
    total, half = (Counter(name for name, _ in some) for some in (cases, cases[: len(cases) // 2]))
    assert all(abs(half[name] - total[name] / 2) <= 1 for name in SUITES)
    for name in SUITES:
        own = [case for suite, case in cases if suite == name]
        assert own == SUITES[name].cases("cuda", "full")


def test_a_suite_without_a_case_is_left_out() -> None:
    assert {name for name, _ in plan([*SUITES], "cuda", "full", "all", "gaussian", EVERY)} == {"corrupt"}
    assert plan(["corrupt"], "cuda", "full", "all", "no such case", EVERY) == []


def test_the_tiers_are_a_third_and_the_rest() -> None:
    first, rest, cases = (plan([*SUITES], "cuda", "full", tier, "", EVERY) for tier in ("first", "rest", "all"))
    assert sorted(ids(first) + ids(rest)) == sorted(ids(cases)) and FIRST.keys() == SUITES.keys()
    assert len(first) <= 150


@pytest.mark.parametrize("name", SUITES)
def test_the_first_tier_has_every_op_and_kind(name: str) -> None:
    cases = SUITES[name].cases("cuda", "full")
    first = [case for case in cases if in_tier("first", name, case)]
    assert {case.op for case in first} == {case.op for case in cases} - {"conv_transpose1d", "conv_transpose3d"}
    for option in ("indices", "statistics", "g"):
        values = ({dict(case.options).get(option) for case in some} for some in (first, cases))
        assert next(values) == next(values)
    elementwise = name in ("vae_loss", "reparameterize")  # no layout matters to them
    assert {case.layout for case in first} == {case.layout for case in cases} or elementwise
    assert name in ("max_unpool", "nearest_unpool", "corrupt") or "float32" in {case.dtype for case in first}


def test_the_first_tier_has_every_layer_of_a_generator_at_both_batches() -> None:
    layers = {(layer.layer, batch) for layer in dcgan(64) for batch in (128, 1024)}
    cases = [
        case for case in SUITES["conv_transpose"].cases("cuda", "full") if in_tier("first", "conv_transpose", case)
    ]
    assert layers <= {(case.option("layer"), case.shape[0]) for case in cases if case.mode == "fwd+bwd"}
    assert {case.mode for case in cases} == set(MODES)
