"""The tiles of csrc/cuda's transposed convolution, run one after another on the CPU, against PyTorch in float64."""

import itertools
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

ROOT = Path(__file__).parents[2]
# The most inputs of a tile, outputs of a tile and taps at once: those of the kernels, and so few that all is cut.
LIMITS = {"whole": (256, 1024, 64), "cut": (24, 40, 16), "least": (16, 16, 4)}
# Inputs, kernel, stride, padding and output padding of one axis.
AXES = [
    (size, kernel, stride, padding, output_padding)
    for size, kernel, stride, padding, output_padding in itertools.product(
        (1, 2, 7, 13), range(1, 6), (1, 2, 3), (0, 1, 2), (0, 1)
    )
    if output_padding < stride and (size - 1) * stride - 2 * padding + kernel + output_padding > 0
]


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    program = tmp_path_factory.mktemp("conv_transpose") / "conv_transpose"
    source = ROOT / "tests" / "common" / "conv_transpose.cpp"
    subprocess.run([compiler, "-std=c++17", "-O2", f"-I{ROOT / 'csrc'}", source, "-o", program], check=True)

    def run(numbers, tensors):
        data = b"".join(t.contiguous().numpy().tobytes() for t in tensors)
        out = subprocess.run([program, *map(str, numbers)], input=data, check=True, capture_output=True).stdout
        return torch.frombuffer(bytearray(out), dtype=torch.float64)

    return run


def check(driver, rows, columns, channels, limits, taps_last):
    batch, inputs, outputs = 2, *channels
    x = torch.randn(batch, inputs, rows[0], columns[0], dtype=torch.float64, requires_grad=True)
    weight = torch.randn(inputs, outputs, rows[1], columns[1], dtype=torch.float64, requires_grad=True)
    y = F.conv_transpose2d(x, weight, None, *zip(rows[2:], columns[2:], strict=True))
    g = torch.randn_like(y)
    expected = [y.detach(), *torch.autograd.grad(y, (x, weight), g), torch.ones_like(y)]
    numbers = [batch, inputs, outputs, *rows, *columns, *limits, int(taps_last)]
    results = driver(numbers, [x.detach(), weight.detach(), g]).split([t.numel() for t in expected])
    names = ("output", "input's gradient", "weight's gradient", "owners")
    for name, result, truth in zip(names, results, expected, strict=True):
        torch.testing.assert_close(
            result.view(truth.shape), truth, rtol=1e-11, atol=1e-11, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("part", range(6))
def test_every_axis(driver, part):
    """Each geometry of rows once, with another of columns; one of limits and order of taps for each sixth of them."""
    limits, taps_last = list(itertools.product(LIMITS.values(), (False, True)))[part]
    rows = AXES[part::6]
    for i, other in enumerate(torch.randperm(len(AXES))[: len(rows)].tolist()):
        check(driver, rows[i], AXES[other], (3, 1 + i % 4), limits, taps_last)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        ((32, 4, 2, 1, 0), (32, 4, 2, 1, 0)),
        ((16, 3, 2, 1, 1), (70, 3, 2, 1, 1)),
        ((5, 9, 1, 4, 0), (6, 17, 1, 0, 0)),
        ((3, 16, 16, 0, 0), (4, 16, 16, 0, 0)),
        ((2, 1, 40, 0, 3), (3, 2, 80, 0, 79)),
    ],
)
def test_the_kernels_limits(driver, rows, columns):
    """Where a tile is a part of the plane, the taps take several products, and strides outgrow a tile."""
    for taps_last in (False, True):
        check(driver, rows, columns, (2, 3), LIMITS["whole"], taps_last)
