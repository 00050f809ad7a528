"""BatchNormAct2d, and ConvTransposeNormAct2d, which runs three layers as one op."""

import copy
import io
import itertools
import pickle

import oracle
import pytest
import torch
from torch import nn

import pyaegpu

OPTIONS = (
    {"activation": None},
    {"activation": "relu"},
    {"activation": "leaky_relu", "negative_slope": 0.2},
    {"activation": "tanh"},
    {"activation": "sigmoid"},
)
each_option = pytest.mark.parametrize("options", OPTIONS, ids=lambda o: str(o["activation"]))
# Arguments of the normalisation.
NORMS = {
    "default": {},
    "eps": {"eps": 0.8},
    "momentum": {"momentum": 0.3},
    "average": {"momentum": None},
    "not affine": {"affine": False},
    "no running statistics": {"track_running_stats": False},
    "neither": {"affine": False, "track_running_stats": False},
}
each_norm = pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
CONVS = {
    "image": ((6, 3, 4), {"stride": 2, "padding": 1, "bias": False}),
    "dense": ((3, 7, (3, 2)), {"stride": (2, 1), "padding": (1, 0), "output_padding": (1, 0)}),
    "groups": ((4, 6, 3), {"groups": 2, "dilation": 2}),
}
each_conv = pytest.mark.parametrize("conv", CONVS.values(), ids=CONVS)


def activation_layer(activation, negative_slope=0.01):
    if activation == "leaky_relu":
        return nn.LeakyReLU(negative_slope)
    return {None: nn.Identity, "relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}[activation]()


def scrambled(module, seed=0):
    """Parameters and statistics other than those of a new layer."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(0.2 + torch.rand(tensor.shape, generator=generator))
    return module


def norms(channels, options, device="cpu", dtype=torch.float64, **norm):
    """Ours and stock's."""
    ours = pyaegpu.nn.BatchNormAct2d(channels, **norm, **options, device=device, dtype=dtype)
    stock = nn.Sequential(nn.BatchNorm2d(channels, **norm, device=device, dtype=dtype), activation_layer(**options))
    stock[0].load_state_dict(scrambled(ours).state_dict(), strict=True)
    return ours, stock


def blocks(conv, options, device="cpu", dtype=torch.float64, **norm):
    """Ours and stock's."""
    arguments, numbers = conv
    where = {"device": device, "dtype": dtype}
    ours = pyaegpu.nn.ConvTransposeNormAct2d(*arguments, **numbers, **norm, **options, **where)
    stock = nn.Sequential(
        nn.ConvTranspose2d(*arguments, **numbers, **where),
        nn.BatchNorm2d(arguments[1], **norm, **where),
        activation_layer(**options),
    )
    stock.load_state_dict(scrambled(ours).state_dict(), strict=True)
    return ours, stock


def image(channels, device="cpu", dtype=torch.float64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, channels, 4, 5, generator=generator, dtype=torch.float64).to(device, dtype)


def step(model, x):
    x = x.detach().requires_grad_()
    value = model(x)
    model.zero_grad()
    if value.requires_grad:
        value.backward(oracle.upstreams([value])[0])
    return [value.detach(), x.grad, *(p.grad for p in model.parameters())]


def assert_equal_steps(ours, stock, channels, device="cpu", dtype=torch.float64):
    """Two steps of training and one of evaluation: values, gradients and buffers."""
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    for seed, training in ((1, True), (2, True), (3, False)):
        ours.train(training), stock.train(training)
        x = image(channels, device, dtype, seed)
        results = zip(step(ours, x), step(stock, x), strict=True)
        for mine, theirs in (*results, *zip(ours.buffers(), stock.buffers(), strict=True)):
            torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)
        with torch.no_grad():
            torch.testing.assert_close(ours(x), stock(x), rtol=tolerance, atol=tolerance)


@each_norm
@each_option
def test_batch_norm_act(device, options, norm):
    assert_equal_steps(*norms(5, options, device, **norm), 5, device)


@each_norm
@each_conv
def test_conv_transpose_norm_act(device, conv, norm):
    for options in OPTIONS:
        assert_equal_steps(*blocks(conv, options, device, **norm), conv[0][0], device)


