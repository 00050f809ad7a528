"""What is counted as saved for the backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks import ours, saved_bytes
from benchmarks.suites import conv_transpose_loss
from benchmarks.suites.norm_act_shapes import LEAKY, block_case, dcgan_blocks, dcgan_down_blocks, norm_case

STATISTICS = 64 * 4  # of 64 channels, in bytes


def test_a_storage_counts_once_and_what_is_left_out_not_at_all() -> None:
    x, w = torch.randn(3, 5, requires_grad=True), torch.randn(5, requires_grad=True)

    def twice() -> Tensor:
        y = torch.tanh(x * w)  # saves x, w and y
        return y[1:] * y[:2]  # two views of y

    assert saved_bytes.saved_bytes(twice, []) == 4 * (15 + 5 + 15)
    assert saved_bytes.saved_bytes(twice, [w]) == 4 * (15 + 15)


def test_what_is_freed_does_not_hide_what_comes_after() -> None:
    x = torch.randn(1000, requires_grad=True)

    def forwards() -> None:
        for _ in range(3):
            torch.exp(x)  # its result is saved, and freed with the graph

    assert saved_bytes.saved_bytes(forwards, []) == 3 * 4000


def test_a_linear_layer_saves_its_input() -> None:
    layer, x = nn.Linear(7, 5), torch.randn(3, 7)
    assert saved_bytes.saved_bytes(lambda: layer(x), layer.parameters()) == x.nbytes


@pytest.mark.parametrize("activation", ["relu", LEAKY])
def test_a_normalisation_saves_its_input_and_eager_what_it_activates_too(activation: str) -> None:
    shape = (8, 64, 16, 16)
    size = 4 * 8 * 64 * 16 * 16
    line = saved_bytes.of_case("norm_act", norm_case(shape, activation), "cpu")
    assert 2 * size <= line.stock <= 2 * size + 8 * STATISTICS
    if "cpu" not in ours.missing("cpu", "norm_act"):
        assert size <= line.ours <= size + 2 * STATISTICS
    assert line.name == "batch_norm_act 64x16x16"


def test_a_block_saves_one_tensor_of_its_results_size() -> None:
    if "cpu" in ours.missing("cpu", "norm_act"):
        pytest.skip("the cpu backend is not here")
    for layer in (dcgan_blocks()[3], dcgan_down_blocks()[0]):
        case = block_case(layer, 4)
        size, result = (4 * 4 * count for count in layer.elements)
        line = saved_bytes.of_case("norm_act", case, "cpu")
        assert 0 <= line.stock - (size + 2 * result) <= 16 * STATISTICS
        assert 0 <= line.ours - (size + result) <= 4 * STATISTICS


@pytest.mark.parametrize("end", conv_transpose_loss.ENDS)
def test_a_loss_keeps_one_tensor_beside_input_and_target(end: tuple[str, str]) -> None:
    case = conv_transpose_loss.make_case(conv_transpose_loss.G5, 2, end)
    line = saved_bytes.of_case("conv_transpose_loss", case, "cpu")
    size, result = (4 * 2 * count for count in conv_transpose_loss.G5.elements)
    assert line.ours <= size + 2 * result <= line.stock
    assert line.name == f"conv_transpose2d_loss dcgan64_g5 {end[1]}"


def test_the_command_prints_every_block_and_the_generator(capsys: pytest.CaptureFixture[str]) -> None:
    assert saved_bytes.main(["--batch", "2", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out.splitlines()
    for name in (
        "dcgan64_g1",
        "dcgan64_g4",
        "dcgan64_d2",
        "bce_logits",
        "max_pool2d 64x224x224 codes",
        "DCGAN-64 generator",
    ):
        assert sum(name in line for line in printed) == 1
    generator = next(line.split("|")[2:4] for line in printed if "generator" in line)
    assert float(generator[1]) <= 1.01 * float(generator[0])
