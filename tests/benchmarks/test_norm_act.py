"""The blocks are those that were promised, each of their results is held, and running statistics influence none."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import ours, timing
from benchmarks.case import LAYOUTS, Candidate, Case, Inputs, Outputs
from benchmarks.rows import failures
from benchmarks.runner import Runner, Settings
from benchmarks.suites.norm_act import NormActSuite, step_of, stock_block
from benchmarks.suites.norm_act_shapes import (
    BLOCK,
    CONV_VAE_BLOCKS,
    DOWN_BLOCK,
    EVALUATION,
    LARGE,
    LEAKY,
    NORM,
    Layer,
    block,
    block_case,
    dcgan_blocks,
    dcgan_down_blocks,
    layer_of,
    norm_case,
    result_shape,
    small_cases,
    trains,
)

SUITE = NormActSuite()
FAST = Settings(rounds=2, samples=1, compiled=False)
G1, G2, G3, G4 = dcgan_blocks()
UP = block_case(block(Layer("up", 5, (3, 4), 6, 3, 2, 1, 1)), 3)
EVALUATED = block_case(block(Layer("up", 5, (3, 4), 6, 3, 2, 1, 1)), 3, running=True, mode="fwd")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "copy_bandwidth", lambda device, clock: 10.0)
    monkeypatch.setattr(timing, "matmul_rate", lambda device, dtype, clock: 200.0)
    monkeypatch.setattr(timing, "CPU_SAMPLE_US", 100.0)


def row_of(candidate: Candidate, case: Case) -> dict:
    """The row of one candidate beside eager."""

    def candidates(case: Case) -> list[Candidate]:
        return [candidate, Candidate("eager", "stock", lambda: step_of(stock_block(case), case))]

    rows = {row["candidate"]: row for row in Runner(SUITE, FAST, candidates).run(case)}
    return rows[candidate.name]


@pytest.mark.parametrize("case", small_cases(), ids=lambda case: case.id)
def test_shapes_are_those_of_the_result(case: Case) -> None:
    inputs = SUITE.inputs(case, "cpu", seed=0)
    outputs = SUITE.reference(case, inputs)
    assert outputs[0].shape == result_shape(case) and inputs["norm_weight"].shape == result_shape(case)[1:2]
    assert len(outputs) == (1 if case.mode == "fwd" else 4 if case.op == NORM else 5)
    assert len(SUITE.work(case).terms) == len(outputs)
    if case.op != NORM:
        assert inputs["weight"].shape == layer_of(case).weight
        assert sum(layer_of(case).elements) * 3 == inputs["input"].numel() + outputs[0].numel()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_case_tells_its_layer(device: str) -> None:
    for case in SUITE.cases(device, "full"):
        if case.op != NORM:
            fields = {"layout": case.layout, "mode": case.mode, "graph": case.graph}
            again = block_case(layer_of(case), case.shape[0], case.dtype, running=not trains(case), **fields)
            assert again == case and layer_of(case).op == case.op


def test_the_rows_that_were_promised_are_there() -> None:
    cpu, cuda = (SUITE.cases(device, "full") for device in ("cpu", "cuda"))
    for cases in (cpu, cuda):
        assert {(case.layout, case.mode) for case in cases} == {
            (layout, mode) for layout in LAYOUTS for mode in ("fwd", "fwd+bwd")
        }
        evaluated = [case for case in cases if EVALUATION in case.options]
        assert {layer_of(case).layer for case in evaluated} == {G3.layer, G4.layer}
        assert {(case.op, case.mode) for case in evaluated} == {(BLOCK, "fwd")}
    trained = {(layer_of(case), case.shape[0]) for case in cuda if case.op != NORM and trains(case)}
    layers = (*dcgan_blocks(), *dcgan_down_blocks())
    assert trained >= {(layer, batch) for layer in layers for batch in (128, 1024)}
    assert trained >= {(layer, 256) for layer in CONV_VAE_BLOCKS}
    results = {(result_shape(case), case.option("activation")) for case in cuda if case.op == NORM}
    assert results >= {(shape, "relu") for shape in LARGE}
    for layer in layers[1:]:
        assert results >= {((batch, layer.out, *layer.out_size), layer.activation) for batch in (128, 1024)}
    shapes = {case.shape for case in cpu if case.op == NORM}
    assert shapes >= {(128, 64, 32, 32), (128, 128, 16, 16), (128, 512, 4, 4), (128, 64, 16, 16), (4096, 1024)}
    assert {case.op for case in cpu} == {NORM, BLOCK, DOWN_BLOCK} and any(case.graph for case in cuda)


@pytest.mark.parametrize("layers", [dcgan_blocks(), dcgan_down_blocks(), CONV_VAE_BLOCKS])
def test_the_blocks_of_a_model_follow_each_other(layers: tuple[Layer, ...]) -> None:
    for layer, following in pairwise(layers):
        assert (layer.out, layer.out_size) == (following.channels, following.size)
    assert {layer.activation for layer in layers} == {LEAKY if layers[0].op == DOWN_BLOCK else "relu"}


def test_work_of_a_normalisation() -> None:
    elements = 128 * 64 * 32 * 32
    forward, both = (norm_case((128, 64, 32, 32), "relu", "bfloat16", mode=mode) for mode in ("fwd", "fwd+bwd"))
    assert SUITE.work(forward).bytes == 2 * 3 * elements and SUITE.work(both).bytes == 2 * 8 * elements
    assert SUITE.work(both).terms == (1, 1, elements // 64, elements // 64) and not SUITE.work(both).matmul


def test_work_of_a_block() -> None:
    x, w, y = 16 * 128 * 16 * 16, 128 * 64 * 4 * 4, 16 * 64 * 32 * 32
    forward, both = (SUITE.work(block_case(G4, 16, mode=mode)) for mode in ("fwd", "fwd+bwd"))
    assert forward.bytes == 4 * (x + w + 3 * y) and both.bytes == 4 * (3 * x + 3 * w + 9 * y)
    assert SUITE.work(block_case(G4, 16, running=True, mode="fwd")).bytes == 4 * (x + w + y)
    products = 16 * 16 * 16 * 128 * 64 * 16
    assert forward.flops == pytest.approx(2 * products, rel=0.01)
    assert both.flops == pytest.approx(6 * products, rel=0.01)
    assert both.terms == (4 * 128, 64 * 16, 16 * 16 * 16, y // 64, y // 64) and both.matmul
    down = dcgan_down_blocks()[0]  # G4 the other way round
    assert SUITE.work(block_case(down, 16)).flops == pytest.approx(6 * products, rel=0.01)
    assert SUITE.work(block_case(down, 16, mode="fwd")).terms == (64 * 16,)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("case", [norm_case((6, 5, 8, 7), LEAKY, "bfloat16"), replace(UP, dtype="bfloat16"), EVALUATED])
def test_inputs_are_random_and_in_the_layout(case: Case, layout: str) -> None:
    inputs, other = (SUITE.inputs(replace(case, layout=layout), "cpu", seed) for seed in (1, 2))
    assert not any(torch.equal(inputs[name], other[name]) for name in inputs)
    for name, tensor in inputs.items():
        assert tensor.requires_grad == (name in ("input", "weight", "norm_weight", "norm_bias"))
        assert tensor.dim() != 4 or tensor.is_contiguous(memory_format=LAYOUTS[layout])
        assert tensor.dtype == (torch.float32 if tensor.dim() == 1 else torch.bfloat16) or case is EVALUATED
    assert ("g" in inputs) == (case.mode == "fwd+bwd") and ("running_var" in inputs) == (not trains(case))


@pytest.mark.parametrize("case", [norm_case((64, 16, 8, 8), "relu"), block_case(G4, 4)], ids=lambda case: case.op)
def test_no_gradient_hangs_on_the_sign_of_a_rounding_error(case: Case) -> None:
    inputs = SUITE.inputs(case, "cpu", seed=0)
    wide = {name: tensor.detach().double() for name, tensor in inputs.items()}
    y = wide["input"] if case.op == NORM else F.conv_transpose2d(wide["input"], wide["weight"], None, 2, 1)
    z = F.batch_norm(y, None, None, wide["norm_weight"], wide["norm_bias"], True)
    doubtful = z.abs() < 1e-3 * z.abs().mean()
    assert doubtful.any() and (inputs["g"][doubtful] == 0).all() and (inputs["g"] == 0).float().mean() < 0.01
    smooth = SUITE.inputs(norm_case((64, 16, 8, 8), "tanh"), "cpu", seed=0)
    assert (smooth["g"] != 0).all()


def test_a_reference_agrees_with_a_formula_written_out() -> None:
    case = norm_case((4, 3, 2, 5), LEAKY, "bfloat16")
    inputs = SUITE.inputs(case, "cpu", seed=3)
    x, w, b, g = (inputs[name].detach().double() for name in ("input", "norm_weight", "norm_bias", "g"))
    places, each = (0, 2, 3), (1, 3, 1, 1)
    mean, var = x.mean(places, keepdim=True), x.var(places, unbiased=False, keepdim=True)
    xhat = (x - mean) / (var + 1e-5).sqrt()
    z = xhat * w.view(each) + b.view(each)
    out, d_input, d_weight, d_bias = SUITE.reference(case, inputs)
    torch.testing.assert_close(out, torch.where(z > 0, z, 0.2 * z))
    gz = torch.where(z > 0, g, 0.2 * g)
    torch.testing.assert_close(d_bias, gz.sum(places))
    torch.testing.assert_close(d_weight, (gz * xhat).sum(places))
    centred = gz - gz.mean(places, keepdim=True) - xhat * (gz * xhat).mean(places, keepdim=True)
    torch.testing.assert_close(d_input, w.view(each) / (var + 1e-5).sqrt() * centred)


def test_every_candidate_in_training_moves_running_statistics_and_depends_on_none() -> None:
    seen: list[Tensor] = []

    def run(*tensors: Tensor) -> Tensor:
        seen.extend(tensors[-2:])
        return stock_block(UP)(*tensors)

    step, inputs = step_of(run, UP), SUITE.inputs(UP, "cpu", seed=0)
    first = step(inputs)
    before = [tensor.clone() for tensor in seen]
    again = step(inputs)
    assert seen[0] is seen[2] and not torch.equal(seen[0], before[0]) and not torch.equal(seen[1], before[1])
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_the_published_candidate_is_given_the_running_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyaegpu

    seen: list[Tensor] = []
    real = pyaegpu.conv_transpose2d_norm_act

    def spied(*args: Tensor, **kwargs: Tensor) -> Tensor:
        result = real(*args, **kwargs)
        seen.extend((kwargs["running_mean"], kwargs["running_var"]))
        return result

    monkeypatch.setattr(pyaegpu, "conv_transpose2d_norm_act", spied)
    for case in (UP, EVALUATED):
        inputs = SUITE.inputs(case, "cpu", seed=0)
        found = {one.name: one for one in SUITE.candidates(case, "cpu", compiled=False)}
        found["pyaegpu:auto"].make()(inputs)
        if trains(case):
            assert (seen[0] != 0).all() and (seen[1] != 1).all()
        else:
            assert seen[2] is inputs["running_mean"] and seen[3] is inputs["running_var"]


@pytest.mark.parametrize("place", range(5), ids=["output", "d_input", "d_weight", "d_norm_weight", "d_norm_bias"])
def test_one_wrong_element_of_any_result_gets_no_speed(place: int) -> None:
    def step(inputs: Inputs) -> Outputs:
        outputs = [output.clone() for output in step_of(stock_block(UP), UP)(inputs)]
        outputs[place].view(-1)[-1] += 1e-3
        return tuple(outputs)

    row = row_of(Candidate("planted", "ours", lambda: step, published=True), UP)
    assert row["status"] == "wrong" and f"output {place}: error" in row["reason"] and "median_us" not in row
    assert failures([row])


@pytest.mark.parametrize("case", [UP, norm_case((7, 3, 4, 5), "relu")], ids=lambda case: case.op)
def test_the_unbiased_variance_gets_no_speed(case: Case) -> None:
    def run(*tensors: Tensor) -> Tensor:
        *leaves, gain, shift, mean, var = tensors
        values = result_shape(case)[0] * result_shape(case)[2] * result_shape(case)[3]
        return stock_block(case)(*leaves, gain * (1 - 1 / values) ** 0.5, shift, mean, var)

    assert row_of(Candidate("planted", "ours", lambda: step_of(run, case)), case)["status"] == "wrong"


def test_eager_may_overwrite_what_it_normalised() -> None:
    case = norm_case((3, 5, 4, 6), LEAKY)
    found = {one.name: one for one in SUITE.candidates(case, "cpu", compiled=False)}
    assert row_of(found["eager_inplace"], case)["status"] == "ok"
    assert "eager_inplace" not in {one.name for one in SUITE.candidates(norm_case((3, 5), "tanh"), "cpu", False)}


@pytest.mark.parametrize(
    ("case", "served"),
    [
        (norm_case((64, 16, 16, 16), "relu"), "cpu"),
        (norm_case((3, 5), "relu"), "reference"),
        (block_case(G3, 4), "cpu, stock convolution"),
        (block_case(dcgan_down_blocks()[0], 4), "cpu, stock convolution"),
        (block_case(G4, 4, running=True, mode="fwd"), "reference, folded"),
    ],
    ids=["norm", "small", "block", "down_block", "evaluation"],
)
def test_a_row_tells_what_served_it(case: Case, served: str) -> None:
    if "cpu" in ours.missing("cpu", "norm_act"):
        pytest.skip("the cpu backend is not here")
    found = {one.name: one for one in SUITE.candidates(case, "cpu", compiled=False)}
    tell = found["pyaegpu:auto"].served_by
    assert tell is not None and tell(SUITE.inputs(case, "cpu", seed=0)) == served
