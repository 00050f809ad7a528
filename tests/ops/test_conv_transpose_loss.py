"""Values and gradients of conv_transpose2d_loss against the loss of stock PyTorch's convolution in float64."""

import itertools

import oracle
import pytest
import torch
from conv_cases import CASES, Case
from layouts import LAYOUTS
from oracle import KINDS
from torch.utils._python_dispatch import TorchDispatchMode

import pyaegpu

ACTIVATIONS = (None, "relu", "leaky_relu", "tanh", "sigmoid")
NAMES = ("4x4", "3x3", "asymmetric", "one pixel", "gaps", "cropped", "dense 4x4", "dense 2x2", "groups", "dilation")
FEW = ("4x4", "dense 4x4", "groups")
each_kind = pytest.mark.parametrize("kind", KINDS)
each_few = pytest.mark.parametrize("name", FEW)


def problem(case, kind="bce_logits", dtype=torch.float32, device="cpu", bias=True):
    """Input, weight, bias and target; for "bce" the outputs lie in (0, 1), also without an activation."""
    input, weight, *rest = case.tensors(dtype, device, bias)
    if kind == "bce":
        weight, rest = weight * 0.03, [b * 0.03 + 0.5 for b in rest]
    shape = case.stock()(input, weight, *rest).shape
    target = torch.rand(shape, generator=torch.Generator().manual_seed(7)).to(device, dtype)
    return [input, weight, *rest, target]


def ours(case, **options):
    def call(input, weight, *rest):
        bias, target = rest if len(rest) == 2 else (None, *rest)
        return pyaegpu.conv_transpose2d_loss(input, weight, bias, target, **case.numbers, **options)

    return call


def stock(case, kind="bce_logits", reduction="sum", activation=None):
    def call(*tensors):
        return oracle.reconstruction(
            case.stock(activation=activation)(*tensors[:-1]), tensors[-1], kind, reduction=reduction
        )

    return call


def composition(case, kind="bce_logits", reduction="sum", activation=None):
    def call(*tensors):
        recon = case.ours(activation=activation)(*tensors[:-1])
        return pyaegpu.reconstruction_loss(recon, tensors[-1], kind, reduction=reduction)

    return call


def rounding(case, kind="bce_logits", reduction="sum", activation=None):
    """What the rounding of the logits and of the sums makes of the loss and its gradients."""

    def at_logits(loss, inputs, upstream):
        """The gradient of ``loss(logits)``."""
        logits = case.stock()(*(t.double() for t in inputs[:-1]))
        return oracle.run(loss, [logits], upstream=[upstream[0].double()])[1][0].abs()

    def loss(inputs):
        return lambda x: oracle.reconstruction(
            oracle.activate(x, activation), inputs[-1].double(), kind, reduction=reduction
        )

    def slack(inputs, upstream, wanted):
        dtype, sizes = inputs[0].dtype, [t.double().abs() for t in inputs[:-1]]
        g = at_logits(loss(inputs), inputs, upstream)
        values, grads = oracle.rounding_of(case.stock())(inputs[:-1], [g.to(dtype)], wanted)
        # A second derivative of at most 2, by the rounding of the logits.
        change = at_logits(lambda x: oracle.reduce(2 * x, reduction), inputs, upstream) * case.stock()(*sizes)
        eps = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
        _, changes = oracle.run(case.stock(), sizes, wanted, [change])
        both = [a + eps * b.amax() for a, b in zip(grads, changes, strict=True)]
        return [[values[0] * (1 if reduction == "none" else g.sum())], both]

    return slack


def check(case, tensors, **options):
    wanted = range(len(tensors) - 1)
    results = oracle.check(
        ours(case, **options), stock(case, **options), tensors, wanted, slack=rounding(case, **options)
    )
    assert results[0][0].dtype == tensors[0].dtype
    return results


