"""The modules of pooling and unpooling, which stand in for those of torch.nn."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import pyaegpu

INPUTS = {1: (2, 3, 13), 2: (2, 3, 9, 12), 3: (1, 2, 6, 7, 8)}
each_dims = pytest.mark.parametrize("dims", INPUTS)
# Positional and keyword arguments, as torch.nn takes them.
POOLS = (
    ((2,), {}),
    ((3, 2, 1), {}),
    ((3, 2, 1, 1, True, True), {}),
    ((2,), {"stride": 1, "dilation": 2, "return_indices": True}),
    ((), {"kernel_size": 3, "padding": 1, "ceil_mode": True}),
)
UNPOOLS = (((2,), {}), ((3, 2, 1), {}), ((), {"kernel_size": 3, "stride": 2, "padding": 1}), ((2, 2), {"padding": 0}))


def layers(name, dims, arguments, keywords):
    """Ours and stock's."""
    return [getattr(module, f"{name}{dims}d")(*arguments, **keywords) for module in (pyaegpu.nn, nn)]


def input_of(dims, device="cpu"):
    return torch.randn(INPUTS[dims], generator=torch.Generator().manual_seed(dims)).to(device)


def as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


def step(layer, x, *rest):
    x = x.detach().requires_grad_()
    value = layer(x, *rest)
    as_tuple(value)[0].square().sum().backward()
    return [*(t.detach() for t in as_tuple(value)), x.grad]


@pytest.mark.parametrize("arguments", POOLS, ids=str)
@each_dims
def test_pooling_is_stocks(device, dims, arguments):
    ours, stock = layers("MaxPool", dims, *arguments)
    for x in (input_of(dims, device), input_of(dims, device)[0]):
        torch.testing.assert_close(step(ours, x), step(stock, x))
    assert isinstance(ours, type(stock)) and repr(ours) == repr(stock) and not ours.state_dict()
    assert {n: getattr(ours, n) for n in stock.__constants__} == {n: getattr(stock, n) for n in stock.__constants__}


@pytest.mark.parametrize("arguments", UNPOOLS, ids=str)
@each_dims
def test_unpooling_is_stocks(device, dims, arguments):
    ours, stock = layers("MaxUnpool", dims, *arguments)
    assert isinstance(ours, type(stock)) and repr(ours) == repr(stock) and not ours.state_dict()
    pool = getattr(nn, f"MaxPool{dims}d")(stock.kernel_size, stock.stride, stock.padding, return_indices=True)
    x = input_of(dims, device)
    values, indices = pool(x)
    usual = torch.randn_like(stock(values, torch.zeros_like(indices)))
    for size in (x.shape, x.shape[2:], None):
        if size is None:
            values, indices = pool(usual)
        torch.testing.assert_close(step(ours, values, indices, size), step(stock, values, indices, size))
        torch.testing.assert_close(step(ours, values[0], indices[0], size), step(stock, values[0], indices[0], size))
        torch.testing.assert_close(*(layer(values, indices, output_size=size) for layer in (ours, stock)))


@each_dims
def test_codes(device, dims):
    """A pair with codes is a pair of stock's."""
    for numbers, dilation in (((2,), 1), ((3, 2, 1), 1), ((2, 1, 1), 2)):
        pool = getattr(pyaegpu.nn, f"MaxPool{dims}d")(
            *numbers, dilation=dilation, return_indices=True, index_dtype=torch.uint8
        )
        unpool = getattr(pyaegpu.nn, f"MaxUnpool{dims}d")(*numbers, dilation=dilation)
        x = input_of(dims, device)
        values, codes = pool(x)
        assert codes.dtype == torch.uint8 and repr(pool).endswith("index_dtype=torch.uint8)")
        result = unpool(values, codes, x.shape)
        assert result.shape == x.shape
        assert torch.equal(result[result != 0], x[result != 0]) and torch.equal(values.amax(), result.amax())
        if dilation == 1:
            stock = getattr(nn, f"MaxPool{dims}d")(*numbers, return_indices=True)
            back = getattr(nn, f"MaxUnpool{dims}d")(*numbers)
            torch.testing.assert_close(result, back(*stock(x), x.shape), rtol=0, atol=0)


def test_the_dilation_of_an_unpooling():
    """Told when the module is made; plane indices need none."""
    pool = pyaegpu.nn.MaxPool2d(2, dilation=2, return_indices=True, index_dtype=torch.uint8)
    x = input_of(2)
    values, codes = pool(x)
    expected = pyaegpu.max_unpool2d(values, codes, 2, output_size=x.shape[2:], dilation=2)
    assert torch.equal(pyaegpu.nn.MaxUnpool2d(2, dilation=2)(values, codes, x.shape), expected)
    assert pyaegpu.nn.MaxUnpool2d(2, dilation=2).dilation == 2 and pyaegpu.nn.MaxUnpool2d(2).dilation == 1