@each_conv
def test_single_precision(device, conv):
    for options in OPTIONS:
        assert_equal_steps(*blocks(conv, options, device, torch.float32), conv[0][0], device, torch.float32)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_under_autocast(device, half):
    """As stock's layers: the convolution in half precision, the parameters of the normalisation in float32."""
    ours, stock = blocks(CONVS["dense"], {"activation": "relu"}, device, torch.float32)
    for training in (True, False):
        ours.train(training), stock.train(training)
        x = image(3, device, torch.float32)
        results = []
        for model in (ours, stock):
            with torch.autocast(device.type, half):
                results.append(step(model, x))
        for mine, theirs in zip(*results, strict=True):
            assert mine.dtype == theirs.dtype
            scale = theirs.double().abs().max().item()
            torch.testing.assert_close(mine, theirs, rtol=0, atol=8 * scale * torch.finfo(half).eps)
        with torch.no_grad(), torch.autocast(device.type, half):
            assert ours(x).dtype == stock(x).dtype


@each_conv
def test_state_dicts_load_both_ways(conv):
    for norm in NORMS.values():
        ours, stock = blocks(conv, {"activation": "relu"}, **norm)
        stock.load_state_dict(ours.state_dict(), strict=True)
        ours.load_state_dict(stock.state_dict(), strict=True)
        assert list(ours.state_dict()) == list(stock.state_dict())
        assert [n for n, _ in ours.named_parameters()] == [n for n, _ in stock.named_parameters()]
    ours, stock = norms(5, {"activation": "relu"})
    stock[0].load_state_dict(ours.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(stock[0].state_dict()) and isinstance(ours, nn.BatchNorm2d)


def test_parameters_begin_as_stocks():
    states = []
    arguments, numbers = CONVS["dense"]
    for make in (
        lambda: pyaegpu.nn.ConvTransposeNormAct2d(*arguments, **numbers),
        lambda: nn.Sequential(nn.ConvTranspose2d(*arguments, **numbers), nn.BatchNorm2d(7), nn.ReLU()),
    ):
        torch.manual_seed(3)
        states.append(make().state_dict())
    assert all(map(torch.equal, states[0].values(), states[1].values()))


def test_a_frozen_normalisation(device):
    """A child in evaluation, its parameters without gradients, in a model that trains."""
    ours, stock = blocks(CONVS["image"], {"activation": "relu"}, device)
    for model in (ours, stock):
        model.train()
        model[1].eval().requires_grad_(False)
    x = image(6, device)
    results = []
    for model in (ours, stock):
        results.append([model(x).detach(), *model.buffers()])
        model(x).square().sum().backward()
        results[-1].append(model[0].weight.grad)
        assert model[1].weight.grad is None
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    assert ours[1].num_batches_tracked == 0


def test_what_is_set_on_a_child_counts(device):
    ours, stock = blocks(CONVS["image"], {"activation": "leaky_relu", "negative_slope": 0.2}, device)
    for model in (ours, stock):
        model[1].eps, model[1].momentum, model[2].negative_slope = 0.5, 0.9, -0.5
        model[0].padding = (0, 1)
    assert_equal_steps(ours, stock, 6, device)


def test_running_statistics_taken_away(device):
    for names in (("running_mean", "running_var"), ("num_batches_tracked",)):
        ours, stock = blocks(CONVS["image"], {"activation": "relu"}, device)
        for model in (ours, stock):
            for name in names:
                setattr(model[1], name, None)
        assert_equal_steps(ours, stock, 6, device)


class Doubled(nn.BatchNorm2d):
    """A normalisation with a forward of its own."""

    def forward(self, input):
        return 2 * super().forward(input)


class Shifted(nn.ConvTranspose2d):
    """A convolution with a forward of its own."""

    def forward(self, input, output_size=None):
        return super().forward(input, output_size) + 1


REPLACEMENTS = {
    "normalisation by groups": (1, lambda: nn.GroupNorm(1, 3)),
    "no normalisation": (1, nn.Identity),
    "normalisation of its own": (1, lambda: Doubled(3)),
    "convolution of its own": (0, lambda: Shifted(6, 3, 4)),
    "activation": (2, nn.GELU),
    "another activation that is known": (2, nn.Tanh),
    "parametric activation": (2, lambda: nn.PReLU(3)),
    "our convolution": (0, lambda: pyaegpu.nn.ConvTranspose2d(6, 3, 4, activation="relu")),
    "our normalisation": (1, lambda: pyaegpu.nn.BatchNormAct2d(3, activation="tanh")),
}


@pytest.mark.parametrize("name", REPLACEMENTS)
def test_replaced_children(device, name):
    index, make = REPLACEMENTS[name]
    ours, stock = blocks(CONVS["image"], {"activation": "relu"}, device)
    new = scrambled(make().to(device, torch.float64))
    ours[index], stock[index] = new, copy.deepcopy(new)
    assert_equal_steps(ours, stock, 6, device)


def test_sync_batch_norm():
    """The conversion leaves stock's layer, which is then called itself."""
    ours = nn.SyncBatchNorm.convert_sync_batchnorm(blocks(CONVS["image"], {"activation": "relu"})[0])
    assert type(ours[1]) is nn.SyncBatchNorm and isinstance(ours, pyaegpu.nn.ConvTransposeNormAct2d)
    stock = nn.SyncBatchNorm.convert_sync_batchnorm(blocks(CONVS["image"], {"activation": "relu"})[1])
    x = image(6)
    torch.testing.assert_close(ours.eval()(x), stock.eval()(x))
    with pytest.raises(TypeError, match="no single op"):
        pyaegpu.explain(ours, x)
    single = nn.SyncBatchNorm.convert_sync_batchnorm(norms(5, {"activation": "relu"})[0])
    assert type(single) is nn.SyncBatchNorm


HOOKS = {
    "forward": lambda layer, seen: layer.register_forward_hook(lambda m, a, out: seen.append(out.detach())),
    "forward that changes": lambda layer, seen: layer.register_forward_hook(lambda m, a, out: out * 2),
    "before forward": lambda layer, seen: layer.register_forward_pre_hook(lambda m, a: seen.append(a[0].detach())),
    "backward": lambda layer, seen: layer.register_full_backward_hook(lambda m, i, o: seen.append(o[0])),
    "before backward": lambda layer, seen: layer.register_full_backward_pre_hook(lambda m, o: seen.append(o[0])),
}


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("name", HOOKS)
def test_hooks_of_a_child(device, name, index):
    models, seen = blocks(CONVS["image"], {"activation": "tanh"}, device), ([], [])
    handles = [HOOKS[name](model[index], found) for model, found in zip(models, seen, strict=True)]
    assert_equal_steps(*models, 6, device)
    torch.testing.assert_close(*seen)
    assert seen[0] or "changes" in name
    count = len(seen[0])
    for handle in handles:
        handle.remove()
    assert_equal_steps(*models, 6, device)
    assert len(seen[0]) == count
    pyaegpu.explain(models[0], image(6, device))


def test_hooks_of_the_whole(device):
    ours, stock = blocks(CONVS["image"], {"activation": "relu"}, device)
    seen = []
    for model in (ours, stock):
        model.register_forward_hook(lambda m, a, out: seen.append(out))
    x = image(6, device)
    ours(x), stock(x)
    torch.testing.assert_close(*seen)


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm"])
def test_parametrized_weights(device, kind):
    models = blocks(CONVS["dense"], {"activation": "relu"}, device)
    for model in models:
        torch.manual_seed(0)
        getattr(nn.utils.parametrizations, kind)(model[0])
    models[1].load_state_dict(models[0].state_dict(), strict=True)
    assert_equal_steps(*models, 3, device)


def test_weight_norm_of_the_older_kind(device):
    models = blocks(CONVS["dense"], {"activation": "relu"}, device)
    for model in models:
        with pytest.warns(FutureWarning):
            nn.utils.weight_norm(model[0])
    assert_equal_steps(*models, 3, device)


def test_output_size(device):
    ours, stock = blocks(((6, 3, 4), {"stride": (2, 3), "padding": 1}), {"activation": "relu"}, device)
    x = image(6, device)
    smallest = stock[0](x).shape[2:]
    for extra in itertools.product(range(2), range(3)):
        size = [n + e for n, e in zip(smallest, extra, strict=True)]
        expected = nn.functional.relu(stock[1](stock[0](x, size)))
        torch.testing.assert_close(ours(x, size), expected)
        torch.testing.assert_close(ours(x, output_size=[*x.shape[:1], 3, *size]), expected)
        assert pyaegpu.explain(ours, x, size) == pyaegpu.explain(ours, x, output_size=size)
    ours[1].register_forward_hook(lambda m, a, out: None)
    torch.testing.assert_close(ours(x, size), expected)
    for wrong in ([n - 1 for n in smallest], [1]):
        with pytest.raises(ValueError, match=r"output.size"):
            ours(x, wrong)


def test_slices_and_children():
    ours = blocks(CONVS["image"], {"activation": "relu"})[0]
    assert type(ours[:2]) is nn.Sequential and [*ours[:2]] == [ours[0], ours[1]]
    assert type(ours[1:]) is nn.Sequential and len(ours) == 3 and ours[-1] is ours[2]
    assert [type(child) for child in ours] == [nn.ConvTranspose2d, nn.BatchNorm2d, nn.ReLU]
    shorter = copy.deepcopy(ours)
    del shorter[2]
    x = image(6)
    torch.testing.assert_close(shorter(x), nn.Sequential(*copy.deepcopy(ours)[:2])(x))


@each_option
def test_copies_and_pickles(options):
    for module, channels in ((norms(5, options)[0], 5), (blocks(CONVS["image"], options)[0], 6)):
        x = image(channels)
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), loaded):
            assert repr(other) == repr(module) and type(other) is type(module)
            original = copy.deepcopy(module)
            assert torch.equal(other(x), original(x))
            assert all(map(torch.equal, other.state_dict().values(), original.state_dict().values()))


