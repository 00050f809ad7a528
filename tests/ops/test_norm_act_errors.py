"""Bad arguments of batch_norm_act: stock PyTorch's type of error, and the argument's name."""

import pytest
import torch
import torch.nn.functional as F

import pyaegpu

X, P = torch.rand(2, 3, 4, 4), torch.ones(3)
RIGHT = {"input": X, "running_mean": torch.zeros(3), "running_var": P, "weight": P, "bias": P, "training": True}
# What differs from a right call, and a name that the message has.
STOCK = {
    "input of rank 0": ({"input": torch.tensor(1.0)}, "input"),
    "input as a list": ({"input": [1.0]}, "input"),
    "input as nothing": ({"input": None}, "input"),
    "one value per channel": ({"input": torch.rand(1, 3)}, "more than 1 value per channel"),
    "one value per channel of images": ({"input": torch.rand(1, 3, 1, 1)}, "more than 1 value per channel"),
    "integer input": ({"input": X.long()}, ""),
    "size of the weight": ({"weight": torch.ones(4)}, "weight.*3 channels.*4"),
    "weight of one value": ({"weight": torch.ones(1)}, "weight"),
    "size of the bias": ({"bias": torch.ones(2)}, "bias.*3 channels.*2"),
    "size of the running mean": ({"running_mean": torch.ones(4)}, "running_mean"),
    "size of the running variance": ({"running_var": torch.ones(4)}, "running_var"),
    "size of both": ({"running_mean": torch.ones(2), "running_var": torch.ones(2)}, "running_mean"),
    "weight as a number": ({"weight": 1.0}, "weight"),
    "bias as a list": ({"bias": [1.0]}, "bias"),
    "running mean as a number": ({"running_mean": 0.0}, "running_mean"),
    "weight of float64": ({"weight": P.double()}, ""),
    "bias of float16": ({"bias": P.half()}, ""),
    "float32 input, parameters of float16": ({"weight": P.half(), "bias": P.half()}, ""),
    "no running mean in evaluation": ({"running_mean": None, "training": False}, "running_mean"),
    "no running variance in evaluation": ({"running_var": None, "training": False}, "running_var"),
    "neither in evaluation": ({"running_mean": None, "running_var": None, "training": False}, "running_mean"),
    "eps of 0 in training": ({"eps": 0.0}, "eps"),
    "negative eps in training": ({"eps": -1e-3}, "eps"),
    "eps as text": ({"eps": "1"}, "eps"),
    "eps as nothing": ({"eps": None}, "eps"),
    "momentum as text": ({"momentum": "1"}, "momentum"),
    "momentum as nothing": ({"momentum": None}, "momentum"),
}
OURS = {
    "input of rank 1": ({"input": torch.rand(3)}, IndexError, r"input.*\(3,\)"),
    "training as a number": ({"training": 1}, TypeError, "training.*int"),
    "training as nothing": ({"training": None}, TypeError, "training.*NoneType"),
    "running mean alone": ({"running_var": None}, ValueError, "running_mean and running_var"),
    "running variance alone": ({"running_mean": None}, ValueError, "running_mean and running_var"),
    "unknown activation": ({"activation": "gelu"}, ValueError, "activation.*None, 'relu', 'leaky_relu', .*'gelu'"),
    "activation in capitals": ({"activation": "ReLU"}, ValueError, "activation.*'ReLU'"),
    "a function as activation": ({"activation": torch.relu}, ValueError, "activation"),
    "slope as text": ({"activation": "leaky_relu", "negative_slope": "1"}, TypeError, "negative_slope.*str"),
    "slope as a tensor": ({"activation": "leaky_relu", "negative_slope": P[0]}, TypeError, "negative_slope.*Tensor"),
}
each_backend = pytest.mark.parametrize("backend", ["reference", "cpu", "auto"])


def raised(fn, **arguments):
    with pytest.raises(Exception) as info:
        fn(**arguments)
    return info


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("name", STOCK)
@each_backend
def test_stocks_error_with_the_arguments_name(backend, name, activation):
    wrong, text = STOCK[name]
    stock = raised(F.batch_norm, **(RIGHT | wrong))
    with pyaegpu.backend(backend):
        ours = raised(pyaegpu.batch_norm_act, **(RIGHT | wrong), activation=activation)
    assert issubclass(ours.type, stock.type) or stock.type in (AttributeError, IndexError), (ours.value, stock.value)
    ours.match(text)


@pytest.mark.parametrize("name", OURS)
@each_backend
def test_what_stock_does_not_check(backend, name):
    wrong, error, text = OURS[name]
    with pyaegpu.backend(backend), pytest.raises(error, match=text or None):
        pyaegpu.batch_norm_act(**(RIGHT | wrong))


@pytest.mark.parametrize("name", STOCK)
def test_the_error_is_the_same_without_and_with_gradients(name):
    wrong, _ = STOCK[name]
    arguments = RIGHT | wrong
    plain = raised(pyaegpu.batch_norm_act, **arguments)
    with torch.no_grad():
        assert raised(pyaegpu.batch_norm_act, **arguments).type is plain.type
    needing = {
        key: value.clone().requires_grad_()
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not key.startswith("running")
        else value
        for key, value in arguments.items()
    }
    assert raised(pyaegpu.batch_norm_act, **needing).type is plain.type


@pytest.mark.parametrize("name", STOCK)
def test_a_refused_call_changes_no_more_than_stocks(name):
    """Which updates the running statistics before it looks at the dtype of the bias."""
    wrong, _ = STOCK[name]
    results = []
    for function in (pyaegpu.batch_norm_act, F.batch_norm):
        arguments = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in (RIGHT | wrong).items()}
        raised(function, **arguments)
        results.append([v for v in arguments.values() if isinstance(v, torch.Tensor)])
    assert all(map(torch.equal, *results))


def test_options_are_keywords():
    with pytest.raises(TypeError):
        pyaegpu.batch_norm_act(X, None, None, None, None, True, 0.1, 1e-5, "relu")
    with pytest.raises(TypeError, match="colour"):
        pyaegpu.batch_norm_act(X, None, None, training=True, colour=1)


@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
@each_backend
def test_parameters_without_data_are_refused(backend, name):
    wrong = {name: RIGHT[name].to("meta")}
    with pyaegpu.backend(backend), pytest.raises(RuntimeError):
        pyaegpu.batch_norm_act(**(RIGHT | wrong))


@pytest.mark.parametrize("activation", [None, "tanh"])
def test_meta_tensors_give_shapes(activation):
    for shape, training in (((5, 3), True), ((2, 3, 4, 5), False), ((2, 3, 2, 2, 2), True)):
        given = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in RIGHT.items()}
        given |= {"input": torch.empty(shape, device="meta"), "training": training}
        out = pyaegpu.batch_norm_act(**given, activation=activation)
        assert out.device.type == "meta" and out.shape == shape


@pytest.mark.parametrize("dtypes", [(torch.float16, torch.float64), (torch.bfloat16, torch.float16)], ids=str)
@each_backend
def test_mixed_dtypes_are_refused_where_stock_refuses_them(backend, dtypes):
    wrong = {k: v.to(dtypes[0 if k == "input" else 1]) for k, v in RIGHT.items() if isinstance(v, torch.Tensor)}
    stock = raised(F.batch_norm, **(RIGHT | wrong))
    with pyaegpu.backend(backend):
        assert raised(pyaegpu.batch_norm_act, **(RIGHT | wrong)).type is stock.type