@each_kind
def test_values_and_gradients(device, kind):
    for name, activation in itertools.product(NAMES, ACTIVATIONS):
        # Without a bias the outputs are in (0, 1) after a sigmoid only.
        bias = (kind == "bce" and activation != "sigmoid") or name not in ("3x3", "gaps", "dense 2x2")
        check(CASES[name], problem(CASES[name], kind, device=device, bias=bias), kind=kind, activation=activation)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@each_kind
def test_other_dtypes(device, kind, dtype):
    for name, activation in itertools.product(FEW, (None, "tanh", "sigmoid")):
        check(CASES[name], problem(CASES[name], kind, dtype, device), kind=kind, activation=activation)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "batchmean", "sample"])
def test_reductions(device, reduction):
    for name, kind in itertools.product(FEW, ("mse", "bce_logits")):
        check(CASES[name], problem(CASES[name], device=device), kind=kind, reduction=reduction, activation="tanh")


@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "batchmean", "sample"])
@each_few
def test_one_sample_without_a_batch(device, name, reduction):
    case = CASES[name]
    input, weight, bias, target = problem(case, device=device)
    check(case, [input[0], weight, bias, target[0]], reduction=reduction)
    check(case, [input[0], weight, target[0]], reduction=reduction, activation="relu")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(device, layout):
    for name, which in itertools.product(FEW, (0, 1, 3)):
        tensors = problem(CASES[name], "bce", device=device)
        tensors[which] = LAYOUTS[layout](tensors[which])
        check(CASES[name], tensors, kind="bce", activation="sigmoid")


STRIPS = {
    "strips": Case((1, 8, 61, 9), (8, 2, 5, 3), {"stride": 2, "padding": 2, "output_padding": 1}),
    "large strips": Case((2, 64, 40, 40), (64, 3, 4, 4), {"stride": 2, "padding": 1}),
    "kernel below stride": Case((1, 4, 50, 6), (4, 2, 1, 2), {"stride": (3, 4), "output_padding": (2, 3)}),
    "large kernel": Case((1, 3, 40, 9), (3, 4, 9, 7), {"padding": (0, 3)}),
    "dense": Case((2, 5, 33, 31), (5, 8, 4, 4), {"stride": 2, "padding": 1}),
}


@pytest.mark.parametrize("name", STRIPS)
def test_many_strips_and_tiles(device, nan_filled, name):
    case = STRIPS[name]
    for order, (activation, kind) in itertools.product(
        (torch.contiguous_format, torch.channels_last), (("sigmoid", "bce"), (None, "mse"))
    ):
        tensors = problem(case, kind, device=device)
        tensors[0] = tensors[0].to(memory_format=order)
        check(case, tensors, kind=kind, activation=activation)


def test_threads_change_nothing():
    """But what stock PyTorch convolves."""
    threads = torch.get_num_threads()
    for name, compared in (("large strips", 4), ("dense", 1)):
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            with pyaegpu.backend("cpu"):
                value, grads = oracle.run(ours(STRIPS[name], activation="tanh"), problem(STRIPS[name]), range(3))
            results.append((value + grads)[:compared])
        torch.set_num_threads(threads)
        assert all(map(torch.equal, *results))


@each_few
def test_far_logits(device, name):
    """bce saturates as sigmoid and bce do, bce_logits does not."""
    case = CASES[name]
    for kind, activation, scale in itertools.product(("bce", "bce_logits"), ("sigmoid",), (30.0, 300.0)):
        input, weight, bias, target = problem(case, device=device)
        check(case, [input * scale, weight, bias, target.round()], kind=kind, activation=activation)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@each_few
def test_nan_and_inf_spread_as_in_stock(device, name, value):
    case = CASES[name]
    for kind, activation in itertools.product(("bce_logits", "mse", "smooth_l1"), (None, "relu", "tanh")):
        tensors = problem(case, device=device)
        tensors[2][0] = value
        results = [oracle.run(fn(case, kind=kind, activation=activation), tensors, range(3)) for fn in (ours, stock)]
        for a, b in zip(*(r[0] + r[1] for r in results), strict=True):
            torch.testing.assert_close(a, b, equal_nan=True, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["4x4", "dense 4x4", "dilation"])