def test_repr_tells_the_options():
    assert repr(pyaegpu.nn.BatchNormAct2d(5)).endswith("track_running_stats=True)")
    assert repr(pyaegpu.nn.BatchNormAct2d(5, activation="tanh")).endswith("activation='tanh')")
    text = repr(pyaegpu.nn.BatchNormAct2d(5, activation="leaky_relu", negative_slope=0.2))
    assert text.endswith("activation='leaky_relu', negative_slope=0.2)")
    text = repr(pyaegpu.nn.ConvTransposeNormAct2d(5, 3, 4, activation="leaky_relu", negative_slope=0.2))
    assert text.startswith("ConvTransposeNormAct2d(") and "LeakyReLU(negative_slope=0.2)" in text


@pytest.mark.parametrize("make", [lambda **o: pyaegpu.nn.BatchNormAct2d(3, **o),
                                  lambda **o: pyaegpu.nn.ConvTransposeNormAct2d(3, 2, 3, **o)])  # fmt: skip
def test_bad_options_are_refused_when_the_module_is_made(make):
    with pytest.raises(ValueError, match=r"activation.*'gelu'"):
        make(activation="gelu")
    with pytest.raises(TypeError, match="negative_slope"):
        make(activation="leaky_relu", negative_slope="0.2")


def test_inputs_that_stock_refuses(device):
    ours, stock = norms(5, {"activation": "relu"}, device)
    for shape in ((3, 5), (3, 5, 4), (3, 5, 2, 2, 2), (1, 5, 1, 1)):
        for model in (ours, stock):
            with pytest.raises(ValueError, match=r"4D|more than 1 value"):
                model(torch.rand(shape, device=device, dtype=torch.float64))
    for model in blocks(((6, 3, 1), {}), {"activation": "relu"}, device):
        with pytest.raises(ValueError, match="more than 1 value"):
            model(image(6, device)[:1, :, :1, :1])
        with pytest.raises(RuntimeError):
            model(image(5, device))


