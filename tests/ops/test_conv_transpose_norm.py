"""conv_transpose2d_norm_act against stock PyTorch's convolution, batch norm and activation."""

import itertools

import oracle
import pytest
import torch
import torch.nn.functional as F
from conv_cases import DENSE, SMALL, Case, strides_of
from layouts import LAYOUTS
from norm_cases import ACTIVATIONS, assert_same, each_activation, each_mode, running_of
from oracle import DTYPES, run, upstreams
from torch import func, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.export import Dim, export

import pyaegpu

CASES = SMALL | DENSE
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
# Served by a kernel of ours, by stock's convolution, and by what no kernel takes.
FEW = {name: CASES[name] for name in ("4x4", "dense 4x4", "groups")}
few_cases = pytest.mark.parametrize("case", FEW.values(), ids=FEW)


def tensors_of(case, dtypes=(torch.float32,) * 2, device="cpu", bias=True, affine=True):
    """Input, weight, bias, and weight and bias of the normalisation."""
    generator = torch.Generator().manual_seed(5)
    both = torch.randn(2, case.channels, generator=generator).to(device, dtypes[1])
    return [*case.tensors(dtypes[0], device, bias), *(both if affine else [])]


def calls(case, training=True, bias=True, eps=1e-3, statistics=None, **activation):
    """Ours and stock's, as functions of the tensors; ``statistics`` takes the running ones."""

    def ours(x, w, *params):
        b, (gain, shift) = _split(params, bias)
        running = _running(case, x, gain, statistics)
        options = {"activation": None, **activation, "training": training, "eps": eps}
        return pyaegpu.conv_transpose2d_norm_act(
            x, w, b, **case.numbers, running_mean=running[0], running_var=running[1], norm_weight=gain, norm_bias=shift,
            **options,
        )  # fmt: skip

    def stock(x, w, *params):
        b, (gain, shift) = _split(params, bias)
        y = F.conv_transpose2d(x, w, b, **case.numbers)
        y = F.batch_norm(y, *_running(case, x, gain, statistics), gain, shift, training, 0.1, eps)
        return oracle.activate(y, **activation)

    return ours, stock


def _split(params, bias):
    first, others = (params[0], params[1:]) if bias else (None, params)
    return first, tuple(others) or (None, None)


def _running(case, x, gain, statistics):
    running = running_of(case.channels, x.dtype if gain is None else gain.dtype, x.device)
    if statistics is not None:
        statistics.append(running)
    return running


def rounding_of(case, training, bias, relative):
    """The slack: the rounding of the convolution's sums, which the normalisation spreads; at the convolution's bias,
    whose gradient is 0 in training, that of what adds up to it."""

    def slack(inputs, upstream, wanted):
        inputs = [t.double() for t in inputs]
        rows = run(calls(case, training, bias)[1], inputs, None, upstream)
        sizes = [[t.abs().amax().item() if t.numel() else 0.0 for t in row] for row in rows]
        if bias:
            sizes[1][2] = _added_at_bias(case, training, inputs, upstream)
        sizes[1] = [size for i, size in enumerate(sizes[1]) if wanted is None or i in wanted]
        return [[relative * max(1.0, size) for size in row] for row in sizes]

    return slack


def _added_at_bias(case, training, inputs, upstream):
    y = F.conv_transpose2d(*inputs[:3], **case.numbers).requires_grad_()
    gain, shift = tuple(inputs[3:]) or (None, None)
    normal = F.batch_norm(y, *_running(case, y, gain, None), gain, shift, training, 0.1, 1e-3)
    grad = torch.autograd.grad(normal, y, upstream[0].double())[0]
    return grad.abs().sum((0, 2, 3)).amax().item()


def check(case, tensors, training=True, bias=True, wanted=None, relative=None, **activation):
    if relative is None:
        relative = 8 * torch.finfo(tensors[0].dtype).eps
    slack = rounding_of(case, training, bias, relative)
    return oracle.check(*calls(case, training, bias, **activation), tensors, wanted, slack=slack)


