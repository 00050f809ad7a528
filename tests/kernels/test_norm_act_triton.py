"""The Triton launchers of batch normalisation with an activation against stock PyTorch."""

import itertools

import oracle
import pytest
import torch
import torch.nn.functional as F
from accuracy import acc_of
from convolutions import ACTIVATIONS, NAN, layouts
from pyaegpu.kernels import norm_act as kernels
from pyaegpu.kernels.layout import Tile

pytestmark = [pytest.mark.filterwarnings("ignore::RuntimeWarning:triton"), pytest.mark.usefixtures("device")]

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
NONE, RELU, LEAKY_RELU, TANH, SIGMOID = range(5)
EPS = 1e-3
INF = float("inf")
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}

# Shape and channels_last. Triton's interpreter takes its time for each channel of contiguous images.
CASES = [
    ((33, 5), False),
    ((40, 80), False),
    ((3, 4, 31), False),
    ((4, 16, 1), False),
    ((2, 3, 12, 16), False),
    ((2, 3, 12, 16), True),
    ((3, 16, 5, 7), True),
    ((2, 1, 5, 3), False),
    ((2, 1, 5, 3), True),
    ((5, 18, 1, 1), True),
    ((2, 5, 2, 3, 2), False),
    ((2, 5, 2, 3, 2), True),
]


def parameters(channels, dtype):
    """Weight, bias, running mean and variance."""
    values = torch.randn(channels), torch.randn(channels), torch.randn(channels), torch.rand(channels) + 0.5
    return [t.to(dtype) for t in values]


def statistics(x, training, running):
    """Mean, 1 / std and variance as stock has them."""
    if not training:
        return running[0], (running[1] + EPS).rsqrt(), running[1]
    mean, var = torch.zeros(2, x.shape[1], dtype=x.dtype)
    _, _, invstd = torch.native_batch_norm(x, None, None, mean, var, True, 1.0, EPS)
    return mean, invstd, var