def test_bce_outside_its_range(device, name):
    """The composition's error, or on a GPU NaN."""
    case = CASES[name]
    tensors = problem(case, "bce", device=device)
    for which, values in ((2, (-9.0, float("nan"))), (3, (-0.1, 1.5))):
        for value in values:
            wrong = [t.clone() for t in tensors]
            wrong[which].view(-1)[-1] = value
            if device.type == "cuda":
                assert ours(case, kind="bce")(*wrong).isnan()
                continue
            with pytest.raises(RuntimeError, match="between 0 and 1") as expected:
                composition(case, kind="bce")(*wrong)
            with pytest.raises(RuntimeError, match="between 0 and 1") as found:
                ours(case, kind="bce")(*wrong)
            assert str(found.value) == str(expected.value)


@each_few
def test_upstream_gradients_and_a_kept_graph(device, name):
    case = CASES[name]
    tensors = problem(case, device=device)
    for factor in (1.0, -2.5, 0.0):
        leaves = [t.requires_grad_() for t in tensors[:3]]
        loss = ours(case, activation="tanh")(*leaves, tensors[3]) * factor
        first = torch.autograd.grad(loss, leaves, retain_graph=True)
        again = torch.autograd.grad(loss, leaves, retain_graph=True)
        last = torch.autograd.grad(loss, leaves)
        expected = torch.autograd.grad(stock(case, activation="tanh")(*leaves, tensors[3]) * factor, leaves)
        assert all(map(torch.equal, first, again)) and all(map(torch.equal, first, last))
        for a, b in zip(first, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@each_few
def test_only_some_gradients_wanted(device, name):
    case = CASES[name]
    tensors = problem(case, device=device)
    for wanted in itertools.product((False, True), repeat=3):
        which = [i for i, each in enumerate(wanted) if each]
        leaves = [t.detach().requires_grad_(i in which) for i, t in enumerate(tensors)]
        loss, expected = (fn(case, activation="sigmoid", kind="mse")(*leaves) for fn in (ours, stock))
        assert loss.requires_grad == bool(which)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
        if which:
            some = [leaves[i] for i in which]
            for a, b in zip(torch.autograd.grad(2 * loss, some), torch.autograd.grad(2 * expected, some), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@each_few
def test_gradient_at_the_target(device, name):
    case = CASES[name]
    oracle.check(ours(case), stock(case), problem(case, device=device), slack=None, wanted=(3,))


@pytest.mark.parametrize("name", ["4x4", "dense 4x4"])
def test_second_derivatives(device, name):
    case = Case((1, 2, 2, 2), (2, 2 if name == "4x4" else 5, 3, 3), {"stride": 2, "padding": 1})
    *leaves, target = problem(case, dtype=torch.float64, device=device)
    leaves = [t.requires_grad_() for t in leaves]
    for kind, activation in (("bce_logits", None), ("bce", "sigmoid"), ("mse", "tanh")):

        def fn(*tensors, kind=kind, activation=activation):
            return ours(case, kind=kind, activation=activation, reduction="mean")(*tensors, target)

        assert torch.autograd.gradcheck(fn, leaves, fast_mode=True)
        assert torch.autograd.gradgradcheck(fn, leaves, fast_mode=True)


class Results(TorchDispatchMode):
    """The names of the ops that were called, and the sizes of their results."""

    def __init__(self):
        super().__init__()
        self.names, self.sizes = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.names.append(func.name())
        self.sizes += [t.numel() for t in oracle.as_tuple(out) if isinstance(t, torch.Tensor)]
        return out


def saved_by(fn, tensors):
    """Tensors saved for the backward besides the inputs."""
    saved = []
    leaves = [t.detach().requires_grad_(i < 3) for i, t in enumerate(tensors)]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        loss = fn(*leaves)
    given = {t.data_ptr() for t in leaves}
    return loss, leaves[:3], [t for t in saved if t.data_ptr() not in given]


@pytest.mark.parametrize("name", ["4x4", "dense 4x4"])
def test_what_is_kept_and_that_the_backward_scales_only_what_is_small(kernel_device, name):
    case = CASES[name]
    if kernel_device.type == "cuda" and pyaegpu.backends.selected() == "cuda":
        pytest.skip("the composition serves this backend")
    for activation in (None, "sigmoid"):
        tensors = problem(case, device=kernel_device)
        loss, leaves, saved = saved_by(ours(case, activation=activation), tensors)
        assert [t.shape for t in saved] == [tensors[3].shape]
        with Results() as results:
            (loss * 3).backward()
        assert tensors[3].numel() not in results.sizes
        assert all(t.grad is not None for t in leaves)
        with Results() as results, torch.no_grad():
            ours(case, activation=activation)(*tensors)
        logits_kept = results.sizes.count(tensors[3].numel())
        assert logits_kept == (0 if name == "4x4" else 1)


def test_an_input_changed_in_place_is_noticed(kernel_device):
    for name, which in itertools.product(FEW, range(4)):
        tensors = [t * 1.0 for t in problem(CASES[name], device=kernel_device)]
        leaf = torch.zeros((), device=kernel_device, requires_grad=True)
        tensors = [t + leaf if i < 3 else t for i, t in enumerate(tensors)]
        loss = ours(CASES[name])(*tensors)
        tensors[which].mul_(0.5)
        if which != 2:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                loss.backward()


def test_inputs_are_not_changed(device):
    for name in FEW:
        tensors = problem(CASES[name], device=device)
        before = [t.clone() for t in tensors]
        leaves = [t.requires_grad_(i < 3) for i, t in enumerate(tensors)]
        (2 * ours(CASES[name], activation="relu")(*leaves)).backward()
        assert all(map(torch.equal, leaves, before))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
@each_few
def test_autocast_is_the_compositions(device, name, half):
    case = CASES[name]
    for dtypes in itertools.product((torch.float32, half), repeat=2):
        tensors = [t.to(dtypes[i == 3]) for i, t in enumerate(problem(case, device=device))]
        results = []
        for fn in (ours, composition):
            leaves = [t.detach().requires_grad_(i < 3) for i, t in enumerate(tensors)]
            with torch.autocast(device.type, half):
                loss = fn(case, activation="sigmoid", kind="mse", reduction="mean")(*leaves)
            results.append([loss, *torch.autograd.grad(loss, leaves[:3])])
        for a, b in zip(*results, strict=True):
            assert a.dtype == b.dtype
            torch.testing.assert_close(a, b, rtol=0, atol=8 * torch.finfo(half).eps * b.abs().max().item())


def test_an_empty_batch(device):
    for name, reduction in itertools.product(FEW, ("sum", "mean", "batchmean", "none")):
        case = CASES[name]
        tensors = problem(case, device=device)
        tensors = [tensors[0][:0], *tensors[1:3], tensors[3][:0]]
        results = [oracle.run(fn(case, reduction=reduction), tensors, range(3)) for fn in (ours, composition)]
        for a, b in zip(*(r[0] + r[1] for r in results), strict=True):
            torch.testing.assert_close(a, b, equal_nan=True)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"kind": "hinge"}, ValueError, "kind must be one of"),
        ({"reduction": "max"}, ValueError, "reduction must be one of"),
        ({"activation": "gelu"}, ValueError, "activation must be one of"),
        ({"target": torch.rand(2, 3, 8, 7)}, ValueError, "target must have the shape of the convolution"),
        ({"target": torch.rand(3, 8, 8)}, ValueError, "target must have the shape of the convolution"),
        ({"target": torch.rand(2, 3, 8, 8).double()}, RuntimeError, "one dtype"),
        ({"target": torch.ones(2, 3, 8, 8, dtype=torch.int64)}, RuntimeError, "target must have a floating"),
        ({"target": 0.5}, TypeError, "target must be a torch.Tensor"),
        ({"input": [1.0]}, TypeError, "input must be a torch.Tensor"),
        ({"weight": torch.rand(4, 3, 4, 4)}, RuntimeError, "channels|size"),
        ({"weight": torch.rand(5, 3, 4, 4).double()}, RuntimeError, "weight must have the dtype of input"),
        ({"bias": torch.rand(2)}, RuntimeError, "bias"),
        ({"stride": 0}, RuntimeError, "stride"),
        ({"output_padding": 2}, RuntimeError, "output.padding"),
        ({"dilation": 1.5}, TypeError, "dilation|integer|int"),
    ],
)
def test_errors(device, change, error, match):
    names = ("input", "weight", "bias", "target")
    given = dict(zip(names, problem(CASES["4x4"], device=device), strict=True)) | CASES["4x4"].numbers | change
    given = {name: t.to(device) if isinstance(t, torch.Tensor) else t for name, t in given.items()}
    with pytest.raises(error, match=match):
        pyaegpu.conv_transpose2d_loss(**given)


