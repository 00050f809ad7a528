"""Transposed convolution and batch normalisation as the public functions take Triton's kernels, in Triton's
interpreter: what is chosen, derivatives in eager and compiled graphs, and the ops that only a GPU has kernels of."""

import os

import pytest
import torch
import torch.nn.functional as F
from conv_cases import CASES as CONVOLUTIONS
from conv_cases import Case as Convolution
from conv_cases import strides_of
from norm_cases import ACTIVATIONS, Case, assert_same, running_of
from oracle import run, upstreams
from test_conv_transpose_norm import calls, check, tensors_of
from torch.library import opcheck

import pyaegpu

pytestmark = [
    pytest.mark.interpret,
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1 when pytest starts"),
]
NAMES = ("dense 4x4", "dense 2x2", "dense pixel", "dense 3x3")
FUSED = {name: CONVOLUTIONS[name] for name in NAMES}
each_fused = pytest.mark.parametrize("case", FUSED.values(), ids=FUSED)
SHAPES = ((17, 5), (5, 3, 2, 2), (2, 5, 33))
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
IN_EPILOGUE = "statistics in its epilogue"


@pytest.fixture(autouse=True)
def selected():
    torch._dynamo.reset()
    with pyaegpu.backend("triton"):
        yield


@each_shape
def test_batch_norm_act(shape):
    for training, name in ((True, "none"), (True, "leaky by -0.5"), (False, "tanh")):
        case = Case(shape, training)
        for dtypes in ((torch.float32,) * 2, (torch.float16, torch.float32)):
            case.check(case.tensors(dtypes), **ACTIVATIONS[name])
        case.check(case.tensors(parameters=0), (0,), **ACTIVATIONS[name])


def test_batch_norm_act_of_channels_last():
    case = Case((2, 37, 3, 5))
    input, *parameters = case.tensors()
    case.check((input.to(memory_format=torch.channels_last), *parameters), activation="relu")


@each_shape
def test_batch_norm_act_compiled(shape):
    case = Case(shape)
    results = [
        run(fn, case.tensors())
        for fn in (
            torch.compile(case.ours(activation="leaky_relu"), fullgraph=True, backend="aot_eager"),
            case.stock(activation="leaky_relu"),
        )
    ]
    for ours, stock in zip(*results, strict=True):
        assert_same(ours, stock, 1e-4)


def explained(case, tensors, training=True):
    mean, var = running_of(case.channels, torch.float32)
    gain, shift = tuple(tensors[3:]) or (None, None)
    params = {"running_mean": mean, "running_var": var, "norm_weight": gain, "norm_bias": shift}
    function = pyaegpu.conv_transpose2d_norm_act
    return pyaegpu.explain(function, *tensors[:3], **case.numbers, **params, training=training)


def test_the_algorithm():
    for case in FUSED.values():
        found = explained(case, tensors_of(case))
        assert found.backend == "triton" and IN_EPILOGUE in found.algorithm
        assert IN_EPILOGUE not in explained(case, tensors_of(case), False).algorithm
    for name in ("4x4", "groups", "dilation"):
        case = CONVOLUTIONS[name]
        found = explained(case, tensors_of(case))
        assert IN_EPILOGUE not in found.algorithm and "then triton: statistics by tiles" in found.algorithm


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@each_fused
def test_values_and_gradients(case, dtype):
    for name in ("none", "leaky by -0.5"):
        check(case, tensors_of(case, (dtype, torch.float32)), **ACTIVATIONS[name])


@pytest.mark.parametrize("name", NAMES[:2])
def test_without_parameters_and_some_gradients(name):
    case = FUSED[name]
    check(case, tensors_of(case, bias=False), bias=False, activation="relu")
    check(case, tensors_of(case, affine=False), activation="sigmoid")
    for wanted in ((0,), (1,), (2, 3)):
        check(case, tensors_of(case), wanted=wanted, activation="relu")


@each_fused
def test_running_statistics(case):
    kept = ([], [])
    for index in range(2):
        calls(case, statistics=kept[index], activation="relu")[index](*tensors_of(case))
    assert_same(kept[0][0], kept[1][0])


