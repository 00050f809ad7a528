"""torch.library.opcheck on the registered ops of the transposed convolutions."""

import itertools

import oracle
import pytest
import torch
from conv_cases import SMALL
from layouts import LAYOUTS
from torch.library import opcheck

import pyaegpu  # noqa: F401 - registers the ops

NONE, RELU, LEAKY_RELU, TANH, SIGMOID = range(5)
NAMES = {NONE: None, RELU: "relu", LEAKY_RELU: "leaky_relu", TANH: "tanh", SIGMOID: "sigmoid"}
CONV = ("conv_transpose2d_small_fwd", "conv_transpose2d_small_bwd")
POINTWISE = ("bias_act_", "bias_act_bwd")


def pair(value):
    return list(value) if isinstance(value, tuple) else [value] * 2


def numbers(case):
    return [pair(case.numbers.get(name, 0)) for name in ("stride", "padding", "output_padding")]


def forwards():
    cases = (("asymmetric", RELU), ("4x4", NONE), ("2x2", LEAKY_RELU), ("3x3", TANH), ("gaps", SIGMOID))
    for (name, activation), channels_last in itertools.product(cases, (False, True)):
        case = SMALL[name]
        input, weight, bias = case.tensors()
        bias = None if activation == SIGMOID else bias
        if channels_last:
            input = LAYOUTS["channels_last"](input)
        yield input, weight, bias, *numbers(case), activation, 0.2, False, channels_last
    input, weight, bias = SMALL["4x4"].tensors(torch.bfloat16)
    yield LAYOUTS["sliced"](input), LAYOUTS["permuted"](weight), bias, [2, 2], [1, 1], [0, 0], RELU, 0.0, False, False
    input, weight, bias = SMALL["4x4"].tensors(torch.float64)
    yield LAYOUTS["expanded_batch"](input), weight, None, [2, 2], [1, 1], [0, 0], NONE, 0.0, False, False


def backwards():
    every = itertools.cycle(itertools.product((True, False), repeat=3))
    for args, needed in zip(forwards(), every, strict=False):
        input, weight, _, stride, padding, _, activation, *rest = args
        out = torch.ops.pyaegpu.conv_transpose2d_small_fwd(*args)
        for g in (torch.ones_like(out), LAYOUTS["every_second"](out)):
            yield g, input, weight, out if activation else None, stride, padding, activation, *rest, *needed


def pointwise():
    shapes = ((2, 3, 4, 5), (2, 5, 7), (2, 3, 2, 3, 2))
    for shape, activation in itertools.product(shapes, (RELU, LEAKY_RELU, TANH, SIGMOID)):
        y, bias = oracle.filters(shape, shape[1:2], None)
        yield y, bias, activation
        if len(shape) == 4:
            yield LAYOUTS["channels_last"](y), None, activation
    yield torch.randn(2, 3, 4, 5).half(), None, TANH


def samples(op):
    if op == "conv_transpose2d_small_fwd":
        yield from forwards()
    elif op == "conv_transpose2d_small_bwd":
        yield from backwards()
    else:
        for y, bias, activation in pointwise():
            if op == "bias_act_":
                yield y, bias, activation, 0.2
            else:
                out = oracle.activate(y, NAMES[activation], 0.2)
                for need_bias, g in itertools.product((True, False), (torch.ones_like(y), LAYOUTS["every_second"](y))):
                    yield g, out, need_bias, activation, 0.2


def test_every_op_that_runs_here_is_sampled():
    registered = {n.removeprefix("pyaegpu::") for n in torch._C._dispatch_get_all_op_names() if "pyaegpu::" in n}
    named = {n for n in registered if n.startswith(("conv_transpose", "bias_act"))}
    products = {f"conv_transpose2d_{kind}_fwd" for kind in ("phases", "matmul", "phases_norm", "matmul_norm")}
    assert named - set(CONV + POINTWISE) == products | {"conv_transpose2d_small_loss_fwd"}  # sampled elsewhere
    assert all(list(samples(op)) for op in CONV + POINTWISE)


