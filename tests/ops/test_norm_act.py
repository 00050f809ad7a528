"""Values and gradients of batch_norm_act against stock PyTorch in float64."""

import itertools

import oracle
import pytest
import torch
from norm_cases import ACTIVATIONS, Case, assert_same, each_activation, each_dtypes, each_mode, rounding_of_sums
from oracle import run

# Runs of one channel: none, one place, short ones that are walked as columns, and whole tiles with a rest.
SHAPES = {
    "2-D": (17, 5),
    "2-D of one channel": (7, 1),
    "one place": (6, 3, 1, 1),
    "short": (5, 3, 2, 2),
    "run of 16": (3, 7, 4, 4),
    "run of 31": (2, 3, 31),
    "run of 32": (2, 3, 4, 8),
    "run of 33": (2, 5, 33),
    "one image": (1, 3, 5, 7),
    "one channel": (3, 1, 9, 11),
    "64 channels": (3, 64, 3, 5),
    "300 channels": (2, 300, 2),
    "two values": (2, 300),
    "a tile and a rest": (2, 2, 1031),
    "volume": (2, 3, 3, 4, 5),
}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
# One of each walk through memory.
FEW = {name: SHAPES[name] for name in ("2-D", "short", "run of 33")}
few_shapes = pytest.mark.parametrize("shape", FEW.values(), ids=FEW)


@each_mode
@each_shape
def test_values_and_gradients(device, shape, training):
    case = Case(shape, training)
    for activation, parameters in itertools.product(ACTIVATIONS.values(), (2, 0)):
        case.check(case.tensors(device=device, parameters=parameters), **activation)


@each_mode
@each_dtypes
@each_shape
def test_dtypes(device, shape, dtypes, training):
    case = Case(shape, training)
    for activation in ("none", "leaky", "tanh"):
        results, _ = case.check(case.tensors(dtypes, device), **ACTIVATIONS[activation])
        assert results[0].dtype == dtypes[0]


@each_activation
@pytest.mark.parametrize(
    "shape", [(129, 300), (1031, 3), (301, 64), (70, 3, 33), (3, 2, 40, 1031), (130, 64, 2)], ids=str
)
def test_sums_of_several_tiles(kernel_device, shape, activation):
    """More rows, columns and images than one tile has."""
    for training in (True, False):
        case = Case(shape, training)
        case.check(case.tensors(device=kernel_device), **activation)


@each_mode
@few_shapes
def test_channels_are_kept_apart(device, shape, training):
    """Every channel with a mean and a scale of its own, far from the next one's."""
    channels = torch.arange(shape[1], dtype=torch.float32, device=device)
    place = channels.view(-1, *[1] * (len(shape) - 2))
    case = Case(shape, training)
    input, weight, bias = case.tensors(device=device)
    for activation in ("none", "leaky"):
        tensors = input * (1 + place) + 10 * place, weight + 2 * channels, bias - channels
        case.check(tensors, **ACTIVATIONS[activation])


@pytest.mark.parametrize("eps", [0.8, 1e-3, 1e-12])
@few_shapes
def test_eps(device, shape, eps):
    for training in (True, False):
        case = Case(shape, training, eps)
        case.check(case.tensors(device=device), activation="relu")


def without_weight(fn):
    return lambda x, bias: fn(x, None, bias)


def rounding_without_weight(case):
    def slack(inputs, upstream, wanted):
        x, bias = inputs
        return [[0.0], rounding_of_sums(case)((x, torch.ones_like(bias), bias), upstream, (0, 2))[1]]

    return slack


@few_shapes
def test_weight_or_bias_alone(device, shape):
    for training, activation in itertools.product((True, False), ("none", "sigmoid")):
        case, options = Case(shape, training), ACTIVATIONS[activation]
        input, weight, bias = case.tensors(device=device)
        case.check((input, weight), **options)
        calls = [without_weight(fn(**options)) for fn in (case.ours, case.stock)]
        oracle.check(*calls, (input, bias), slack=rounding_without_weight(case))