@each_fused
def test_evaluation(case):
    """Folded, and with gradients one after the other."""
    check(case, tensors_of(case), False, activation="tanh")
    larger = Convolution((8, *case.input[1:]), case.weight, case.numbers)
    with torch.no_grad():
        ours, stock = (fn(*tensors_of(larger)) for fn in calls(larger, False, activation="tanh"))
    torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-4)


@each_fused
def test_second_derivatives(case):
    results = []
    for fn in calls(case, activation="tanh"):
        leaves = [t.requires_grad_() for t in tensors_of(case)]
        value = fn(*leaves)
        first = torch.autograd.grad(value, leaves, upstreams([value])[0], create_graph=True)
        total = sum((g**2).sum() for i, g in enumerate(first) if i != 2)
        results.append(torch.autograd.grad(total, leaves, materialize_grads=True))
    assert_same(*results, 2e-3)


@each_fused
def test_memory_format_is_stocks(case):
    for which in (0, 1):
        tensors = tensors_of(case)
        tensors[which] = tensors[which].contiguous(memory_format=torch.channels_last)
        results = [run(fn, tensors) for fn in calls(case, activation="relu")]
        strides = [strides_of((*values, *grads), False) for values, grads in results]
        assert strides[0] == strides[1]


@each_fused
def test_what_the_graph_stores(case):
    leaves, stored = [t.requires_grad_() for t in tensors_of(case)], []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: stored.append(t) or t, lambda t: t):
        value = calls(case, activation="relu")[0](*leaves)
    sized = [t for t in stored if t.shape == value.shape]
    assert len(sized) == 1 and sized[0].untyped_storage().data_ptr() != value.untyped_storage().data_ptr()


@each_fused
def test_compiled(case):
    tensors = tensors_of(case)
    ours, stock = calls(case, activation="leaky_relu", negative_slope=0.2)
    fn = torch.compile(ours, fullgraph=True, backend="aot_eager")
    for a, b in zip(run(fn, tensors), run(stock, tensors), strict=True):
        assert_same(a, b, 1e-4)


@pytest.mark.parametrize(
    ("op", "name", "activation", "channels_last"),
    [("phases", "dense 4x4", 2, True), ("matmul", "dense 2x2", 0, False)],
)
def test_opcheck(op, name, activation, channels_last):
    case = CONVOLUTIONS[name]
    numbers = [[case.numbers.get(key, 0)] * 2 for key in ("stride", "padding", "output_padding")]
    args = [t.requires_grad_() for t in tensors_of(case)]
    opcheck(
        getattr(torch.ops.pyaegpu, f"conv_transpose2d_{op}_norm_fwd").default,
        (*args, *numbers, 1e-3, activation, 0.2, False, channels_last),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"),
    )


def test_a_module_trains_as_stocks():
    ours = pyaegpu.nn.ConvTransposeNormAct2d(4, 5, 4, 2, 1)
    stock = torch.nn.Sequential(torch.nn.ConvTranspose2d(4, 5, 4, 2, 1), torch.nn.BatchNorm2d(5), torch.nn.ReLU())
    stock.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(2, 4, 5, 5)
    for _ in range(2):
        results = []
        for model in (ours, stock):
            value = model(x)
            model.zero_grad()
            F.mse_loss(value, torch.ones_like(value)).backward()
            grads = [p.grad for name, p in model.named_parameters() if name != "0.bias"]
            results.append([value.detach(), *grads, *model.buffers()])
        assert_same(*results, 1e-4)


@pytest.mark.parametrize("case", [FUSED["dense 4x4"], FUSED["dense 2x2"]], ids=["phases", "matmul"])
def test_a_loss_scale_does_not_reach_the_bias(case):
    """Its gradient is 0, of whatever sums in float32 that float16 could not hold."""
    input, weight, bias = tensors_of(case)[:3]
    halves = [t.detach().half().requires_grad_() for t in (input, weight, bias)]
    channels = bias.numel()
    out = pyaegpu.conv_transpose2d_norm_act(
        *halves, **case.numbers, norm_weight=torch.ones(channels), norm_bias=torch.full((channels,), 9.0), training=True
    )
    out.backward(torch.full_like(out, 6e4))
    assert torch.equal(halves[2].grad, torch.zeros(channels).half())