@each_mode
@each_case
def test_values_and_gradients(kernel_device, case, training):
    for activation in ACTIVATIONS.values():
        check(case, tensors_of(case, device=kernel_device), training, **activation)
    for bias, affine in ((True, False), (False, True), (False, False)):
        tensors = tensors_of(case, device=kernel_device, bias=bias, affine=affine)
        check(case, tensors, training, bias, activation="tanh")


@each_mode
@few_cases
def test_dtypes(device, case, training):
    """In half precision with parameters of the normalisation in it and in float32."""
    for dtypes in ((torch.float64,) * 2, *itertools.product(DTYPES[2:], (None, torch.float32))):
        dtypes = dtypes[0], dtypes[1] or dtypes[0]
        for activation in ("none", "tanh"):
            options = ACTIVATIONS[activation]
            results, _ = check(case, tensors_of(case, dtypes, device), training, **options)
            assert results[0].dtype == dtypes[0]


@few_cases
def test_running_statistics(device, case):
    for dtypes in ((torch.float32,) * 2, (torch.float64,) * 2, (torch.bfloat16, torch.float32), (torch.float16,) * 2):
        tensors, kept = tensors_of(case, dtypes, device), ([], [])
        for index in range(2):
            calls(case, statistics=kept[index], activation="relu")[index](*tensors)
        for mine, theirs in zip(kept[0][0], kept[1][0], strict=True):
            assert mine.dtype == theirs.dtype
            tolerance = 8 * torch.finfo(dtypes[0]).eps
            torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


@few_cases
def test_only_some_gradients(device, case):
    tensors = tensors_of(case, device=device)
    for wanted in itertools.chain.from_iterable(itertools.combinations(range(5), n) for n in (1, 2)):
        check(case, tensors, wanted=wanted, activation="sigmoid")


@each_activation
@few_cases
def test_numerical_derivatives(kernel_device, case, activation):
    for training in (True, False):
        leaves = [t.requires_grad_() for t in tensors_of(case, (torch.float64,) * 2, kernel_device)]
        ours = calls(case, training, **activation)[0]
        assert gradcheck(ours, leaves, fast_mode=True) and gradgradcheck(ours, leaves, fast_mode=True)


@each_mode
@few_cases
def test_strides_of_the_results_are_stocks(device, case, training):
    for first, second in itertools.product(("contiguous", "channels_last", "sliced"), ("contiguous", "channels_last")):
        for activation in ("none", "relu"):
            tensors = tensors_of(case, device=device)
            tensors[0], tensors[1] = LAYOUTS[first](tensors[0]), LAYOUTS[second](tensors[1])
            ours, stock = (run(fn, tensors) for fn in calls(case, training, **ACTIVATIONS[activation]))
            for mine, theirs in zip(ours, stock, strict=True):
                assert strides_of(mine, False) == strides_of(theirs, False)
            with torch.no_grad():
                ours, stock = (fn(*tensors) for fn in calls(case, training, **ACTIVATIONS[activation]))
            assert strides_of([ours], False) == strides_of([stock], False)


@few_cases
def test_layouts(kernel_device, case):
    tensors = tensors_of(case, device=kernel_device)
    for first, second in itertools.product(LAYOUTS.values(), ("contiguous", "permuted")):
        changed = first(tensors[0]), LAYOUTS[second](tensors[1]), *tensors[2:]
        check(case, changed, activation="leaky_relu", negative_slope=0.2)


LARGE = {
    "image": Case((4, 16, 16, 16), (16, 3, 4, 4), {"stride": 2, "padding": 1}),
    "dense": Case((4, 16, 16, 16), (16, 24, 4, 4), {"stride": 2, "padding": 1}),
}


@pytest.mark.parametrize("case", LARGE.values(), ids=LARGE)
def test_the_normalisation_is_folded_where_nothing_is_differentiated(kernel_device, case):
    """By running statistics, in every dtype; and not in training or for gradients, nor where the activation is not
    that of one number."""
    for dtypes in (*((d, d) for d in DTYPES), (torch.bfloat16, torch.float32)):
        for name, bias, affine in itertools.product(ACTIVATIONS, (True, False), (True, False)):
            tensors = tensors_of(case, dtypes, kernel_device, bias, affine)
            ours, stock = calls(case, False, bias, **ACTIVATIONS[name])
            with torch.no_grad():
                results = [ours(*tensors), stock(*tensors)]
            exact = stock(*(t.double() for t in tensors))
            slack = 4 * torch.finfo(dtypes[0]).eps * exact.abs().amax().item()
            oracle.assert_accurate(*results, exact, slack=slack)
            assert results[0].dtype == dtypes[0]