def fused(case, tensors, **options):
    """The ops of this family that a call makes."""
    with Results() as results:
        ours(case, **options)(*tensors)
    return [n.split("::")[1] for n in results.names if n.endswith("loss_fwd") and "reconstruction" not in n]


def test_which_calls_are_fused():
    small, dense = (CASES[name] for name in ("4x4", "groups"))
    with pyaegpu.backend("cpu"):
        assert fused(small, problem(small)) == ["conv_transpose2d_small_loss_fwd"]
        assert fused(dense, problem(dense)) == ["activation_loss_fwd"]
        assert fused(small, problem(small, dtype=torch.float16)) == []
        assert fused(small, problem(small), reduction="sample") == []
    with pyaegpu.backend("reference"):
        assert fused(small, problem(small)) == []


LARGE = {
    "small": Case((2, 16, 16, 16), (16, 3, 4, 4), {"stride": 2, "padding": 1}),
    "few products": Case((2, 5, 2, 2), (5, 3, 2, 2)),
    "dense": Case((2, 3, 128, 128), (3, 5, 4, 4), {"stride": 2, "padding": 1}),
    "groups": Case((2, 4, 32, 32), (4, 2, 2, 2), {"stride": 2, "groups": 2}),
}
CHOSEN = {"small": ["conv_transpose2d_small_loss_fwd"], "dense": ["activation_loss_fwd"]}


