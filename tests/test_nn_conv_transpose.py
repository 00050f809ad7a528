"""The modules of the transposed convolutions."""

import copy
import io
import itertools
import pickle

import oracle
import pytest
import torch
from torch import nn

import pyaegpu

# Class, channels, kernel and options, and an input.
LAYERS = {
    "1d": ("ConvTranspose1d", (4, 6, 3), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}, (2, 4, 5)),
    "2d": ("ConvTranspose2d", (5, 3, 4), {"stride": 2, "padding": 1}, (2, 5, 4, 3)),
    "2d dense": ("ConvTranspose2d", (3, 6, (3, 2)), {"stride": (2, 1), "dilation": (1, 2)}, (2, 3, 4, 3)),
    "2d without bias": ("ConvTranspose2d", (3, 2, 3), {"bias": False, "stride": 3}, (1, 3, 4, 4)),
    "3d": ("ConvTranspose3d", (2, 3, 2), {"stride": (2, 1, 2), "output_padding": (1, 0, 0)}, (1, 2, 2, 3, 2)),
}
OPTIONS = (
    {},
    {"activation": "relu"},
    {"activation": "leaky_relu", "negative_slope": 0.2},
    {"activation": "tanh"},
    {"activation": "sigmoid"},
)
each_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)


def both(layer, dtype=torch.float32, device="cpu", **options):
    """Ours and stock's, with the same parameters, and an input."""
    name, channels, kwargs, shape = layer
    torch.manual_seed(0)
    stock = getattr(nn, name)(*channels, **kwargs, dtype=dtype, device=device)
    ours = getattr(pyaegpu.nn, name)(*channels, **kwargs, **options, dtype=dtype, device=device)
    ours.load_state_dict(stock.state_dict(), strict=True)
    return ours, stock, oracle.filters(shape, (1,), None, dtype, device)[0]


def values_and_gradients(model, x, activate=lambda y: y):
    x = x.detach().requires_grad_()
    value = activate(model(x))
    model.zero_grad()
    value.backward(oracle.upstreams([value])[0])
    return [value.detach(), x.grad, *(p.grad for p in model.parameters())]


@each_layer
def test_values_and_gradients(device, layer):
    for options in OPTIONS:
        ours, stock, x = both(layer, torch.float64, device, **options)
        expected = values_and_gradients(stock, x, lambda y, o=options: oracle.activate(y, **o))
        for mine, theirs in zip(values_and_gradients(ours, x), expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@each_layer
def test_state_dicts_load_both_ways(layer):
    ours, stock, _ = both(layer, activation="relu")
    stock.load_state_dict(ours.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(stock.state_dict())
    assert isinstance(ours, type(stock))
    assert {n: p.shape for n, p in ours.named_parameters()} == {n: p.shape for n, p in stock.named_parameters()}


@each_layer
def test_parameters_begin_as_stocks(layer):
    name, channels, kwargs, _ = layer
    states = []
    for module in (nn, pyaegpu.nn):
        torch.manual_seed(3)
        states.append(getattr(module, name)(*channels, **kwargs).state_dict())
    assert all(map(torch.equal, states[0].values(), states[1].values()))


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("layer", [LAYERS["1d"], LAYERS["2d"], LAYERS["3d"]], ids=["1d", "2d", "3d"])
def test_output_size(device, layer, activation):
    ours, stock, x = both(layer, device=device, activation=activation)
    smallest = [
        (n - 1) * s - 2 * p + k
        for n, s, p, k in zip(x.shape[2:], stock.stride, stock.padding, stock.kernel_size, strict=True)
    ]
    for extra in itertools.product(*map(range, stock.stride)):
        size = [n + e for n, e in zip(smallest, extra, strict=True)]
        for given in (size, [*x.shape[:1], stock.out_channels, *size]):
            torch.testing.assert_close(ours(x, given), oracle.activate(stock(x, given), activation))
            torch.testing.assert_close(ours(x, output_size=given), oracle.activate(stock(x, given), activation))
    for wrong in ([n - 1 for n in smallest], [n + s for n, s in zip(smallest, stock.stride, strict=True)], [1]):
        for module in (ours, stock):
            with pytest.raises(ValueError, match=r"output.size"):
                module(x, wrong)


@each_layer
def test_unbatched_and_empty(device, layer):
    ours, stock, x = both(layer, device=device)
    torch.testing.assert_close(ours(x[0]), stock(x[0]))
    assert torch.equal(ours(x[:0]), stock(x[:0]))


@each_layer
def test_copies_and_pickles(layer):
    ours, _, x = both(layer, activation="leaky_relu", negative_slope=0.2)
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), torch.load(file, weights_only=False)):
        assert torch.equal(other(x), ours(x)) and repr(other) == repr(ours)
        assert (other.activation, other.negative_slope) == ("leaky_relu", 0.2)