@few_shapes
def test_only_some_gradients(device, shape):
    for training, activation in itertools.product((True, False), ACTIVATIONS.values()):
        case = Case(shape, training)
        tensors, call = case.tensors(device=device), case.ours(**activation)
        expected = run(call, tensors)[1]
        for wanted in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2)):
            assert_same(run(call, tensors, wanted)[1], [expected[i] for i in wanted])
        assert not call(*tensors).requires_grad


@each_mode
def test_a_weight_of_zero_and_one_below(device, training):
    for shape in FEW.values():
        case = Case(shape, training)
        input, weight, bias = case.tensors(device=device)
        weight[0], weight[1] = 0.0, -abs(weight[1])
        for activation in ("none", "relu", "leaky by -0.5"):
            case.check((input, weight, bias), **ACTIVATIONS[activation])


NAN, INF = float("nan"), float("inf")


# Of an infinite weight stock's kernel on the CPU makes NaN, that on a GPU Inf.
@pytest.mark.parametrize(
    ("where", "value"),
    [("weight", NAN), *((name, value) for name in ("input", "bias", "upstream") for value in (NAN, INF, -INF))],
)
@few_shapes
def test_nan_and_inf_spread_as_in_stock(kernel_device, shape, where, value):
    """In float64: in float32 its tanh is 1 where the derivative is not yet 0."""
    for training, activation in itertools.product((True, False), ACTIVATIONS.values()):
        case = Case(shape, training)
        tensors = dict(zip(("input", "weight", "bias"), case.tensors(device=kernel_device), strict=True))
        tensors["upstream"] = oracle.upstreams([tensors["input"]])[0]
        tensors[where].view(-1)[1] = value
        *inputs, upstream = tensors.values()
        ours = run(case.ours(**activation), inputs, upstream=[upstream])
        stock = run(case.stock(**activation), [t.double() for t in inputs], upstream=[upstream])
        assert_same(ours[0] + ours[1], [t.float() for t in stock[0] + stock[1]], 1e-4, equal_nan=True)


@few_shapes
def test_a_channel_of_equal_values(device, shape):
    """Its variance is 0."""
    case = Case(shape)
    for value in (0.0, 3.3):
        input, weight, bias = case.tensors(device=device)
        input[:, 1] = value
        for activation in ("none", "relu"):
            ours, stock = (run(fn(**ACTIVATIONS[activation]), (input, weight, bias)) for fn in (case.ours, case.stock))
            assert_same(ours[0] + ours[1], stock[0] + stock[1], 1e-4)


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4, 5), (2, 3, 0, 5), (2, 0), (0, 0, 2)], ids=str)
def test_an_empty_input(device, shape):
    """As stock takes or refuses it."""
    for training, activation in itertools.product((True, False), ("none", "relu")):
        case, options = Case(shape, training), ACTIVATIONS[activation]
        tensors = case.tensors(device=device)
        try:
            expected = run(case.stock(**options), tensors)
        except IndexError:  # no channels
            with pytest.raises((ValueError, IndexError)):
                run(case.ours(**options), tensors)
            continue
        for ours, stock in zip(run(case.ours(**options), tensors), expected, strict=True):
            for a, b in zip(ours, stock, strict=True):
                torch.testing.assert_close(a, b, equal_nan=True)


@each_dtypes
def test_every_element_is_written(device, dtypes, nan_filled):
    for shape, training in itertools.product(SHAPES.values(), (True, False)):
        case = Case(shape, training)
        values, grads = run(case.ours(activation="tanh"), case.tensors(dtypes, device))
        assert all(t.isfinite().all() for t in (*values, *grads))


@few_shapes
def test_inputs_are_not_changed(device, shape):
    for training, activation in itertools.product((True, False), ACTIVATIONS.values()):
        case = Case(shape, training)
        tensors = case.tensors(device=device)
        copies = [t.clone() for t in tensors]
        run(case.ours(**activation), tensors)
        assert all(map(torch.equal, tensors, copies))