def explained(case, tensors, training=False, **activation):
    running = running_of(case.channels, torch.float32)
    params = {"running_mean": running[0], "running_var": running[1], "norm_weight": tensors[3], "norm_bias": tensors[4]}
    return pyaegpu.explain(
        pyaegpu.conv_transpose2d_norm_act, *tensors[:3], **case.numbers, **params, training=training, **activation
    )


@pytest.mark.parametrize("backend", ["cpu", "auto"])
@pytest.mark.parametrize("case", LARGE.values(), ids=LARGE)
def test_explain_tells_what_is_folded(backend, case):
    tensors = tensors_of(case)
    with pyaegpu.backend(backend):
        assert "folded into the weight" in explained(case, tensors).algorithm
        assert "folded" not in explained(case, tensors, training=True).algorithm
        assert "folded" not in explained(case, tensors, activation="leaky_relu", negative_slope=-0.5).algorithm
        assert "folded" not in explained(FEW["groups"], tensors_of(FEW["groups"])).algorithm
        for index in range(5):
            needing = [t.clone().requires_grad_(i == index) for i, t in enumerate(tensors)]
            assert "folded" not in explained(case, needing).algorithm
            with torch.no_grad():
                assert "folded into the weight" in explained(case, needing).algorithm


@each_mode
@few_cases
def test_what_the_graph_stores(kernel_device, case, training):
    """Of the result's size, the convolution's result alone."""
    case = Case((3, *case.input[1:]), case.weight, case.numbers)
    for activation in ACTIVATIONS.values():
        leaves, stored = [t.requires_grad_() for t in tensors_of(case, device=kernel_device)], []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=stored: s.append(t) or t, lambda t: t):
            value = calls(case, training, **activation)[0](*leaves)
        given = {t.untyped_storage().data_ptr() for t in leaves[:2]}
        large = {t.untyped_storage().data_ptr(): t for t in stored if t.numel() >= case.channels * 8}
        others = [t for pointer, t in large.items() if pointer not in given]
        assert [t.shape for t in others] == [value.shape]
        assert value.untyped_storage().data_ptr() not in large


def generator(fused, activation, ngf=16, latent=10):
    """DCGAN's of 64x64 images."""
    widths, layers = (latent, 8 * ngf, 4 * ngf, 2 * ngf, ngf), []
    for index, (a, b) in enumerate(itertools.pairwise(widths)):
        layer = pyaegpu.nn.ConvTransposeNormAct2d(
            a, b, 4, *((1, 0) if index == 0 else (2, 1)), bias=False, activation=activation
        )
        layers.append(layer if fused else layer[:])
    return nn.Sequential(*layers, nn.ConvTranspose2d(ngf, 3, 4, 2, 1, bias=False), nn.Tanh())


def stored_bytes(model, x):
    """Of the storages that the graph of a step keeps, parameters left out."""
    stored = {}

    def pack(t):
        stored[t.untyped_storage().data_ptr()] = t
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model(x)
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    return sum(t.untyped_storage().nbytes() for key, t in stored.items() if key not in parameters)


@pytest.mark.parametrize(("activation", "stocks"), [("relu", 2), ("leaky_relu", 3)])
def test_what_a_generator_stores(kernel_device, activation, stocks):
    """Of each layer the convolution's result and its own, which the next layer reads; of stock's layers the normalised
    one as well, unless the activation's backward reads its result."""
    x = torch.randn(4, 10, 1, 1, device=kernel_device)
    ours, stock = (stored_bytes(generator(fused, activation).to(kernel_device), x) for fused in (True, False))
    images = 4 * 4 * 3 * 64 * 64
    results = 4 * 4 * 16 * (8 * 4**2 + 4 * 8**2 + 2 * 16**2 + 32**2)
    assert stock >= stocks * results + images
    assert ours <= 2 * results + images + 2**14