def test_repr_tells_the_options():
    stock = nn.ConvTranspose2d(5, 3, 4, stride=2)
    assert repr(pyaegpu.nn.ConvTranspose2d(5, 3, 4, stride=2)) == repr(stock)
    assert repr(pyaegpu.nn.ConvTranspose2d(5, 3, 4, activation="tanh")).endswith("stride=(1, 1), activation='tanh')")
    text = repr(pyaegpu.nn.ConvTranspose3d(5, 3, 4, activation="leaky_relu", negative_slope=0.2))
    assert "activation='leaky_relu', negative_slope=0.2" in text
    text = repr(pyaegpu.nn.UpsampleConv2d(5, 3, bias=False, activation="relu"))
    assert "UpsampleConv2d(5, 3" in text and "activation='relu'" in text and "bias=False" in text


@pytest.mark.parametrize("name", ["ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "UpsampleConv2d"])
def test_bad_options_are_refused_when_the_module_is_made(name):
    make = getattr(pyaegpu.nn, name)
    channels = (3, 2) if name == "UpsampleConv2d" else (3, 2, 3)
    with pytest.raises(ValueError, match=r"activation.*'gelu'"):
        make(*channels, activation="gelu")
    with pytest.raises(TypeError, match="negative_slope"):
        make(*channels, activation="leaky_relu", negative_slope="0.2")
    if name == "UpsampleConv2d":
        with pytest.raises(ValueError, match="scale must be 2, got 3"):
            make(*channels, scale=3)
    else:
        with pytest.raises(ValueError, match="zeros"):
            make(*channels, padding_mode="reflect")
        with pytest.raises(ValueError, match="groups"):
            make(*channels, groups=2)


@pytest.mark.parametrize("channels", [(5, 3), (3, 6)])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: o.get("activation", "none"))
def test_upsample_conv2d(device, channels, options):
    ours = pyaegpu.nn.UpsampleConv2d(*channels, **options, device=device, dtype=torch.float64)
    stock = nn.Conv2d(*channels, 3, padding=1, device=device, dtype=torch.float64)
    stock.load_state_dict(ours.state_dict(), strict=True)
    ours.load_state_dict(stock.state_dict(), strict=True)
    whole = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), stock)
    x = oracle.filters((2, channels[0], 4, 3), (1,), None, torch.float64, device)[0]
    results = values_and_gradients(ours, x), values_and_gradients(whole, x, lambda y: oracle.activate(y, **options))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours(x[0]), oracle.activate(stock(whole[0](x)), **options)[0])
    assert torch.equal(copy.deepcopy(ours)(x), ours(x)) and torch.equal(pickle.loads(pickle.dumps(ours))(x), ours(x))


def test_weight_norm_and_hooks(device):
    """Parametrized weights, and hooks that see what passes."""
    ours, stock, x = both(LAYERS["2d"], device=device)
    seen = []
    for module in (ours, stock):
        nn.utils.parametrizations.weight_norm(module)
        module.register_forward_hook(lambda m, a, out: seen.append(out))
    torch.testing.assert_close(ours(x), stock(x))
    torch.testing.assert_close(*seen)


