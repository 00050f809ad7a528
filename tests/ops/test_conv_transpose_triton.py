"""The Triton kernels as the public functions take them, in Triton's interpreter: the choice of algorithm, derivatives
in eager and compiled graphs, and the registered ops that only a GPU has kernels of."""

import os

import pytest
import torch
from conv_cases import ACTIVATIONS, CASES, DENSE, strides_of
from oracle import run, upstreams
from torch.library import opcheck

import pyaegpu

pytestmark = [
    pytest.mark.interpret,
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1 when pytest starts"),
]
ALGORITHMS = {
    "dense 4x4": "implicit matrix product for each phase",
    "100 channels": "implicit matrix product for each phase",
    "dense 2x2": "one matrix product with a pixel-shuffle",
    "dense pixel": "one matrix product with a pixel-shuffle",
    "asymmetric": "one product per tile",
    "groups": "stock convolution",
    "1-D": "stock convolution",
}
NAMES = ("dense 4x4", "dense 2x2", "dense pixel", "asymmetric", "groups", "1-D", "3-D")
each_name = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def selected():
    torch._dynamo.reset()
    with pyaegpu.backend("triton"):
        yield


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_algorithm(name):
    case = CASES[name]
    function = getattr(pyaegpu, f"conv_transpose{len(case.input) - 2}d")
    found = pyaegpu.explain(function, *case.tensors(), **case.numbers, activation="relu")
    assert found.backend == "triton" and ALGORITHMS[name] in found.algorithm


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", [*DENSE, "asymmetric", "1-D", "3-D"])
def test_values_and_gradients(name, dtype):
    for activation in ("none", "leaky", "tanh"):
        CASES[name].check(CASES[name].tensors(dtype), **ACTIVATIONS[activation])


@each_name
def test_other_activations_without_bias_and_some_gradients(name):
    case = CASES[name]
    for activation, wanted in (("relu", (0,)), ("sigmoid", (1,)), ("leaky by -0.3", (0, 1)), ("none", (1,))):
        case.check(case.tensors(bias=False), wanted, **ACTIVATIONS[activation])
    for activation in ("none", "relu"):
        case.check(case.tensors(), (2,), **ACTIVATIONS[activation])
    input, *parameters = case.tensors()
    case.check((input[0], *parameters), activation="tanh")


@each_name
def test_compiled(name):
    case = CASES[name]
    for activation in ("none", "leaky"):
        call = torch.compile(case.ours(**ACTIVATIONS[activation]), fullgraph=True, backend="aot_eager")
        results, stock = (run(fn, case.tensors()) for fn in (call, case.stock(**ACTIVATIONS[activation])))
        for a, b in zip(results[0] + results[1], stock[0] + stock[1], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@each_name
def test_second_derivatives(name):
    case = CASES[name]
    for activation in ("none", "tanh"):
        results = []
        for fn in (case.ours(**ACTIVATIONS[activation]), case.stock(**ACTIVATIONS[activation])):
            leaves = [t.requires_grad_() for t in case.tensors()]
            value = fn(*leaves)
            first = torch.autograd.grad(value, leaves, upstreams([value])[0], create_graph=True)
            total = sum((g**2).sum() for g in first)
            results.append(torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * max(1.0, b.abs().max().item()))


@each_name
def test_memory_format_is_stocks(name):
    case = CASES[name]
    order = torch.channels_last if len(case.input) == 4 else torch.contiguous_format
    for which in (0, 1):
        tensors = case.tensors()
        tensors[which] = tensors[which].contiguous(memory_format=order)
        results = [run(fn(activation="relu"), tensors) for fn in (case.ours, case.stock)]
        strides = [strides_of((*values, *grads), False) for values, grads in results]
        assert strides[0] == strides[1]


@pytest.mark.parametrize("op, name", [("phases", "dense 4x4"), ("matmul", "dense 2x2"), ("matmul", "dense pixel")])
def test_opcheck(op, name):
    case = CASES[name]
    numbers = [[case.numbers.get(key, 0)] * 2 for key in ("stride", "padding", "output_padding")]
    for activation, channels_last in ((0, False), (2, True)):
        args = [t.requires_grad_() for t in case.tensors()]
        opcheck(
            getattr(torch.ops.pyaegpu, f"conv_transpose2d_{op}_fwd").default,
            (*args, *numbers, activation, 0.2, False, channels_last),
            test_utils=("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"),
        )
