"""The poolings are those that were promised, every value and index of theirs is held, and a row names its bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import ours, saved_bytes, timing
from benchmarks.case import LAYOUTS, MODES, Candidate, Case, Inputs, Outputs, Suite
from benchmarks.rows import failures
from benchmarks.runner import Runner, Settings
from benchmarks.suites.max_unpool import (
    MaxUnpoolSuite,
    NearestUnpoolSuite,
    encoded,
    step_of,
    stock_function,
    stock_upsampling,
)
from benchmarks.suites.max_unpool_shapes import (
    CODES,
    INDEX_BYTES,
    NAILS,
    NEAREST,
    OPS,
    OVERLAPPING,
    PAIR,
    PLANE,
    POOL,
    SEGNET,
    UNPOOL,
    WINDOW_OPS,
    Window,
    make_case,
    small_cases,
    small_window_cases,
    window_of,
)
from pyaegpu import backend

SUITE, WINDOWS = MaxUnpoolSuite(), NearestUnpoolSuite()
FAST = Settings(rounds=2, samples=1, compiled=False)
SMALL = (3, 5, 6, 8)
EVERY = [*small_cases(), *small_window_cases()]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "copy_bandwidth", lambda device, clock: 10.0)
    monkeypatch.setattr(timing, "CPU_SAMPLE_US", 100.0)


def suite_of(case: Case) -> Suite:
    return SUITE if case.op in OPS else WINDOWS


def candidates_of(case: Case) -> dict[str, Candidate]:
    return {one.name: one for one in suite_of(case).candidates(case, "cpu", compiled=False)}


def row_of(case: Case, change: Callable[[Outputs], Outputs]) -> dict:
    """The row of eager with its outputs changed, beside eager."""
    eager = candidates_of(case)["eager"]

    def make() -> Callable[[Inputs], Outputs]:
        step = eager.make()
        return lambda inputs: change(step(inputs))

    def given() -> Callable[[Inputs], Outputs]:
        return lambda inputs: tuple(each for each in make()(inputs) if each.is_floating_point())

    planted = Candidate("planted", "ours", make, given=given, published=True)
    rows = Runner(suite_of(case), FAST, lambda case: [planted, eager]).run(case)
    return next(row for row in rows if row["candidate"] == "planted")


def windows_of(case: Case) -> Iterator[tuple[tuple[int, ...], list[tuple[int, int, int]]]]:
    """Each pooled place with what its window holds inside the image: code, row and column."""
    window = window_of(case)
    for place in torch.ones(window.pooled(case.shape)).nonzero().tolist():
        y, x = (each * window.stride - window.padding for each in place[2:])
        cells = [(i * window.kernel + j, y + i, x + j) for i in range(window.kernel) for j in range(window.kernel)]
        yield tuple(place), [cell for cell in cells if 0 <= cell[1] < case.shape[2] and 0 <= cell[2] < case.shape[3]]


@pytest.mark.parametrize("case", EVERY, ids=lambda case: case.id)
def test_eager_and_the_reference_agree_and_the_shapes_fit(case: Case) -> None:
    suite = suite_of(case)
    inputs = suite.inputs(case, "cpu", seed=0)
    pooled = window_of(case).pooled(case.shape)
    outputs = suite.reference(case, inputs)
    assert inputs["input"].shape == (case.shape if case.op in (POOL, PAIR) else pooled)
    assert outputs[0].shape == (pooled if case.op == POOL else case.shape)
    assert len(outputs) == MODES.index(case.mode) + 1 and all(output.dtype == torch.float64 for output in outputs)
    eager = candidates_of(case)["eager"].make()(inputs)
    for output, expected in zip(eager, outputs, strict=False):
        torch.testing.assert_close(output.double(), expected, rtol=1e-6, atol=1e-6)
    assert len(eager) == len(outputs) + (case.op == POOL)


@pytest.mark.parametrize("op", [POOL, PAIR])
@pytest.mark.parametrize("window", [Window(2, 2), OVERLAPPING, Window(2, 3, 1)])
def test_a_reference_agrees_with_loops(op: str, window: Window) -> None:
    case = make_case(op, (2, 3, 7, 5), window=window)
    inputs = SUITE.inputs(case, "cpu", seed=3)
    x, g = (inputs[name].detach().double() for name in ("input", "g"))
    result, gradient = SUITE.reference(case, inputs)
    expected, d_input = torch.zeros_like(result), torch.zeros_like(x)
    for place, cells in windows_of(case):
        _, row, column = max(cells, key=lambda cell: x[(*place[:2], *cell[1:])])
        where = (*place[:2], row, column)
        expected[place if op == POOL else where] = x[where]
        d_input[where] += g[place if op == POOL else where]
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(gradient, d_input)


def test_codes_are_positions_in_the_windows() -> None:
    for window in (Window(2, 2), OVERLAPPING, Window(3, 3), Window(2, 3, 1)):
        case = make_case(UNPOOL, (2, 3, 8, 7), window=window)
        inputs = SUITE.inputs(case, "cpu", seed=1)
        for place, cells in windows_of(case):
            ((row, column),) = [cell[1:] for cell in cells if cell[0] == inputs["codes"][place]]
            assert inputs["indices"][place] == row * 7 + column
        assert torch.equal(encoded(inputs["indices"], window, case.shape), inputs["codes"])


def test_the_upsamplers_repeat_a_value_or_leave_it_alone() -> None:
    for op, expected in ((NEAREST, torch.ones(3, 3)), (NAILS, F.pad(torch.ones(1, 1), (0, 2, 0, 2)))):
        case = make_case(op, (2, 5, 9, 3), window=Window(3, 3))
        inputs = WINDOWS.inputs(case, "cpu", seed=1)
        result, gradient = WINDOWS.reference(case, inputs)
        x, g = (inputs[name].detach().double() for name in ("input", "g"))
        torch.testing.assert_close(result, torch.kron(x, expected.double().expand(1, 1, 3, 3)))
        blocks = g.unfold(2, 3, 3).unfold(3, 3, 3)
        torch.testing.assert_close(gradient, (blocks * expected).sum((-1, -2)))


def test_the_rows_that_were_promised_are_there() -> None:
    cpu, cuda = (SUITE.cases(device, "full") for device in ("cpu", "cuda"))
    assert len(cpu) + len(WINDOWS.cases("cpu", "full")) <= 50
    for cases in (cpu, cuda):
        halving = [case for case in cases if window_of(case) == Window(2, 2)]
        there = {(case.op, case.option("indices"), case.layout, case.mode) for case in halving if case.shape[1] == 64}
        kinds = [(op, indices, layout) for op in (POOL, UNPOOL) for indices in INDEX_BYTES for layout in LAYOUTS]
        assert there >= {(*kind, mode) for kind in kinds for mode in MODES}
        assert there >= {(PAIR, indices, layout, "fwd+bwd") for indices in INDEX_BYTES for layout in LAYOUTS}
        paired = {(case.shape[1:], case.layout) for case in halving if case.op == PAIR}
        assert paired >= {(layer, layout) for layer in SEGNET for layout in LAYOUTS}
        assert {case.op for case in cases if window_of(case) == OVERLAPPING} >= {POOL, PAIR}
    trained = {(case.shape, case.op) for case in cuda if case.dtype == "bfloat16" and case.mode == "fwd+bwd"}
    assert trained >= {((batch, *layer), op) for batch in (2, 16) for layer in SEGNET for op in OPS}
    assert {case.dtype for case in cuda} == {"bfloat16", "float32"} and any(case.graph for case in cuda)
    for device in ("cpu", "cuda"):
        cases = WINDOWS.cases(device, "full")
        assert {(case.op, case.layout, case.mode) for case in cases} == {
            (op, layout, mode) for op in WINDOW_OPS for layout in LAYOUTS for mode in MODES
        }


@pytest.mark.parametrize(
    ("op", "indices", "mode", "least", "of_stock"),
    [
        (UNPOOL, CODES, "fwd", 11, 20),
        (UNPOOL, PLANE, "fwd", 18, 20),
        (UNPOOL, CODES, "fwd+bwd", 22, 38),
        (POOL, CODES, "fwd", 11, 18),
        (POOL, PLANE, "fwd+bwd", 36, 36),
        (PAIR, CODES, "fwd+bwd", 44, 74),
        (NEAREST, CODES, "fwd+bwd", 20, 20),
        (NAILS, CODES, "fwd+bwd", 16, 18),
    ],
)
def test_a_row_names_its_bytes_for_each_pooled_element(
    op: str, indices: str, mode: str, least: int, of_stock: int
) -> None:
    case = make_case(op, (16, *SEGNET[0]), "bfloat16", indices, mode=mode)
    assert case.option("bytes") == least and case.option("stock_bytes") == of_stock and case.out_of_cache
    assert f"bytes={least}-stock_bytes={of_stock}" in case.id
    assert suite_of(case).work(case).bytes == least * 16 * 64 * 112 * 112


def test_nails_in_channels_last_read_single_pixels_of_the_gradient() -> None:
    contiguous, last = (make_case(NAILS, (16, *SEGNET[0]), "bfloat16", layout=layout) for layout in LAYOUTS)
    assert (contiguous.option("bytes"), last.option("bytes")) == (16, 14)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize(("op", "indices"), [(UNPOOL, CODES), (UNPOOL, PLANE), (PAIR, CODES), (NEAREST, CODES)])
def test_inputs_are_random_and_in_the_layout(op: str, indices: str, layout: str) -> None:
    case = make_case(op, SMALL, "bfloat16", indices, layout=layout)
    inputs, other = (suite_of(case).inputs(case, "cpu", seed) for seed in (1, 2))
    assert inputs.keys() == {"input", "g"} | ({"indices"} if op == UNPOOL else set()) | (
        {"codes"} if (op, indices) == (UNPOOL, CODES) else set()
    )
    for name, tensor in inputs.items():
        assert tensor.requires_grad == (name == "input") and not torch.equal(tensor, other[name])
        assert tensor.is_contiguous(memory_format=LAYOUTS[layout])


@pytest.mark.parametrize("case", [case for case in EVERY if case.op == UNPOOL], ids=lambda case: case.id)
def test_values_with_one_place_are_equal(case: Case) -> None:
    inputs = SUITE.inputs(case, "cpu", seed=0)
    at_their_places = step_of(stock_function(case), case, "indices")(inputs)[0]
    found = at_their_places.flatten(2).gather(2, inputs["indices"].flatten(2))
    assert torch.equal(found.view_as(inputs["input"]), inputs["input"])


@pytest.mark.parametrize("op", [*OPS, *WINDOW_OPS])
@pytest.mark.parametrize("place", range(2), ids=["output", "d_input"])
def test_one_wrong_element_of_any_result_gets_no_speed(op: str, place: int) -> None:
    def change(outputs: Outputs) -> Outputs:
        changed = [output.clone() for output in outputs]
        changed[place].view(-1)[-1] += 1e-3
        return tuple(changed)

    row = row_of(make_case(op, SMALL), change)
    assert row["status"] == "wrong" and f"output {place}" in row["reason"] and "median_us" not in row
    assert failures([row])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("as_codes", [False, True], ids=["int64", "codes"])
def test_one_wrong_index_gets_no_speed(mode: str, as_codes: bool) -> None:
    case = make_case(POOL, SMALL, mode=mode)

    def indices_of(outputs: Outputs, wrong: int) -> Tensor:
        indices = encoded(outputs[-1], window_of(case), SMALL) if as_codes else outputs[-1].clone()
        indices.view(-1)[-1] ^= wrong
        return indices

    right = row_of(case, lambda outputs: (*outputs[:-1], indices_of(outputs, 0)))
    assert right["status"] in ("ok", "slow")
    wrong = row_of(case, lambda outputs: (*outputs[:-1], indices_of(outputs, 1)))
    assert wrong["status"] == "wrong" and "indices" in wrong["reason"]


def test_a_pooling_that_is_rounded_gets_no_speed() -> None:
    row = row_of(make_case(PAIR, SMALL, mode="fwd"), lambda outputs: (outputs[0] * (1 + 2.0**-23),))
    assert row["status"] == "wrong" and "copy" in row["reason"]


def test_an_overlapping_gradient_may_be_summed_in_another_order() -> None:
    case = make_case(PAIR, (2, 3, 9, 8), window=OVERLAPPING)
    row = row_of(case, lambda outputs: (outputs[0], outputs[1] * (1 + 2.0**-23)))
    assert row["status"] in ("ok", "slow"), row["reason"]


def test_stock_is_given_plane_indices_where_ours_is_given_codes() -> None:
    case = make_case(UNPOOL, SMALL, mode="fwd")
    inputs = SUITE.inputs(case, "cpu", seed=0)
    inputs["codes"] = (inputs["codes"] + 1) % 4
    (expected,) = SUITE.reference(case, inputs)
    eager, other = (candidates_of(case)[name] for name in ("eager", "pyaegpu:auto"))
    assert torch.equal(eager.make()(inputs)[0].double(), expected)
    with backend("reference"):
        assert not torch.equal(other.make()(inputs)[0].double(), expected)


@pytest.mark.parametrize("case", EVERY[::5], ids=lambda case: case.id)
def test_every_backend_passes_the_gate(case: Case) -> None:
    rows = Runner(suite_of(case), FAST).run(case)
    assert {row["candidate"] for row in rows} >= {"eager", "pyaegpu:auto"}
    assert {row["status"] for row in rows} <= {"ok", "slow", "loss"}, rows


@pytest.mark.parametrize("op", [*OPS, *WINDOW_OPS])
def test_a_row_tells_what_served_it(op: str) -> None:
    case = make_case(op, (2, 16, 64, 64))
    if "cpu" in ours.missing("cpu", suite_of(case).name):
        pytest.skip("the cpu backend is not here")
    tell = candidates_of(case)["pyaegpu:auto"].served_by
    assert tell is not None and tell(suite_of(case).inputs(case, "cpu", seed=0)) == "cpu"


@pytest.mark.parametrize(("op", "indices"), [(POOL, CODES), (POOL, PLANE), (PAIR, CODES), (PAIR, PLANE)])
def test_a_pooling_keeps_its_indices_alone(op: str, indices: str) -> None:
    case = make_case(op, (2, 16, 64, 64), indices=indices)
    if "cpu" in ours.missing("cpu", SUITE.name):
        pytest.skip("the cpu backend is not here")
    inputs, found = SUITE.inputs(case, "cpu", seed=0), candidates_of(case)
    pooled = math.prod(window_of(case).pooled(case.shape))

    def saved(name: str) -> int:
        step = found[name].make()
        return saved_bytes.saved_bytes(lambda: step(inputs), [])

    assert saved("pyaegpu:auto") == INDEX_BYTES[indices] * pooled
    assert saved("eager") >= (4 * 4 + 8) * pooled


def test_the_other_memory_format_is_compared_too() -> None:
    case = replace(make_case(POOL, SMALL), layout="channels_last")
    found = {one.name: one for one in SUITE.candidates(case, "cuda", compiled=False)}
    inputs = SUITE.inputs(case, "cpu", seed=0)
    one = found["eager_contiguous"]
    assert one.given is not None and one.prepare is not None
    values, expected = one.given()(inputs), SUITE.reference(case, inputs)
    assert all(torch.equal(value.double(), each) for value, each in zip(values, expected, strict=True))
    assert one.make()(one.prepare(inputs))[0].is_contiguous()


def test_nails_are_in_the_layout_of_the_case() -> None:
    for layout, form in LAYOUTS.items():
        case = make_case(NAILS, SMALL, layout=layout)
        inputs = WINDOWS.inputs(case, "cpu", seed=0)
        assert stock_upsampling(case)(inputs["input"])[0].is_contiguous(memory_format=form)