def test_a_batch_without_images(device):
    for ours, stock, channels in (
        (*norms(5, {"activation": "relu"}, device), 5),
        (*blocks(CONVS["dense"], {"activation": "relu"}, device), 3),
    ):
        x = image(channels, device)[:0]
        torch.testing.assert_close(ours(x), stock(x))
        for mine, theirs in zip(ours.buffers(), stock.buffers(), strict=True):
            torch.testing.assert_close(mine, theirs, equal_nan=True)


@pytest.mark.parametrize("training", [True, False])
def test_explain_of_a_module_is_that_of_its_call(training):
    for module, channels in ((norms(5, OPTIONS[1])[0], 5), (blocks(CONVS["dense"], OPTIONS[1])[0], 3)):
        module.train(training)
        x = image(channels)
        kept = [t.clone() for t in module.buffers()]
        args, kwargs = module.explained_call(x)
        function = getattr(pyaegpu, module.explained_as)
        for backend in ("auto", "cpu", "reference"):
            with pyaegpu.backend(backend):
                found = pyaegpu.explain(module, x)
                assert found == pyaegpu.explain(function, *args, **kwargs) and found.op == module.explained_as
                assert backend == "auto" or found.backend == backend or channels == 3
        assert all(map(torch.equal, module.buffers(), kept))


