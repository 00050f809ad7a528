"""conv_transpose2d_loss as it takes the Triton kernels, in Triton's interpreter."""

import os

import pytest
from conv_cases import CASES
from test_conv_transpose_loss import check, ours, problem, saved_by

import pyaegpu

pytestmark = [
    pytest.mark.interpret,
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1 when pytest starts"),
]
ALGORITHMS = {
    "4x4": "one product per tile of pixels, whose epilogue",
    "dense 4x4": "an implicit matrix product for each phase of the stride, then in one pass",
    "dense 2x2": "one matrix product with a pixel-shuffle store, then in one pass",
    "groups": "stock convolution, then in one pass",
}


@pytest.fixture(autouse=True)
def selected():
    with pyaegpu.backend("triton"):
        yield


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm(name):
    case = CASES[name]
    found = pyaegpu.explain(pyaegpu.conv_transpose2d_loss, *problem(case), **case.numbers)
    assert found.backend == "triton" and found.algorithm.startswith(ALGORITHMS[name])
    for kind, activation in (("bce", "sigmoid"), ("mse", "leaky_relu"), ("bce_logits", None)):
        tensors = problem(case, kind)
        check(case, tensors, kind=kind, activation=activation, reduction="mean")
        _, _, saved = saved_by(ours(case, kind=kind, activation=activation), tensors)
        assert [t.shape for t in saved] == [tensors[3].shape]