@pytest.mark.parametrize("op", CONV + POINTWISE)
def test_schema_and_fake_kernel(op):
    """The schema tells the truth, and the fake kernel gives the shapes, strides and dtypes of the real one."""
    for args in samples(op):
        opcheck(getattr(torch.ops.pyaegpu, op).default, args, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("op", CONV + POINTWISE)
def test_autograd_and_aot_dispatch(op):
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    for args in list(samples(op))[::4]:
        if op == "conv_transpose2d_small_fwd":
            args = [a.detach().requires_grad_() if isinstance(a, torch.Tensor) else a for a in args]
        opcheck(getattr(torch.ops.pyaegpu, op).default, tuple(args), test_utils=tests)


@pytest.mark.parametrize("name", ["conv_transpose2d_phases_fwd", "conv_transpose2d_matmul_fwd"])
def test_fake_kernels_of_what_runs_on_a_gpu_only(name):
    """Shapes and formats of the results, and of their gradients, without data."""
    for input, weight, bias, *rest in forwards():
        tensors = [t if t is None else t.to("meta").requires_grad_() for t in (input, weight, bias)]
        out = getattr(torch.ops.pyaegpu, name)(*tensors, *rest)
        real = torch.ops.pyaegpu.conv_transpose2d_small_fwd(input, weight, bias, *rest)
        assert out.shape == real.shape and out.stride() == real.stride() and out.dtype == real.dtype
        out.sum().backward()
        assert all(t is None or t.grad.shape == t.shape for t in tensors)


def test_the_registered_ops_compute():
    """And do not only have the right shape."""
    for input, weight, bias, *rest in forwards():
        stride, padding, extra, activation, slope, *_ = rest
        tensors = [input, weight] if bias is None else [input, weight, bias]

        def op(*t, rest=rest):
            return torch.ops.pyaegpu.conv_transpose2d_small_fwd(*t, *[None] * (3 - len(t)), *rest)

        def stock(*t, n=(stride, padding, extra), a=NAMES[activation], s=slope):
            return oracle.conv_transpose(*t, *[None] * (3 - len(t)), *n, activation=a, negative_slope=s)

        def linear(*t, n=(stride, padding, extra)):
            return oracle.conv_transpose(*t, *[None] * (3 - len(t)), *n)

        oracle.check(op, stock, tensors, slack=oracle.rounding_of(linear))
    for y, bias, activation in pointwise():
        expected = y if bias is None else y + bias.view(-1, *[1] * (y.dim() - 2))
        out = y.clone()
        torch.ops.pyaegpu.bias_act_(out, bias, activation, 0.2)
        torch.testing.assert_close(out, oracle.activate(expected, NAMES[activation], 0.2))


def test_create_graph_through_the_registered_forward_raises():
    input, weight, bias = (t.requires_grad_() for t in SMALL["4x4"].tensors())
    out = torch.ops.pyaegpu.conv_transpose2d_small_fwd(
        input, weight, bias, [2, 2], [1, 1], [0, 0], TANH, 0.0, False, False
    )
    (grad,) = torch.autograd.grad(out.sum(), input, create_graph=True)
    with pytest.raises(RuntimeError, match="conv_transpose2d_small_bwd has no derivative"):
        (grad**2).sum().backward()


@pytest.mark.parametrize("op", ["conv_transpose2d_small_bwd", "bias_act_bwd"])
def test_the_registered_backward_refuses_a_second_derivative(op):
    for args in list(samples(op))[::5]:
        leaves = [a.detach().requires_grad_() if isinstance(a, torch.Tensor) else a for a in args]
        results = getattr(torch.ops.pyaegpu, op)(*leaves)
        with pytest.raises(RuntimeError, match=f"{op} has no derivative"):
            sum(t.sum() for t in results).backward()