@pytest.mark.parametrize("name", LARGE)
def test_the_measured_choice_on_a_cpu(name):
    case = LARGE[name]
    for kind, activation in (("bce_logits", None), ("mse", "tanh")):
        tensors = problem(case)
        with pyaegpu.backend("auto"):
            assert fused(case, tensors, kind=kind, activation=activation) == CHOSEN.get(name, [])
            check(case, tensors, kind=kind, activation=activation)
            explained = pyaegpu.explain(pyaegpu.conv_transpose2d_loss, *tensors, **case.numbers, activation=activation)
            assert explained.backend == ("cpu" if name in CHOSEN else "reference")


def test_explanations(device):
    case = CASES["4x4"]
    input, weight, bias, target = problem(case, device=device)

    def explained(*tensors, **options):
        return pyaegpu.explain(pyaegpu.conv_transpose2d_loss, *tensors, **case.numbers, **options)

    composed = explained(input, weight, bias, target, reduction="none")
    assert composed.backend == "reference" and "reconstruction_loss" in composed.algorithm
    assert "cuda" in composed.others
    found = explained(input, weight, bias, target)
    selected = pyaegpu.backends.selected()
    if selected in ("cpu", "triton"):
        assert found.backend == selected and "epilogue" in found.algorithm and "reference" in found.others
    else:
        assert found == composed
