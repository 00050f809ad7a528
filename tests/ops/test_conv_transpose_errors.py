"""Bad arguments of the transposed convolutions: stock PyTorch's type of error, and the argument's name."""

import itertools

import pytest
import torch
from conv_cases import CASES

import pyaegpu

X, W, B = torch.rand(2, 3, 4, 4), torch.rand(3, 2, 3, 3), torch.rand(2)
LINE, VOLUME = (torch.rand(2, 3, 4), torch.rand(3, 2, 3)), (torch.rand(1, 3, 2, 2, 2), torch.rand(3, 2, 2, 2, 2))
META = X.to("meta")
# What differs from a right call of conv_transpose2d, and a name that the message has.
STOCK = {
    "input of another rank": ({"input": torch.rand(3, 4)}, "input"),
    "input of rank 0": ({"input": torch.tensor(1.0)}, "input|weight"),
    "input of rank 1": ({"input": torch.rand(5)}, "input|weight"),
    "weight of rank 0": ({"weight": torch.tensor(1.0)}, "weight"),
    "weight of rank 1": ({"weight": torch.rand(3)}, "weight"),
    "stride beyond 32 bits": ({"stride": 2**32}, ""),
    "input of five dimensions": ({"input": torch.rand(1, 2, 3, 4, 4)}, "input"),
    "channels of the input": ({"input": torch.rand(2, 5, 4, 4)}, "input|weight"),
    "channels of the weight": ({"weight": torch.rand(4, 2, 3, 3)}, "input|weight"),
    "rank of the weight": ({"weight": torch.rand(3, 2, 3)}, "weight"),
    "empty weight": ({"weight": torch.rand(3, 2, 0, 3)}, "weight|kernel"),
    "size of the bias": ({"bias": torch.rand(3)}, "bias"),
    "bias of one channel": ({"bias": torch.rand(1)}, "bias"),
    "rank of the bias": ({"bias": torch.rand(2, 1)}, "bias"),
    "bias of rank 0": ({"bias": torch.tensor(1.0)}, "bias"),
    "groups": ({"groups": 2}, "groups|weight|channels"),
    "no groups": ({"groups": 0}, "groups"),
    "negative groups": ({"groups": -1}, "groups"),
    "weight of another dtype": ({"weight": W.double()}, "weight"),
    "bias of another dtype": ({"bias": B.double()}, "bias"),
    "integer input": ({"input": X.long()}, "weight|input"),
    "output padding as large as the stride": ({"stride": 2, "output_padding": 2}, "output.padding"),
    "output padding of one axis": ({"stride": (2, 3), "output_padding": (0, 3)}, "output.padding"),
    "output padding without a stride": ({"output_padding": 1}, "output.padding"),
    "negative output padding": ({"stride": 2, "output_padding": -1}, "output.padding"),
    "negative padding": ({"padding": -1}, "padding"),
    "no stride": ({"stride": 0}, "stride"),
    "negative stride": ({"stride": -1}, "stride"),
    "one stride of 0": ({"stride": (1, 0)}, "stride"),
    "no dilation": ({"dilation": 0}, "dilation"),
    "negative dilation": ({"dilation": (1, -1)}, "dilation"),
    "a result of negative size": ({"padding": 9}, "padding|too small"),
    "too many strides": ({"stride": (1, 1, 1)}, "stride"),
    "paddings of one axis more": ({"padding": [0, 0, 0]}, "padding"),
    "no strides": ({"stride": ()}, "stride"),
    "stride of a kind": ({"stride": 1.0}, "stride"),
    "stride as text": ({"stride": "1"}, "stride"),
    "stride as nothing": ({"stride": None}, "stride"),
    "strides of a kind": ({"stride": (1, 1.5)}, "stride"),
    "padding of a kind": ({"padding": 0.5}, "padding"),
    "padding by name": ({"padding": "same"}, "padding"),
    "output padding of a kind": ({"output_padding": (0, None)}, "output_padding"),
    "dilation of a kind": ({"dilation": [1.0, 1.0]}, "dilation"),
    "groups of a kind": ({"groups": 1.0}, "groups"),
    "groups in a tuple": ({"groups": (1,)}, "groups"),
    "input as a list": ({"input": [1.0]}, "input"),
    "input as nothing": ({"input": None}, "input"),
    "weight as a number": ({"weight": 1.0}, "weight"),
    "bias as a number": ({"bias": 1.0}, "bias"),
    "bias as a list": ({"bias": [1.0, 1.0]}, "bias"),
}
STOCK_1D = {
    "1-D, rank": ({"input": torch.rand(2, 3, 4, 4)}, "input"),
    "1-D, strides": ({"stride": (1, 1)}, "stride"),
    "1-D, output padding": ({"output_padding": 1}, "output.padding"),
}
STOCK_3D = {
    "3-D, rank": ({"input": torch.rand(2, 4)}, "input"),
    "3-D, strides": ({"stride": (1, 1)}, "stride"),
    "3-D, weight": ({"weight": torch.rand(3, 2, 2, 2)}, "weight"),
    "3-D, output padding": ({"output_padding": (0, 0, 1)}, "output.padding"),
}
RIGHT = {
    1: {"input": LINE[0], "weight": LINE[1], "bias": B},
    2: {"input": X, "weight": W, "bias": B},
    3: {"input": VOLUME[0], "weight": VOLUME[1], "bias": B},
}
CALLS = {
    name: (dims, RIGHT[dims] | wrong, text)
    for dims, cases in ((1, STOCK_1D), (2, STOCK), (3, STOCK_3D))
    for name, (wrong, text) in cases.items()
}