def generator(fused, ngf=8, latent=10):
    """DCGAN's of 64x64 images."""
    widths, layers = (latent, 8 * ngf, 4 * ngf, 2 * ngf, ngf), []
    for index, (a, b) in enumerate(itertools.pairwise(widths)):
        numbers = (1, 0) if index == 0 else (2, 1)
        if fused:
            layers.append(pyaegpu.nn.ConvTransposeNormAct2d(a, b, 4, *numbers, bias=False))
        else:
            conv = nn.ConvTranspose2d(a, b, 4, *numbers, bias=False)
            layers.append(nn.Sequential(conv, nn.BatchNorm2d(b), nn.ReLU()))
    return nn.Sequential(*layers, nn.ConvTranspose2d(ngf, 3, 4, 2, 1, bias=False), nn.Tanh())


def test_a_generator_learns_as_stocks(device):
    """Values and gradients of two steps, the buffers, and images in evaluation."""
    models = []
    for fused in (True, False):
        torch.manual_seed(0)
        models.append(generator(fused).to(device, torch.float64))
    ours, stock = models
    stock.load_state_dict(ours.state_dict(), strict=True)
    x = oracle.filters((3, 10, 1, 1), (1,), None, torch.float64, device)[0]
    for training in (True, True, False):
        ours.train(training), stock.train(training)
        results = zip(step(ours, x), step(stock, x), strict=True)
        for mine, theirs in (*results, *zip(ours.buffers(), stock.buffers(), strict=True)):
            torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-8)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), stock(x), rtol=1e-9, atol=1e-9)


def test_initialisation_by_name_reaches_the_convolution():
    """As the DCGAN of PyTorch's examples initialises: every module whose class is named Conv... has a weight."""
    torch.manual_seed(0)
    block = pyaegpu.nn.ConvTransposeNormAct2d(16, 32, 4)

    def weights_init(module):
        if "Conv" in type(module).__name__:
            nn.init.normal_(module.weight.data, 0.0, 0.02)
        elif "BatchNorm" in type(module).__name__:
            nn.init.normal_(module.weight.data, 1.0, 0.02)

    block.apply(weights_init)
    assert block.weight is block[0].weight and block.bias is block[0].bias
    assert abs(block[0].weight.std().item() - 0.02) < 2e-3
    assert sorted(block.state_dict()) == sorted(nn.Sequential(*block).state_dict())


def test_a_call_that_fails_counts_no_batch():
    block = pyaegpu.nn.ConvTransposeNormAct2d(8, 16, 4, 2, 1)
    with pytest.raises(RuntimeError):
        block(torch.randn(4, 7, 9, 7))
    assert block[1].num_batches_tracked == 0
    block(torch.randn(4, 8, 3, 3))
    assert block[1].num_batches_tracked == 1


def test_global_hooks_see_the_layers():
    block, seen = pyaegpu.nn.ConvTransposeNormAct2d(3, 4, 2), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *rest: seen.append(type(module)))
    try:
        block(torch.randn(2, 3, 4, 4))
    finally:
        handle.remove()
    assert seen == [nn.ConvTranspose2d, nn.BatchNorm2d, nn.ReLU, pyaegpu.nn.ConvTransposeNormAct2d]