def stock(x, g, weight, bias, running, training, activation, slope):
    """The value and the gradients of x, weight and bias (None where there is none)."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in (x, weight, bias)]
    mean, var = (None, None) if training else running
    out = ACTIVATIONS[activation](F.batch_norm(leaves[0], mean, var, *leaves[1:], training, 0.1, EPS), slope)
    grads = iter(torch.autograd.grad(out, [t for t in leaves if t is not None], g))
    return [out.detach(), *(None if t is None else next(grads) for t in leaves)]


def in_double(*tensors):
    return [None if t is None else t.double() for t in tensors]


def check(x, weight, bias, running, training=True, activation=NONE, slope=0.2, channels_last=False, g=None):
    name = f"{tuple(x.shape)}, {x.stride()}, {x.dtype}, {weight is not None}, activation {activation}, {channels_last}"
    g = torch.randn(x.shape).to(x.dtype) if g is None else g
    acc = acc_of(x.dtype)
    known = (None, None) if training else running
    out, *moments = kernels.batch_norm_act_fwd(x, weight, bias, *known, training, EPS, activation, slope, channels_last)
    near = statistics(x.to(acc), training, [t.to(acc) for t in running])
    truth = statistics(x.double(), training, in_double(*running))
    # A mean may cancel where the magnitudes that it sums do not; a variance sums squares of sums.
    largest = x.abs().nan_to_num(0, 0).amax().item(), 0.0, 2 * truth[2].nan_to_num(0, 0).amax().item()
    slacks = [torch.finfo(acc).eps * each for each in largest]
    for ours, *others, slack in zip(moments, near, truth, slacks, strict=True):
        assert ours.dtype == acc and ours.is_contiguous()
        oracle.assert_accurate(ours, *others, f"{name}, statistics", slack)
    numbers = training, activation, slope, channels_last
    grads = kernels.batch_norm_act_bwd(g, x, weight, bias, *moments[:2], *numbers, True, True)
    near = stock(x, g, weight, bias, running, training, activation, slope)
    truth = stock(*in_double(x, g, weight, bias), in_double(*running), training, activation, slope)
    order = CHANNELS_LAST.get(x.dim(), torch.contiguous_format) if channels_last else torch.contiguous_format
    for ours in (out, grads[0]):
        assert ours.dtype == x.dtype and ours.stride() == torch.empty(x.shape, memory_format=order).stride()
    for ours, parameter in zip(grads[1:], (weight, bias), strict=True):
        assert ours.dtype == (acc if parameter is None else parameter.dtype) and ours.shape == (x.shape[1],)
    # So may the gradients of the parameters, which sum about x.numel() / channels products.
    slacks = 0.0, 0.0, *(torch.finfo(acc).eps * g.abs().nan_to_num(0, 0).sum().item() / x.shape[1],) * 2
    for i, (ours, *others, slack) in enumerate(zip((out, *grads), near, truth, slacks, strict=True)):
        if others[1] is not None:
            oracle.assert_accurate(ours, *others, f"{name}, result {i}", slack)
    return out, moments, grads


@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes(dtype):
    for i, (shape, channels_last) in enumerate(CASES):
        x = (torch.randn(shape) * 2 + 3).to(dtype)
        weight, bias, *running = parameters(shape[1], dtype)
        given = None if i % 3 == 1 else weight, None if i % 4 == 1 else bias
        check(x, *given, running, True, i % len(ACTIVATIONS), 0.2, channels_last)
        if i % 2:
            check(x, *given, running, False, i % len(ACTIVATIONS), 0.2, channels_last)


@pytest.mark.parametrize("activation, slope", [*((a, 0.2) for a in range(len(ACTIVATIONS))), (LEAKY_RELU, -0.5)])
def test_activations(activation, slope):
    for dtype, (channels_last, training) in zip(DTYPES, itertools.product((True, False), repeat=2), strict=True):
        channels = 16 if channels_last else 3
        weight, bias, *running = parameters(channels, dtype)
        x = torch.randn(4, channels, 3, 16).to(dtype)
        check(x, weight, bias, running, training, activation, slope, channels_last)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_with_float32_parameters(dtype, channels_last):
    channels = 16 if channels_last else 3
    x = (torch.randn(3, channels, 5, 16) * 2 + 3).to(dtype)
    weight, bias, *running = parameters(channels, torch.float32)
    for training in (True, False):
        check(x, weight, bias, running, training, LEAKY_RELU, 0.2, channels_last)


@pytest.mark.parametrize("channels_last", [False, True])
def test_inputs_and_gradients_in_any_layout(channels_last):
    shape = (2, 3, 4, 8)
    weight, bias, *running = parameters(3, torch.float32)
    expanded = torch.randn(()).expand(shape), torch.randn(1, 3, 1, 1).expand(shape)
    gradients = (*expanded, *layouts(torch.randn(shape)))
    for x, g in zip(itertools.cycle(layouts(torch.randn(shape))), gradients, strict=False):
        check(x, weight, bias, running, True, LEAKY_RELU, -0.5, channels_last, g)


def test_parameters_in_any_layout():
    x = torch.randn(4, 6, 5)
    spaced = [torch.full((12,), NAN)[::2].copy_(t) for t in parameters(6, torch.float32)]
    spread = [t[:1].expand(6) for t in spaced]
    for weight, bias, *running in (spaced, spread):
        for training in (True, False):
            check(x, weight, bias, running, training, SIGMOID)


@pytest.mark.parametrize("programs", [7, 2048])
def test_programs_with_many_tiles(programs, monkeypatch):
    """Of wide tiles and narrow ones, and of second stages."""
    monkeypatch.setattr(kernels, "TOTAL_PROGRAMS", programs)
    monkeypatch.setattr(kernels, "MERGED", Tile(4, 32))
    for shape in [(3, 3, 17, 31), (100, 80), (20, 67), (3, 2, 2064)]:
        for channels_last in (False, True) if len(shape) in CHANNELS_LAST else (False,):
            weight, bias, *running = parameters(shape[1], torch.float32)
            x = torch.randn(shape) + 1
            check(x, weight, bias, running, True, LEAKY_RELU, 0.2, channels_last)
            if programs == 7:
                check(x, weight, bias, running, False, LEAKY_RELU, 0.2, channels_last)


def test_a_large_mean(monkeypatch):
    """The first tile may be far from the others."""
    monkeypatch.setattr(kernels, "TOTAL_PROGRAMS", 7)
    for shape, channels_last in [((4, 3, 33, 17), False), ((4, 3, 33, 17), True), ((8, 16, 16, 16), True)]:
        x = torch.randn(shape) + 1e4
        weight, bias, *running = parameters(shape[1], torch.float32)
        check(x, weight, bias, running, True, NONE, 0.2, channels_last)
        x[0] -= 1e4
        check(x, weight, bias, running, True, NONE, 0.2, channels_last)


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_constant_input(channels_last):
    x = torch.full((4, 3, 17, 16), 1e4)
    out, mean, _, var = kernels.batch_norm_act_fwd(x, None, None, None, None, True, EPS, NONE, 0.0, channels_last)
    assert torch.equal(mean, x[0, :, 0, 0]) and var.amax() < 1e-6 and not out.any()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_nan_and_inf_stay_in_their_channel(value, channels_last, monkeypatch):
    monkeypatch.setattr(kernels, "TOTAL_PROGRAMS", 7)
    weight, bias, *running = parameters(3, torch.float32)
    for place, training in (((0, 1, 0, 0), False), ((1, 1, 16, 30), True)):
        x = torch.randn(2, 3, 17, 31)
        x[place] = value
        out, _, _ = check(x, weight, bias, running, training, RELU, 0.0, channels_last)
        assert out[:, ::2].isfinite().all()


@pytest.mark.parametrize("activation", [RELU, TANH])
def test_nan_and_inf_in_the_gradient(activation):
    weight, bias, *running = parameters(3, torch.float32)
    for value, training in ((NAN, True), (INF, True), (NAN, False)):
        g = torch.randn(2, 3, 4, 5)
        g[0, 1, 2, 3] = value
        check(torch.randn(g.shape), weight, bias, running, training, activation, 0.0, True, g)


@pytest.mark.parametrize("training", [True, False])
def test_what_is_not_needed(training):
    x, g = torch.randn(2, 3, 4, 5, 8).to(torch.bfloat16)
    weight, bias, mean, var = parameters(4, torch.float32)
    arguments = g, x, weight, bias, mean, var, training, LEAKY_RELU, 0.2, True
    wanted = kernels.batch_norm_act_bwd(*arguments, True, True)
    for need_input, need_params in itertools.product((False, True), repeat=2):
        found = kernels.batch_norm_act_bwd(*arguments, need_input, need_params)
        for ours, want, needed in zip(found, wanted, (need_input, need_params, need_params), strict=True):
            assert torch.equal(ours, want) if needed else ours.shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moments(dtype, monkeypatch):
    monkeypatch.setattr(kernels, "MERGED", Tile(8, 8))
    counts, means, m2s = torch.randint(1, 9, (37,)).to(dtype), torch.randn(37, 11) + 1e3, torch.rand(37, 11)
    means, m2s = means.to(dtype), m2s.to(dtype)
    held = counts.double()[:, None]
    n = held.sum()
    mean = (means * held).sum(0) / n
    var = (m2s + (means - mean).square() * held).sum(0) / n
    truth = [t.to(dtype) for t in (mean, (var + EPS).rsqrt(), var * n / (n - 1))]
    # Parts of nothing, at the start too.
    for where in (0, 20, 37):
        parts = [
            torch.cat([t[:where], t.new_full((3, *t.shape[1:]), fill), t[where:]])
            for t, fill in ((counts, 0), (means, 5.0), (m2s, 7.0))
        ]
        for ours, want in zip(kernels.moments(*parts, EPS), truth, strict=True):
            torch.testing.assert_close(ours, want, rtol=4 * torch.finfo(dtype).eps, atol=0)


def test_normalized():
    """In the strides of its input, whatever their order."""
    for order in (torch.contiguous_format, torch.channels_last):
        for shape in ((2, 5, 4, 3), (2, 1, 4, 3), (1, 16, 1, 1)):
            y = torch.randn(shape).to(torch.float16).contiguous(memory_format=order)
            weight, bias, mean, var = parameters(shape[1], torch.float32)
            out = kernels.normalized(y, weight, bias, mean, (var + EPS).rsqrt(), LEAKY_RELU, -0.5)
            assert out.stride() == y.stride()
            near, truth = (
                F.leaky_relu(
                    F.batch_norm(y.to(dtype), *(t.to(dtype) for t in (mean, var, weight, bias)), eps=EPS), -0.5
                )
                for dtype in (torch.float32, torch.float64)
            )
            oracle.assert_accurate(out, near.half(), truth)


def test_results_repeat():
    x, g = torch.randn(2, 4, 8, 5, 16)
    weight, bias, *_ = parameters(8, torch.float32)

    def results():
        out, mean, invstd, var = kernels.batch_norm_act_fwd(x, weight, bias, None, None, True, EPS, TANH, 0.0, True)
        numbers = True, TANH, 0.0, True, True, True
        return out, mean, invstd, var, *kernels.batch_norm_act_bwd(g, x, weight, bias, mean, invstd, *numbers)

    assert all(torch.equal(a, b) for a, b in zip(results(), results(), strict=True))


def test_more_than_2_to_the_31_elements(device, large_memory):
    if device == "cpu":
        pytest.skip("too large for the interpreter")
    large_memory(40)
    for shape in ((2**16 + 1, 16, 2**11), (2**27 + 1, 16)):
        x = torch.zeros(shape, dtype=torch.bfloat16)
        x[1::2] = 2
        out, mean, invstd, _ = kernels.batch_norm_act_fwd(x, None, None, None, None, True, 0.0, NONE, 0.0, False)
        torch.testing.assert_close(mean, torch.ones(16), rtol=0, atol=2e-5)
        torch.testing.assert_close(invstd, torch.ones(16))
        assert (out[-1] == -1).all() and (out[-2] == 1).all()
        d_x, _, _ = kernels.batch_norm_act_bwd(x, x, None, None, mean, invstd, False, NONE, 0.0, False, True, False)
        assert torch.equal(d_x[-2:], x[-2:])