@pytest.mark.parametrize("name", ["NearestUnpool2d", "BedOfNails2d"])
def test_unpooling_without_indices(device, name):
    x = input_of(2, device)
    function = {"NearestUnpool2d": pyaegpu.nearest_unpool2d, "BedOfNails2d": pyaegpu.bed_of_nails2d}[name]
    for kernel in (2, (2, 3)):
        layer = getattr(pyaegpu.nn, name)(kernel)
        assert torch.equal(layer(x), function(x, kernel)) and torch.equal(layer(x[0]), function(x[0], kernel))
        assert repr(layer) == f"{name}(kernel_size={kernel})" and not layer.state_dict()
    with pytest.raises(TypeError):
        getattr(pyaegpu.nn, name)()


MADE = {
    "MaxPool1d": lambda: pyaegpu.nn.MaxPool1d(3, 2, 1, return_indices=True),
    "MaxPool2d": lambda: pyaegpu.nn.MaxPool2d((2, 3), return_indices=True, index_dtype=torch.uint8),
    "MaxPool3d": lambda: pyaegpu.nn.MaxPool3d(2, ceil_mode=True),
    "MaxUnpool1d": lambda: pyaegpu.nn.MaxUnpool1d(2),
    "MaxUnpool2d": lambda: pyaegpu.nn.MaxUnpool2d(2, dilation=1),
    "MaxUnpool3d": lambda: pyaegpu.nn.MaxUnpool3d(2),
    "NearestUnpool2d": lambda: pyaegpu.nn.NearestUnpool2d(3),
    "BedOfNails2d": lambda: pyaegpu.nn.BedOfNails2d((2, 1)),
}
each_layer = pytest.mark.parametrize("name", MADE)


def inputs_of(name):
    """The arguments of a call."""
    x = input_of(int(name[-2]))
    if "MaxUnpool" not in name:
        return (x,)
    return *getattr(nn.functional, f"max_pool{name[-2:]}")(x, 2, return_indices=True), x.shape


@each_layer
def test_copies_and_pickles(name):
    layer, inputs = MADE[name](), inputs_of(name)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(file, weights_only=False)):
        assert repr(other) == repr(layer) and type(other) is type(layer)
        assert all(map(torch.equal, as_tuple(other(*inputs)), as_tuple(layer(*inputs))))


@each_layer
def test_explain_of_a_module_is_that_of_its_call(name):
    layer, inputs = MADE[name](), inputs_of(name)
    args, kwargs = layer.explained_call(*inputs)
    for backend in ("auto", "cpu", "reference"):
        with pyaegpu.backend(backend):
            found = pyaegpu.explain(layer, *inputs)
            assert found == pyaegpu.explain(getattr(pyaegpu, layer.explained_as), *args, **kwargs)
            assert found.op == layer.explained_as and (backend == "auto" or found.backend == backend)


@each_layer
def test_state_dicts_are_empty(name):
    layer = MADE[name]()
    assert not layer.state_dict() and not list(layer.parameters()) and not list(layer.buffers())
    if not name.startswith(("Nearest", "Bed")):
        getattr(nn, name)(2).load_state_dict(layer.state_dict(), strict=True)


def test_what_is_set_on_a_layer_counts():
    layer, x = pyaegpu.nn.MaxPool2d(2), input_of(2)
    layer.kernel_size, layer.stride, layer.padding, layer.return_indices = 3, 2, 1, True
    layer.index_dtype = torch.uint8
    values, codes = layer(x)
    assert torch.equal(values, nn.functional.max_pool2d(x, 3, 2, 1)) and codes.dtype == torch.uint8


def test_bad_arguments_are_reported_by_the_call():
    x = input_of(2)
    with pytest.raises(ValueError, match="index_dtype"):
        pyaegpu.nn.MaxPool2d(2, index_dtype=torch.int32)(x)
    with pytest.raises(RuntimeError, match="kernel_size"):
        pyaegpu.nn.MaxPool2d(0)(x)
    with pytest.raises(TypeError, match="kernel_size"):
        pyaegpu.nn.NearestUnpool2d("2")(x)
    with pytest.raises(TypeError, match="depth"):
        pyaegpu.nn.MaxPool2d(2, depth=1)


class Autoencoder(nn.Module):
    """SegNet in short: the decoder unpools with the indices of the encoder."""

    def __init__(self, layers, **options):
        super().__init__()
        self.encode = nn.Conv2d(1, 4, 3, padding=1)
        self.pool = layers.MaxPool2d(2, return_indices=True, **options)
        self.middle = nn.Conv2d(4, 4, 3, padding=1)
        self.unpool = layers.MaxUnpool2d(2)
        self.decode = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x):
        hidden = torch.relu(self.encode(x))
        pooled, indices = self.pool(hidden)
        return self.decode(self.unpool(self.middle(pooled), indices, hidden.shape))


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("options", [{}, {"index_dtype": torch.uint8}], ids=str)
def test_a_model_learns_as_stocks(device, options, order):
    models = []
    for layers, given in ((pyaegpu.nn, options), (nn, {})):
        torch.manual_seed(0)
        models.append(Autoencoder(layers, **given).to(device, torch.float64, memory_format=order))
    x = torch.rand(4, 1, 10, 13, dtype=torch.float64, device=device).contiguous(memory_format=order)
    losses = []
    for model in models:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses.append([])
        for _ in range(4):
            loss = (model(x) - x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.detach())
    torch.testing.assert_close(*losses)
    assert losses[0][-1] < losses[0][0]