def raised(fn, *args, **kwargs):
    with pytest.raises(Exception) as info:
        fn(*args, **kwargs)
    return info


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("backend", ["reference", "cpu", "auto"])
def test_stocks_error_with_the_arguments_name(backend, name, activation):
    dims, arguments, text = CALLS[name]
    stock = raised(getattr(torch.nn.functional, f"conv_transpose{dims}d"), **arguments)
    with pyaegpu.backend(backend):
        ours = raised(getattr(pyaegpu, f"conv_transpose{dims}d"), **arguments, activation=activation)
    assert issubclass(ours.type, stock.type), (ours.value, stock.value)
    ours.match(text)


@pytest.mark.parametrize("name", CALLS)
def test_the_error_is_the_same_in_the_backward_free_modes(name):
    """Without a graph, and with inputs that need one."""
    dims, arguments, _ = CALLS[name]
    function = getattr(pyaegpu, f"conv_transpose{dims}d")
    plain = raised(function, **arguments)
    with torch.no_grad():
        assert raised(function, **arguments).type is plain.type
    tensors = {k: v for k, v in arguments.items() if isinstance(v, torch.Tensor) and v.is_floating_point()}
    needing = arguments | {k: v.detach().clone().requires_grad_() for k, v in tensors.items()}
    assert raised(function, **needing).type is plain.type


UPSAMPLE = {"input": X, "weight": torch.rand(2, 3, 3, 3), "bias": B}
OF_UPSAMPLE = {
    "rank of the input": ({"input": torch.rand(4, 4)}, RuntimeError, "input"),
    "input of five dimensions": ({"input": torch.rand(1, 2, 3, 4, 4)}, RuntimeError, "input"),
    "channels": ({"input": torch.rand(2, 4, 4, 4)}, RuntimeError, "weight.*4 channels"),
    "kernel": ({"weight": torch.rand(2, 3, 4, 4)}, RuntimeError, r"weight.*3, 3.*\(2, 3, 4, 4\)"),
    "rank of the weight": ({"weight": torch.rand(2, 3, 3)}, RuntimeError, "weight"),
    "size of the bias": ({"bias": torch.rand(3)}, RuntimeError, r"bias.*\(2,\).*\(3,\)"),
    "rank of the bias": ({"bias": torch.rand(2, 1)}, RuntimeError, "bias"),
    "dtype of the weight": ({"weight": torch.rand(2, 3, 3, 3).double()}, RuntimeError, "weight.*float32.*float64"),
    "dtype of the bias": ({"bias": B.half()}, RuntimeError, "bias.*float32.*float16"),
    "device": ({"weight": torch.rand(2, 3, 3, 3, device="meta")}, RuntimeError, "weight.*cpu.*meta"),
    "scale of 3": ({"scale": 3}, ValueError, "scale must be 2, got 3"),
    "scale of 1": ({"scale": 1}, ValueError, "scale"),
    "scale of each axis": ({"scale": (2, 2)}, ValueError, "scale"),
    "scale as text": ({"scale": "2"}, ValueError, "scale.*'2'"),
    "scale as nothing": ({"scale": None}, ValueError, "scale"),
    "activation": ({"activation": "gelu"}, ValueError, "activation.*'relu'.*'gelu'"),
    "slope": ({"activation": "leaky_relu", "negative_slope": "0.2"}, TypeError, "negative_slope.*str"),
    "input as a list": ({"input": [1.0]}, TypeError, "input.*list"),
    "weight as nothing": ({"weight": None}, TypeError, "weight.*NoneType"),
    "bias as a number": ({"bias": 0.0}, TypeError, "bias.*float"),
}


