"""The layers are those that were promised, and what is wrong in any of their results gets no speed."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import timing
from benchmarks.case import LAYOUTS, Candidate, Case, Inputs, Outputs, Step
from benchmarks.rows import failures
from benchmarks.runner import Runner, Settings
from benchmarks.suites.conv_transpose import ConvTransposeSuite, step_of, stock_layer
from benchmarks.suites.conv_transpose_shapes import (
    CONV_VAE,
    DECODER,
    MNIST,
    UPSAMPLE,
    Layer,
    dcgan,
    layer_of,
    make_case,
    small_cases,
    unet,
    upsampling,
)

SUITE = ConvTransposeSuite()
FAST = Settings(rounds=2, samples=1, compiled=False)
PLANE = Layer("plane", 5, (3, 4), 6, 3, 2, 1, 1, activation="relu")
CASE = make_case(PLANE, 2)
G1, G2, G3, G4, G5 = dcgan(64)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "copy_bandwidth", lambda device, clock: 10.0)
    monkeypatch.setattr(timing, "matmul_rate", lambda device, dtype, clock: 200.0)
    monkeypatch.setattr(timing, "CPU_SAMPLE_US", 100.0)


def run(candidate: Candidate, case: Case = CASE) -> dict[str, dict]:
    """The rows of eager and of one more candidate, by name."""

    def candidates(case: Case) -> list[Candidate]:
        return [candidate, Candidate("eager", "stock", lambda: step_of(stock_layer(layer_of(case)), case))]

    return {row["candidate"]: row for row in Runner(SUITE, FAST, candidates).run(case)}


def planted(step: Step) -> Candidate:
    return Candidate("planted", "ours", lambda: step, published=True)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("size", ["full", "tiny"])
def test_a_case_tells_its_layer(device: str, size: str) -> None:
    for case in SUITE.cases(device, size):
        layer = layer_of(case)
        again = make_case(layer, case.shape[0], case.dtype, layout=case.layout, mode=case.mode, graph=case.graph)
        assert again == case and layer.activation in ("none", "relu", "tanh", "sigmoid")


@pytest.mark.parametrize("case", small_cases(), ids=lambda case: case.id)
def test_the_layers_sizes_are_those_of_its_result(case: Case) -> None:
    layer, inputs = layer_of(case), SUITE.inputs(case, "cpu", seed=0)
    output = SUITE.reference(case, inputs)[0]
    assert inputs["weight"].shape == layer.weight
    assert output.shape == (case.shape[0], layer.out, *layer.out_size)
    assert sum(layer.elements) * case.shape[0] == inputs["input"].numel() + output.numel()


def test_the_rows_that_were_promised_are_there() -> None:
    cpu, cuda = (SUITE.cases(device, "full") for device in ("cpu", "cuda"))
    for cases in (cpu, cuda):
        assert {(case.layout, case.mode) for case in cases} == {
            (layout, mode) for layout in LAYOUTS for mode in ("fwd", "fwd+bwd")
        }
    batches = {(layer_of(case), case.shape[0]) for case in cuda if case.dtype == "bfloat16"}
    for width in (64, 128):
        assert batches >= {(layer, batch) for layer in dcgan(width) for batch in (128, 1024)}
    assert {case.dtype for case in cuda} == {"bfloat16", "float32"} and any(case.graph for case in cuda)
    assert {case.op for case in cuda} == {"conv_transpose2d", UPSAMPLE}
    assert {case.op for case in cpu} == {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d", UPSAMPLE}
    assert {layer_of(case).out for case in cpu} >= {1, 2, 3, 4}
    assert any(layer_of(case).groups > 1 for case in cpu)


@pytest.mark.parametrize(
    "layers", [dcgan(64), dcgan(128), MNIST, CONV_VAE, DECODER], ids=lambda layers: layers[0].layer
)
def test_the_layers_of_a_decoder_follow_each_other(layers: tuple[Layer, ...]) -> None:
    for layer, following in pairwise(layers):
        assert (layer.out, layer.out_size) == (following.channels, following.size) and layer.activation == "relu"
    assert len({layer.layer for layer in layers}) == len(layers)


def test_the_generator_is_dcgans() -> None:
    assert [(layer.channels, layer.size[0], layer.out, layer.out_size[0]) for layer in dcgan(64)] == [
        (100, 1, 512, 4),
        (512, 4, 256, 8),
        (256, 8, 128, 16),
        (128, 16, 64, 32),
        (64, 32, 3, 64),
    ]


@pytest.mark.parametrize(
    ("layer", "batch", "gflop", "megabytes"),
    [(G1, 128, 0.21, 3.8), (G2, 128, 8.6, 10.5), (G3, 1024, 68.7, 102), (G4, 128, 8.6, 25.4), (G5, 1024, 6.4, 159)],
)
def test_work_of_a_forward(layer: Layer, batch: int, gflop: float, megabytes: float) -> None:
    work = SUITE.work(make_case(layer, batch, "bfloat16", mode="fwd"))
    assert work.flops / 1e9 == pytest.approx(gflop, rel=0.02)
    assert work.bytes / 1e6 == pytest.approx(megabytes, rel=0.02)


def test_work_with_the_backward() -> None:
    forward, both = (SUITE.work(make_case(G4, 16, mode=mode)) for mode in ("fwd", "fwd+bwd"))
    x, w, y = 16 * 128 * 16 * 16, 128 * 64 * 4 * 4, 16 * 64 * 32 * 32
    assert both.flops == 3 * forward.flops == 3 * 2 * 16 * 16 * 16 * 128 * 64 * 16
    # forward: x, w, b, y; backward: g, y, x, w and the gradients of x, w, b
    assert both.bytes == 4 * (3 * x + 3 * w + 3 * y + 2 * 64)
    plain = unet(128, 64)
    work = SUITE.work(make_case(plain, 2))
    assert work.bytes == 4 * (3 * 2 * 128 * 64 * 64 + 3 * 128 * 64 * 4 + 2 * 2 * 64 * 128 * 128 + 2 * 64)


def test_the_terms_of_each_result() -> None:
    x, w, y = (16, 128, 16, 16), (128, 64, 4, 4), (16, 64, 32, 32)
    # an output sees 2x2 of the taps, an input all of them
    assert SUITE.work(make_case(G4, 16)).terms == (x[1] * 4, w[1] * 16, x[0] * 16 * 16, y[0] * 32 * 32)
    assert SUITE.work(make_case(G4, 16, mode="fwd")).terms == (x[1] * 4,)
    grouped = Layer("grouped", 8, (4, 4), 8, 4, 2, 1, groups=4)
    assert SUITE.work(make_case(grouped, 2)).terms[:2] == (2 * 4, 2 * 16)


def test_upsampling_is_held_to_sixteen_taps() -> None:
    work = SUITE.work(make_case(upsampling(128, 32), 2, mode="fwd"))
    assert work.flops == 2 * 2 * 32 * 32 * 128 * 128 * 16


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_inputs_are_those_of_a_middle_layer(layout: str) -> None:
    case = make_case(PLANE, 3, "bfloat16", layout=layout)
    inputs = SUITE.inputs(case, "cpu", seed=1)
    assert {name for name, tensor in inputs.items() if tensor.requires_grad} == {"input", "weight", "bias"}
    for name in ("input", "weight", "g"):
        assert inputs[name].is_contiguous(memory_format=LAYOUTS[layout]) and inputs[name].unique().numel() > 10
    assert not torch.equal(SUITE.inputs(case, "cpu", seed=2)["input"], inputs["input"])
    assert "g" not in SUITE.inputs(replace(case, mode="fwd"), "cpu", seed=1)


def test_results_are_neither_all_positive_nor_saturated() -> None:
    for layer in (G2, G5, upsampling(128, 8)):
        case = make_case(replace(layer, activation="none"), 4, mode="fwd")
        output = SUITE.reference(case, SUITE.inputs(case, "cpu", seed=0))[0]
        assert 0.7 < float(output.std()) < 1.6 and abs(float(output.mean())) < 0.6


def test_no_gradient_hangs_on_the_sign_of_a_rounding_error() -> None:
    inputs = SUITE.inputs(make_case(G4, 4), "cpu", seed=0)
    wide = {name: tensor.detach().double() for name, tensor in inputs.items()}
    y = F.conv_transpose2d(wide["input"], wide["weight"], wide["bias"], 2, 1)
    doubtful = y.abs() < 1e-3 * y.abs().mean()
    assert doubtful.any() and (inputs["g"][doubtful] == 0).all()
    assert (inputs["g"] == 0).float().mean() < 0.01
    assert (SUITE.inputs(make_case(G5, 4), "cpu", seed=0)["g"] != 0).all()


def test_a_reference_agrees_with_a_formula_written_out() -> None:
    case = make_case(PLANE, 2, "bfloat16")
    inputs = SUITE.inputs(case, "cpu", seed=3)
    x, w, b, g = (inputs[name].detach().double() for name in ("input", "weight", "bias", "g"))
    y = torch.zeros(2, 6, 8, 10, dtype=torch.float64)  # with the padding that is cut off
    for i in range(3):
        for j in range(3):
            y[:, :, i : i + 5 : 2, j : j + 7 : 2] += torch.einsum("nchw,co->nohw", x, w[:, :, i, j])
    y = y[:, :, 1:7, 1:9] + b.view(1, 6, 1, 1)
    output, d_input, _, d_bias = SUITE.reference(case, inputs)
    torch.testing.assert_close(output, y.relu())
    gp = F.pad(g * (y > 0), (1, 1, 1, 1))
    torch.testing.assert_close(d_bias, gp.sum((0, 2, 3)))
    terms = [
        torch.einsum("nohw,co->nchw", gp[:, :, i : i + 5 : 2, j : j + 7 : 2], w[:, :, i, j])
        for i in range(3)
        for j in range(3)
    ]
    torch.testing.assert_close(d_input, sum(terms))


@pytest.mark.parametrize("place", range(4), ids=["output", "d_input", "d_weight", "d_bias"])
def test_one_wrong_element_of_any_result_gets_no_speed(place: int) -> None:
    def step(inputs: Inputs) -> Outputs:
        outputs = [output.clone() for output in step_of(stock_layer(PLANE), CASE)(inputs)]
        outputs[place].view(-1)[-1] += 1e-3
        return tuple(outputs)

    rows = run(planted(step))
    assert rows["planted"]["status"] == "wrong" and f"output {place}: error" in rows["planted"]["reason"]
    assert "median_us" not in rows["planted"] and failures(rows.values())


def test_taps_in_the_wrong_order_get_no_speed() -> None:
    def flipped(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return stock_layer(PLANE)(x, w.flip(2), b)

    assert run(planted(step_of(flipped, CASE)))["planted"]["status"] == "wrong"


def test_what_is_right_is_timed_beside_a_matrix_product() -> None:
    row = run(planted(step_of(stock_layer(PLANE), CASE)))["planted"]
    assert row["status"] in ("ok", "slow") and row["matmul_gflops"] == 200.0
    assert row["matmul_share"] == pytest.approx(row["gflops"] / 200)


@pytest.mark.parametrize(("layout", "other"), [("contiguous", "channels_last"), ("channels_last", "contiguous")])
def test_on_a_gpu_stock_may_take_the_other_layout(layout: str, other: str) -> None:
    case = make_case(PLANE, 2, layout=layout)
    found = {one.name: one for one in SUITE.candidates(case, "cuda", compiled=True)}
    assert {"eager", f"eager_{other}", "compile", "compile_max", "pyaegpu:auto"} <= found.keys()
    seen: list[Inputs] = []

    def step(inputs: Inputs) -> Outputs:
        seen.append(inputs)
        return step_of(stock_layer(PLANE), case)(inputs)

    stock = found[f"eager_{other}"]
    row = run(replace(stock, make=lambda: step), case)[stock.name]
    assert row["status"] == "ok"
    gated, *timed = {id(inputs): inputs for inputs in seen}.values()
    assert len(timed) == 1  # converted once, not in every call
    for inputs in (gated, *timed):
        for name in ("input", "weight", "g"):
            assert inputs[name].is_contiguous(memory_format=LAYOUTS[other])
        assert inputs["input"].is_leaf and inputs["input"].requires_grad and not inputs["g"].requires_grad