@each_mode
@pytest.mark.parametrize("name", ["4x4", "dense 4x4"])
def test_compiled(kernel_device, name, training):
    case = CASES[name]
    torch._dynamo.reset()
    tensors, kept = tensors_of(case, device=kernel_device), ([], [])
    ours, stock = (calls(case, training, statistics=s, activation="relu")[i] for i, s in enumerate(kept))
    fn = torch.compile(calls(case, training, activation="relu")[0], fullgraph=True, backend="aot_eager")
    for call in (fn, ours):
        for a, b in zip(run(call, tensors), run(stock, tensors), strict=True):
            assert_same(a, b, 1e-4)
    assert_same(kept[0][0], kept[1][0])
    with torch.no_grad():
        assert_same([fn(*tensors)], [stock(*tensors)], 1e-4)


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_compiled_and_exported_modules(kernel_device, training):
    """With a batch of any size, which folding binds to none."""
    torch._dynamo.reset()
    layers = [pyaegpu.nn.ConvTransposeNormAct2d(6, 8, 4, 2, 1).to(kernel_device).train(training) for _ in range(3)]
    for layer in layers[1:]:
        layer.load_state_dict(layers[0].state_dict())
    x = torch.randn(2, 6, 8, 8, device=kernel_device)
    program = export(layers[0], (x,), dynamic_shapes=({0: Dim("batch", min=2, max=1024)},)).module()
    call = torch.compile(layers[1], fullgraph=True, backend="aot_eager", dynamic=True)
    stock = nn.Sequential(*layers[2])
    for batch in (2, 3, 65):
        x = torch.randn(batch, 6, 8, 8, device=kernel_device)
        with torch.no_grad():
            expected = stock(x)
            torch.testing.assert_close(program(x), expected)
            torch.testing.assert_close(call(x), expected)
    assert_same(layers[1].buffers(), stock.buffers())


@each_mode
@few_cases
def test_transforms(device, case, training):
    tensors = tensors_of(case, (torch.float64,) * 2, device)
    for name in ("none", "tanh"):
        results = []
        for fn in calls(case, training, **ACTIVATIONS[name]):
            grads = func.grad(lambda *t, fn=fn: fn(*t).pow(3).sum(), (0, 1, 3, 4))(*tensors)
            results.append([*grads, func.jacrev(lambda t, fn=fn: fn(*tensors[:4], t).sum((0, 2, 3)))(tensors[4])])
        assert_same(*results, 1e-8)


@few_cases
def test_forward_mode_is_right_or_refused(device, case):
    for training, chosen in itertools.product((True, False), range(5)):
        duals = tensors_of(case, (torch.float64,) * 2, device)
        ours, stock = calls(case, training, activation="tanh")
        with forward_ad.dual_level():
            duals[chosen] = forward_ad.make_dual(duals[chosen], torch.cos(duals[chosen]))
            expected = forward_ad.unpack_dual(stock(*duals)).tangent
            try:
                result = ours(*duals)
            except NotImplementedError as error:
                assert "jvp" in str(error)
                continue
            torch.testing.assert_close(forward_ad.unpack_dual(result).tangent, expected)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
@few_cases
def test_autocast(device, case, half):
    for training, gradients in itertools.product((True, False), repeat=2):
        results = []
        for fn in calls(case, training, activation="relu"):
            leaves = [t.requires_grad_(gradients) for t in tensors_of(case, device=device)]
            with torch.autocast(device.type, half):
                value = fn(*leaves)
            grads = torch.autograd.grad(value, leaves[3:], upstreams([value])[0]) if gradients else ()
            results.append([value.detach(), *grads])
        for mine, theirs in zip(*results, strict=True):
            assert mine.dtype == theirs.dtype
        scale = results[1][0].double().abs().max().item()
        torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=8 * scale * torch.finfo(half).eps)


@few_cases
def test_the_gradient_of_the_bias_is_nothing(device, case):
    """The batch's mean takes it away."""
    tensors = tensors_of(case, (torch.float64,) * 2, device)
    grad = run(calls(case, activation="relu")[0], tensors, (2,))[1][0]
    torch.testing.assert_close(grad, torch.zeros_like(grad), rtol=0, atol=1e-12)