@pytest.mark.parametrize("name", OF_UPSAMPLE)
@pytest.mark.parametrize("backend", ["reference", "cpu", "auto"])
def test_upsample_conv2d(backend, name):
    wrong, error, text = OF_UPSAMPLE[name]
    with pyaegpu.backend(backend), pytest.raises(error, match=text):
        pyaegpu.upsample_conv2d(**(UPSAMPLE | wrong))


ACTIVATIONS = {
    "unknown": (
        {"activation": "gelu"},
        ValueError,
        "activation.*None, 'relu', 'leaky_relu', .*'gelu'",
    ),
    "in capitals": ({"activation": "ReLU"}, ValueError, "activation.*'ReLU'"),
    "a function": ({"activation": torch.relu}, ValueError, "activation"),
    "a number": ({"activation": 1}, ValueError, "activation.*1"),
    "empty": ({"activation": ""}, ValueError, "activation"),
    "slope as text": ({"activation": "leaky_relu", "negative_slope": "1"}, TypeError, "negative_slope.*number.*str"),
    "slope as nothing": ({"activation": "leaky_relu", "negative_slope": None}, TypeError, "negative_slope.*NoneType"),
    "slope as a tensor": ({"activation": "leaky_relu", "negative_slope": B[0]}, TypeError, "negative_slope.*Tensor"),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("case", ["4x4", "groups", "1-D", "3-D"])
def test_activations(device, case, name):
    wrong, error, text = ACTIVATIONS[name]
    case = CASES[case]
    with pytest.raises(error, match=text):
        case.ours(**wrong)(*case.tensors(device=device))


def test_options_are_keywords():
    with pytest.raises(TypeError):
        pyaegpu.conv_transpose2d(X, W, B, 1, 0, 0, 1, 1, "relu")
    with pytest.raises(TypeError):
        pyaegpu.upsample_conv2d(X, torch.rand(2, 3, 3, 3), B, 2)
    with pytest.raises(TypeError, match="colour"):
        pyaegpu.conv_transpose2d(X, W, colour=1)


@pytest.mark.parametrize("backend", ["reference", "cpu", "auto"])
@pytest.mark.parametrize("name", ["4x4", "dense 4x4", "groups", "1-D", "3-D"])
def test_parameters_without_data_are_refused(backend, name):
    """Stock PyTorch reads what is not there; of an input without data it gives a result without."""
    case = CASES[name]
    for activation, which in itertools.product((None, "tanh"), (1, 2)):
        tensors = case.tensors()
        tensors[which] = tensors[which].to("meta")
        with pyaegpu.backend(backend), pytest.raises(RuntimeError, match=("weight", "bias")[which - 1] + ".*cpu.*meta"):
            case.ours(activation=activation)(*tensors)
    input, weight, bias = case.tensors()
    assert case.ours()(input.to("meta"), weight, bias).device.type == "meta"


@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
def test_meta_tensors_give_shapes(activation):
    for case in CASES.values():
        tensors = case.tensors(device="meta")
        ours, stock = case.ours(activation=activation)(*tensors), case.stock(activation=activation)(*tensors)
        assert ours.device.type == "meta" and ours.shape == stock.shape
    larger = pyaegpu.upsample_conv2d(META, torch.rand(2, 3, 3, 3, device="meta"), activation=activation)
    assert larger.shape == (2, 2, 8, 8)


@pytest.mark.gpu
@pytest.mark.parametrize("which", range(3))
def test_devices_of_a_gpu_call(which):
    for name in ("4x4", "dense 4x4"):
        tensors = CASES[name].tensors(device="cuda")
        tensors[which] = tensors[which].cpu()
        with pytest.raises(RuntimeError, match=r"weight|bias"):
            CASES[name].ours(activation="relu")(*tensors)