def generator(layers, ngf=8, latent=10):
    """DCGAN's of 64x64 images: BatchNorm and ReLU between transposed convolutions, tanh at the end."""
    widths = (latent, 8 * ngf, 4 * ngf, 2 * ngf, ngf)
    blocks = []
    for index, (a, b) in enumerate(itertools.pairwise(widths)):
        numbers = (1, 0) if index == 0 else (2, 1)
        blocks += [layers.ConvTranspose2d(a, b, 4, *numbers, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    options = {"activation": "tanh"} if layers is pyaegpu.nn else {}
    last = layers.ConvTranspose2d(ngf, 3, 4, 2, 1, bias=False, **options)
    return nn.Sequential(*blocks, last, nn.Identity() if options else nn.Tanh())


def vae_decoder(layers):
    """From 20 numbers to 28x28 pixels."""
    options = {"activation": "relu"} if layers is pyaegpu.nn else {}
    act = nn.Identity if options else nn.ReLU
    return nn.Sequential(
        nn.Linear(20, 16 * 7 * 7),
        nn.ReLU(),
        nn.Unflatten(1, (16, 7, 7)),
        layers.ConvTranspose2d(16, 8, 3, 2, 1, output_padding=1, **options),
        act(),
        layers.ConvTranspose2d(8, 1, 3, 2, 1, output_padding=1),
    )


@pytest.mark.parametrize("make, shape", [(generator, (3, 10, 1, 1)), (vae_decoder, (5, 20))])
def test_models_load_stocks_weights_and_do_as_it_does(device, make, shape):
    torch.manual_seed(0)
    stock, ours = (make(layers).to(device, torch.float64) for layers in (nn, pyaegpu.nn))
    ours.load_state_dict(stock.state_dict(), strict=True)
    stock.load_state_dict(ours.state_dict(), strict=True)
    x = oracle.filters(shape, (1,), None, torch.float64, device)[0]
    for mine, theirs in zip(values_and_gradients(ours, x), values_and_gradients(stock, x), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    for mine, theirs in zip(ours.buffers(), stock.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    ours.eval(), stock.eval()
    torch.testing.assert_close(ours(x), stock(x), rtol=1e-9, atol=1e-9)


def test_channels_last_models(device):
    torch.manual_seed(0)
    stock, ours = (generator(layers).to(device, memory_format=torch.channels_last) for layers in (nn, pyaegpu.nn))
    ours.load_state_dict(stock.state_dict(), strict=True)
    x = oracle.filters((2, 10, 1, 1), (1,), None, device=device)[0]
    results = [model(x) for model in (ours, stock)]
    assert results[0].stride() == results[1].stride()
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)


def test_a_generator_learns():
    torch.manual_seed(0)
    model = pyaegpu.nn.ConvTranspose2d(4, 3, 4, 2, 1, activation="sigmoid")
    x, target = torch.randn(8, 4, 4, 4), torch.rand(8, 3, 8, 8)
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=0.05), []
    for _ in range(30):
        loss = (model(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_explain_of_a_module_is_that_of_its_call(layer):
    ours, _, x = both(layer, activation="relu")
    args, kwargs = ours.explained_call(x)
    function = getattr(pyaegpu, ours.explained_as)
    assert pyaegpu.explain(ours, x) == pyaegpu.explain(function, *args, **kwargs)
    small = layer in (LAYERS["2d"], LAYERS["2d without bias"])
    with pyaegpu.backend("cpu"):
        found = pyaegpu.explain(ours, x)
    assert found.op == ours.explained_as and found.backend == "cpu"
    assert found.algorithm.startswith("one product per tile" if small else "stock convolution, then in one pass")
    with pyaegpu.backend("reference"):
        assert pyaegpu.explain(ours, x).backend == "reference"


@pytest.mark.parametrize(
    ("shape", "outputs", "activation", "algorithm"),
    [
        ((32, 16, 16, 16), 3, None, "one product per tile"),
        ((1, 4, 4, 4), 3, None, "stock convolution"),
        ((32, 16, 16, 16), 8, "tanh", "stock convolution, then in one pass"),
        ((32, 16, 16, 16), 8, "relu", "stock convolution and activation"),
        ((1, 16, 4, 4), 8, "tanh", "stock convolution and activation"),
    ],
)
def test_the_choice_on_a_cpu_is_what_was_measured(shape, outputs, activation, algorithm):
    layer = pyaegpu.nn.ConvTranspose2d(shape[1], outputs, 4, 2, 1, activation=activation)
    assert pyaegpu.explain(layer, torch.zeros(shape)).algorithm.startswith(algorithm)