RIGHT = {
    "input": torch.rand(2, 3, 4, 4),
    "weight": torch.rand(3, 5, 3, 3),
    "bias": torch.rand(5),
    "running_mean": torch.zeros(5),
    "running_var": torch.ones(5),
    "norm_weight": torch.ones(5),
    "norm_bias": torch.zeros(5),
    "training": True,
}
WRONG = {
    "input of three dimensions": ({"input": torch.rand(3, 4, 4)}, ValueError, "input"),
    "input of five dimensions": ({"input": torch.rand(1, 2, 3, 4, 4)}, ValueError, "input"),
    "input as nothing": ({"input": None}, TypeError, "input"),
    "channels": ({"input": torch.rand(2, 4, 4, 4)}, RuntimeError, "weight|input"),
    "size of the bias": ({"bias": torch.rand(4)}, RuntimeError, "bias"),
    "size of the weight of the normalisation": ({"norm_weight": torch.rand(4)}, RuntimeError, "norm_weight.*5.*4"),
    "size of its bias": ({"norm_bias": torch.rand(1)}, RuntimeError, "norm_bias.*5.*1"),
    "size of the running mean": ({"running_mean": torch.rand(3)}, RuntimeError, "running_mean"),
    "weight of the normalisation as a number": ({"norm_weight": 1.0}, TypeError, "norm_weight"),
    "no running mean in evaluation": ({"running_mean": None, "training": False}, RuntimeError, "running_mean"),
    "one of the running statistics": ({"running_var": None}, ValueError, "running_var"),
    "one value per channel": (
        {"input": torch.rand(1, 3, 1, 1), "weight": torch.rand(3, 5, 1, 1)}, ValueError, "more than 1 value",
    ),
    "eps": ({"eps": 0.0}, ValueError, "eps"),
    "training": ({"training": 1}, TypeError, "training"),
    "activation": ({"activation": "gelu"}, ValueError, "activation.*'gelu'"),
    "slope": ({"activation": "leaky_relu", "negative_slope": "1"}, TypeError, "negative_slope"),
    "stride": ({"stride": 0}, RuntimeError, "stride"),
    "stride of a kind": ({"stride": 1.5}, TypeError, "stride"),
    "output padding": ({"output_padding": 1}, RuntimeError, "output.padding"),
    "groups": ({"groups": 2}, RuntimeError, ""),
    "dtype of the weight": ({"weight": torch.rand(3, 5, 3, 3).double()}, RuntimeError, "weight"),
    "dtype of the normalisation": ({"norm_weight": torch.ones(5).double()}, RuntimeError, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("backend", ["reference", "cpu", "auto"])
def test_bad_arguments(backend, name):
    wrong, error, text = WRONG[name]
    with pyaegpu.backend(backend), pytest.raises(error, match=text or None):
        pyaegpu.conv_transpose2d_norm_act(**(RIGHT | wrong))


def test_a_batch_without_images(device):
    for case, training in itertools.product(FEW.values(), (True, False)):
        empty = Case((0, *case.input[1:]), case.weight, case.numbers)
        tensors = tensors_of(empty, device=device)
        for ours, stock in zip(*(run(fn, tensors) for fn in calls(empty, training, activation="relu")), strict=True):
            for a, b in zip(ours, stock, strict=True):
                torch.testing.assert_close(a, b, equal_nan=True)


@few_cases
def test_inputs_are_not_changed(device, case):
    for training in (True, False):
        tensors = tensors_of(case, device=device)
        copies = [t.clone() for t in tensors]
        run(calls(case, training, activation="relu")[0], tensors)
        with torch.no_grad():
            calls(case, training, activation="relu")[0](*tensors)
        assert all(map(torch.equal, tensors, copies))


def test_meta_tensors_give_shapes():
    for case, training in itertools.product(CASES.values(), (True, False)):
        tensors = tensors_of(case, device="meta")
        ours, stock = (fn(*tensors) for fn in calls(case, training, activation="relu"))
        assert ours.device.type == "meta" and ours.shape == stock.shape
