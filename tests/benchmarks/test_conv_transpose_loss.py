"""The last layers are those that were promised, and each of their results is held."""

from __future__ import annotations

import pytest
import torch

from benchmarks import timing
from benchmarks.case import LAYOUTS, Candidate, Case, Inputs, Outputs
from benchmarks.runner import Runner, Settings
from benchmarks.suites.conv_transpose_loss import (
    ENDS,
    G5,
    OTHER_G,
    ConvTransposeLossSuite,
    layer_of,
    make_case,
    small_cases,
    step_of,
    stock_loss,
)
from benchmarks.suites.conv_transpose_shapes import MNIST, Layer, k4

SUITE = ConvTransposeLossSuite()
FAST = Settings(rounds=2, samples=1, compiled=False)
SMALL = k4("small", 5, (3, 4), 3, "none")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "copy_bandwidth", lambda device, clock: 10.0)
    monkeypatch.setattr(timing, "matmul_rate", lambda device, dtype, clock: 200.0)
    monkeypatch.setattr(timing, "CPU_SAMPLE_US", 100.0)


def test_the_rows_that_were_promised_are_there() -> None:
    for device, batches in (("cpu", {16}), ("cuda", {128, 1024})):
        cases = SUITE.cases(device, "full")
        last = [case for case in cases if case.option("out") == 3]
        mine = {(layer_of(case).activation, case.option("kind"), case.shape[0]) for case in last}
        assert mine >= {(*end, batch) for end in ENDS for batch in batches}
        assert any(case.shape == (128, 32, 14, 14) and case.option("out") == 1 for case in cases)
        assert {case.layout for case in cases} == LAYOUTS.keys()
        assert {case.mode for case in cases} == {"fwd", "fwd+bwd"}
        assert {case.option("g") for case in cases} == {1.0, OTHER_G}
    assert any(case.graph for case in cases) and {case.dtype for case in cases} == {"float32", "bfloat16"}


def test_work_counts_the_tensors_of_the_call() -> None:
    x, w, y = 16 * 64 * 32 * 32, 64 * 3 * 16, 16 * 3 * 64 * 64
    forward, both = (SUITE.work(make_case(G5, 16, ENDS[0], "bfloat16", mode=mode)) for mode in ("fwd", "fwd+bwd"))
    assert forward.bytes == 2 * (x + w + 3 + y) and both.bytes == 2 * (3 * x + 3 * w + 2 * 3 + 3 * y)
    assert both.terms == (4 * 64, 3 * 16, 16 * 32 * 32, y // 3) and both.matmul
    assert both.flops == pytest.approx(6 * 16 * 32 * 32 * 64 * 3 * 16, rel=0.05)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("end", ENDS)
def test_inputs_are_in_the_range_of_the_loss(end: tuple[str, str], layout: str) -> None:
    case = make_case(MNIST[-1], 3, end, "bfloat16", layout=layout)
    inputs = SUITE.inputs(case, "cpu", seed=1)
    assert {name for name, tensor in inputs.items() if tensor.requires_grad} == {"input", "weight", "bias"}
    for name in ("input", "weight", "target"):
        assert inputs[name].is_contiguous(memory_format=LAYOUTS[layout]) and inputs[name].unique().numel() > 10
    assert inputs["target"].shape == (3, 1, 28, 28) and inputs["target"].abs().max() <= 1
    assert (inputs["target"] < 0).any() == (end[0] == "tanh")


def test_a_reference_agrees_with_a_formula_written_out() -> None:
    pixel = Layer("pixel", 4, (1, 1), 2, 3, 1)
    case = make_case(pixel, 3, ("tanh", "mse"), g=0.5)
    inputs = SUITE.inputs(case, "cpu", seed=3)
    x, w, b, t = (inputs[name].detach().double() for name in ("input", "weight", "bias", "target"))
    recon = (torch.einsum("nc,cohw->nohw", x[:, :, 0, 0], w) + b.view(1, 2, 1, 1)).tanh()
    value, d_input, d_weight, d_bias = SUITE.reference(case, inputs)
    torch.testing.assert_close(value, (recon - t).square().sum())
    d = 0.5 * 2 * (recon - t) * (1 - recon**2)
    torch.testing.assert_close(d_bias, d.sum((0, 2, 3)))
    torch.testing.assert_close(d_weight, torch.einsum("nc,nohw->cohw", x[:, :, 0, 0], d))
    torch.testing.assert_close(d_input[:, :, 0, 0], torch.einsum("nohw,cohw->nc", d, w))


@pytest.mark.parametrize("place", range(4), ids=["loss", "d_input", "d_weight", "d_bias"])
def test_one_wrong_element_of_any_result_gets_no_speed(place: int) -> None:
    case = make_case(SMALL, 2, ENDS[1])

    def step(inputs: Inputs) -> Outputs:
        outputs = [output.clone() for output in step_of(stock_loss(case), case)(inputs)]
        outputs[place].view(-1)[-1] *= 1 + 1e-3
        return tuple(outputs)

    def candidates(case: Case) -> list[Candidate]:
        planted = Candidate("planted", "ours", lambda: step, published=True)
        return [planted, Candidate("eager", "stock", lambda: step_of(stock_loss(case), case))]

    rows = {row["candidate"]: row for row in Runner(SUITE, FAST, candidates).run(case)}
    assert rows["planted"]["status"] == "wrong" and f"output {place}: error" in rows["planted"]["reason"]
    assert rows["eager"]["status"] == "ok"


def test_stock_has_the_loss_of_autocast_in_bfloat16_and_the_other_layout_on_a_gpu() -> None:
    case = make_case(SMALL, 2, ENDS[0], "bfloat16", layout="channels_last")
    found = {one.name: one for one in SUITE.candidates(case, "cuda", compiled=True)}
    assert {"eager", "eager_autocast", "eager_contiguous", "compile", "compile_max", "pyaegpu:auto"} <= found.keys()
    inputs = SUITE.inputs(case, "cpu", seed=0)
    assert found["eager_autocast"].make()(inputs)[0].dtype == torch.float32
    assert found["eager"].make()(inputs)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("case", small_cases(), ids=lambda case: case.id)
def test_a_small_case_tells_its_layer(case: Case) -> None:
    layer, end = layer_of(case), (layer_of(case).activation, str(case.option("kind")))
    fields = {"layout": case.layout, "mode": case.mode}
    assert make_case(layer, case.shape[0], end, case.dtype, float(case.option("g")), **fields) == case
