"""The Triton launchers against plain float64 PyTorch, in Triton's interpreter or on a GPU."""

import math

import pytest
import torch
import torch.nn.functional as F
from accuracy import acc_of, check, layouts, upstream
from pyaegpu.kernels import layout
from pyaegpu.kernels import vae_loss as kernels
from torch import Tensor

# NumPy, under the interpreter, warns of what the formulas mean: log(0), overflow to inf.
pytestmark = [pytest.mark.filterwarnings("ignore::RuntimeWarning:triton"), pytest.mark.usefixtures("device")]

BCE, LOGITS, MSE, L1, SMOOTH = range(5)
NONE, TOTAL, ROWS, COLUMNS = range(4)
LOGVAR, STD, VAR = range(3)
INF = float("inf")
NAN = float("nan")
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
KINDS = [BCE, LOGITS, MSE, L1, SMOOTH]


def test_unwritten_memory_is_nan():
    x = torch.ones(3, 5)
    for t in (torch.empty(3), torch.empty_like(x), x.new_empty(4)):
        assert t.isnan().all()


# The oracle: stock formulas, in float64 for the truth and in the accumulation dtype for stock's own error.


def reduce(loss: Tensor, reduction: int, factor: float) -> Tensor:
    if reduction == TOTAL:
        return loss.sum() * factor
    if reduction == ROWS:
        return loss.sum(tuple(range(1, loss.dim()))) * factor if loss.dim() > 1 else loss * factor
    return loss.sum(0) * factor if reduction == COLUMNS else loss * factor


def reconstruction(x, t, w, kind, threshold):
    loss = {
        BCE: F.binary_cross_entropy,
        LOGITS: F.binary_cross_entropy_with_logits,
        MSE: F.mse_loss,
        L1: F.l1_loss,
        SMOOTH: lambda a, b, reduction: F.smooth_l1_loss(a, b, reduction=reduction, beta=threshold),
    }[kind](x, t, reduction="none")
    return loss if w is None else loss * w


def kl(mu, spread, mu2, logvar2, form, lo, hi, log_eps):
    zero = torch.zeros((), dtype=mu.dtype)
    mu2, logvar2 = (zero, zero) if mu2 is None else (mu2, logvar2)
    log_var = {
        LOGVAR: lambda: spread.clamp(lo, hi),
        STD: lambda: (spread.square() + log_eps).log(),
        VAR: lambda: (spread + log_eps).log(),
    }[form]()
    var = {LOGVAR: lambda: log_var.exp(), STD: lambda: spread.square(), VAR: lambda: spread}[form]()
    return 0.5 * (logvar2 - log_var - 1 + (var + (mu - mu2).square()) / logvar2.exp())


def recon_inputs(shape, kind, dtype, weight=True):
    x = torch.rand(shape) if kind == BCE else torch.randn(shape) * 3
    w = (torch.rand(shape) + 0.5).to(dtype) if weight else None
    return x.to(dtype), torch.rand(shape).to(dtype), w


# The first four take every tile: narrow, and wide with short, middling and long rows.
SHAPES = [(2, 1025), (33, 48), (5, 784), (2, 4112), (1,), (3,), (127,), (2, 4097), (37, 3), (3, 7, 11, 13), (1, 2, 3)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", [NONE, TOTAL, ROWS])
@pytest.mark.parametrize("kind", KINDS)
def test_reconstruction(kind, reduction, dtype):
    for i, shape in enumerate(SHAPES if dtype == torch.float32 else SHAPES[:4]):
        x, t, w = recon_inputs(shape, kind, dtype, weight=i % 2 == 0)
        threshold, factor = (0.7, 1 / 3)

        def formula(x, t=t, w=w):
            t, w = t.to(x.dtype), None if w is None else w.to(x.dtype)
            return reduce(reconstruction(x, t, w, kind, threshold), reduction, factor)  # noqa: B023

        arguments = (x, t, w, kind, threshold, reduction, factor)
        value, grad = kernels.reconstruction_loss_fwd(*arguments, True)
        assert value.dtype == (dtype if reduction == NONE else acc_of(dtype))
        assert grad.dtype == dtype
        check(formula, [x], [value, grad])
        alone, absent = kernels.reconstruction_loss_fwd(*arguments, False)
        assert torch.equal(alone, value) and absent.shape == (0,) and absent.dtype == dtype
        g = upstream(value)
        check(formula, [x], [None, kernels.reconstruction_loss_bwd(g, *arguments)], g)


@pytest.mark.parametrize("threshold", [0.0, 0.25, 3.0])
def test_smooth_l1_threshold(threshold):
    x, t, _ = recon_inputs((4, 33), SMOOTH, torch.float32)
    x[0, :5] = t[0, :5]
    value, grad = kernels.reconstruction_loss_fwd(x, t, None, SMOOTH, threshold, NONE, 1.0, True)
    check(lambda x: F.smooth_l1_loss(x, t.to(x.dtype), reduction="none", beta=threshold), [x], [value, grad])


@pytest.mark.parametrize("reduction", [NONE, TOTAL, ROWS])
def test_reconstruction_layouts(reduction):
    shape = (3, 4, 5, 6)
    for x in layouts(shape, torch.randn):
        for other in layouts(shape, torch.rand):

            def formula(x, other=other):
                other = other.to(x.dtype)
                return reduce(F.mse_loss(x, other, reduction="none") * other, reduction, 2.0)

            arguments = (x, other, other, MSE, 1.0, reduction, 2.0)
            value, grad = kernels.reconstruction_loss_fwd(*arguments, True)
            check(formula, [x], [value, grad])
            dense = layout.dense(x, reduction == ROWS)
            assert grad.stride() == dense.stride()
            g = upstream(value)
            if reduction == NONE:
                assert value.stride() == dense.stride()
                g = g.contiguous()
            check(formula, [x], [None, kernels.reconstruction_loss_bwd(g, *arguments)], g)


def test_dense_layouts_are_not_copied():
    x = torch.randn(3, 4, 5, 6)
    last = x.contiguous(memory_format=torch.channels_last)
    permuted = x.permute(1, 2, 0, 3)
    assert layout.dense(last, True) is last and layout.dense(permuted, False) is permuted
    assert layout.dense(permuted, True).is_contiguous()
    assert layout.dense(x[..., ::2], False).is_contiguous()
    assert layout.dense(x[:1].expand(3, 4, 5, 6), False).is_contiguous()
    mu, _ = torch.randn(8, 14).chunk(2, 1)
    view = layout.row_view(mu)
    assert view.tensor is mu and view.stride == 14


@pytest.mark.parametrize("reduction", [TOTAL, ROWS])
def test_scale(reduction):
    for shape in [(1,), (5, 3), (5, 1025), (3, 4097)]:
        for dtype in DTYPES:
            grad = torch.randn(shape).to(dtype)
            g = torch.tensor(1.5) if reduction == TOTAL else torch.randn(shape[0])
            if reduction == ROWS:
                g[-1] = 1.0
            by_row = g if reduction == TOTAL else g.reshape(-1, *[1] * (grad.dim() - 1))
            want = (grad.to(acc_of(dtype)) * by_row).to(dtype)
            kernels.reconstruction_loss_scale_(grad, g, reduction)
            torch.testing.assert_close(grad, want, rtol=torch.finfo(dtype).eps, atol=0)
            before = grad.clone()
            kernels.reconstruction_loss_scale_(grad, torch.ones_like(g), reduction)
            assert torch.equal(grad, before)


def test_scale_refuses_what_the_forward_did_not_make():
    with pytest.raises(RuntimeError, match="dense"):
        kernels.reconstruction_loss_scale_(torch.zeros(4, 6)[:, ::2], torch.ones(()), TOTAL)


def test_many_tiles_per_program(monkeypatch):
    monkeypatch.setattr(layout, "TOTAL_PROGRAMS", 3)
    cases = [((20016,), TOTAL), ((7001,), TOTAL), ((2, 3, 1001), ROWS), ((17, 608), ROWS), ((50, 101), ROWS)]
    for shape, reduction in cases:
        x, t, w = recon_inputs(shape, LOGITS, torch.float32)

        def formula(x, t=t, w=w, reduction=reduction):
            loss = reconstruction(x, t.to(x.dtype), w.to(x.dtype), LOGITS, 1.0)
            return reduce(loss, reduction, 1.0)

        arguments = (x, t, w, LOGITS, 1.0, reduction, 1.0)
        value, grad = kernels.reconstruction_loss_fwd(*arguments, True)
        check(formula, [x], [value, grad])
        g = upstream(value)
        check(formula, [x], [None, kernels.reconstruction_loss_bwd(g, *arguments)], g)
        kernels.reconstruction_loss_scale_(grad, g, reduction)
        check(formula, [x], [None, grad], g)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (4, 0), (4, 0, 2)])
def test_empty(shape):
    x = torch.empty(shape)
    for reduction, count in [(TOTAL, ()), (ROWS, shape[:1]), (NONE, shape)]:
        for factor, want in [(2.0, 0.0), (NAN, NAN)]:
            arguments = (x, x, None, MSE, 1.0, reduction, factor)
            value, grad = kernels.reconstruction_loss_fwd(*arguments, True)
            expected = torch.full(count, want)
            assert torch.allclose(value, expected, equal_nan=True) and value.shape == count
            assert grad.shape == shape == kernels.reconstruction_loss_bwd(expected, *arguments).shape
            if reduction != NONE:
                kernels.reconstruction_loss_scale_(grad, expected, reduction)
    for reduction, count in [(TOTAL, ()), (ROWS, shape[:1]), (NONE, shape), (COLUMNS, shape[1:])]:
        numbers = (LOGVAR, -INF, INF, 0.0, reduction, 2.0)
        value = kernels.gaussian_kl_fwd(x, x, x, x, *numbers)
        assert torch.equal(value, torch.zeros(count))
        assert all(d.shape == shape for d in kernels.gaussian_kl_bwd(value, x, x, x, x, *numbers))


def test_saturated_bce_equals_stock():
    x = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1e-7, 1 - 2**-24, 1e-30, 0.5])
    t = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.3, 0.3, 1.0, 0.0, 1.0, 0.5])
    leaf = x.clone().requires_grad_()
    stock = F.binary_cross_entropy(leaf, t, reduction="none")
    stock.sum().backward()
    value, grad = kernels.reconstruction_loss_fwd(x, t, None, BCE, 1.0, NONE, 1.0, True)
    assert torch.equal(value[:6], stock[:6]) and torch.equal(grad[:6], leaf.grad[:6])
    assert grad[1] == -1e12 and grad[2] == 1e12
    torch.testing.assert_close(value, stock.detach(), rtol=3e-7, atol=0)
    torch.testing.assert_close(grad, leaf.grad, rtol=3e-7, atol=0)


def test_bce_outside_its_domain_is_nan():
    x = torch.tensor([-0.1, 1.1, NAN, 0.5, 0.5, 0.5, 0.5, INF])
    t = torch.tensor([0.5, 0.5, 0.5, -0.1, 1.5, NAN, 0.5, 0.5])
    value, grad = kernels.reconstruction_loss_fwd(x, t, None, BCE, 1.0, NONE, 1.0, True)
    want = torch.tensor([1, 1, 1, 1, 1, 1, 0, 1], dtype=torch.bool)
    assert torch.equal(value.isnan(), want) and torch.equal(grad.isnan(), want)


@pytest.mark.parametrize("kind", [LOGITS, MSE, L1, SMOOTH])
def test_nan_and_inf_as_stock(kind):
    special = [NAN, INF, -INF, 0.0, -0.0, 1.0, 200.0, -200.0, 3e38]
    x, t = torch.tensor([(a, b) for a in special for b in (0.0, 0.4, 1.0, NAN)]).unbind(1)
    leaf = x.clone().requires_grad_()
    stock = reconstruction(leaf, t, None, kind, 1.0)
    (stock_grad,) = torch.autograd.grad(stock.sum(), leaf)
    value, grad = kernels.reconstruction_loss_fwd(x, t, None, kind, 1.0, NONE, 1.0, True)
    torch.testing.assert_close(value, stock.detach(), equal_nan=True, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(grad, stock_grad, equal_nan=True, rtol=1e-6, atol=1e-12)


def test_float16_sums_do_not_overflow():
    x = torch.full((64, 1000), 100.0, dtype=torch.float16)
    value, _ = kernels.reconstruction_loss_fwd(x, -x, None, MSE, 1.0, TOTAL, 1.0, False)
    assert value == 64 * 1000 * 200.0**2


def latent_inputs(shape, form, dtype, other):
    spread = torch.randn(shape) * 0.8 if form != VAR else torch.rand(shape) * 3 + 0.05
    if form == STD:
        spread = torch.where(spread.abs() < 0.05, 0.5, spread)
    second = [torch.randn(shape).to(dtype) if other else None for _ in range(2)]
    return [torch.randn(shape).to(dtype), spread.to(dtype), *second]


KL_SHAPES = [(27, 20), (70, 64), (2, 2064), (5, 160), (1, 1), (3,), (3, 3, 7, 11), (150, 3)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", [NONE, TOTAL, ROWS, COLUMNS])
@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("form", [LOGVAR, STD, VAR])
def test_gaussian_kl(form, other, reduction, dtype):
    for i, shape in enumerate(KL_SHAPES if dtype == torch.float32 else KL_SHAPES[:3]):
        inputs = latent_inputs(shape, form, dtype, other)
        lo, hi = ((-0.5, 0.4) if i % 2 else (-INF, INF)) if form == LOGVAR else (-INF, INF)
        numbers = (form, lo, hi, 0.0 if form == LOGVAR else 0.03 * (i % 2))

        def formula(*inputs, numbers=numbers):
            return reduce(kl(*inputs, *numbers), reduction, 1 / 3)

        value = kernels.gaussian_kl_fwd(*inputs, *numbers, reduction, 1 / 3)
        assert value.dtype == acc_of(dtype)
        g = upstream(value)
        grads = kernels.gaussian_kl_bwd(g, *inputs, *numbers, reduction, 1 / 3)
        assert all(grad.dtype == dtype for grad in grads)
        if not other:
            assert grads[2].shape == grads[3].shape == (0,)
            grads = grads[:2]
        check(formula, inputs, [value])
        check(formula, inputs, [None, *grads], g)


@pytest.mark.parametrize("reduction", [NONE, TOTAL, ROWS, COLUMNS])
def test_gaussian_kl_layouts(reduction):
    shape = (5, 3, 4, 6)
    made = [*layouts(shape, torch.randn), *torch.randn(5, 6, 4, 6).chunk(2, 1), torch.randn(7, 5, 3, 4, 6)[3]]
    for i in range(len(made)):
        # Four layouts that differ from each other, in turn.
        mu, logvar, mu2, logvar2 = (made[(i + 3 * k) % len(made)] for k in range(4))
        numbers = (LOGVAR, -INF, INF, 0.0)

        def formula(*inputs):
            return reduce(kl(*inputs, *numbers), reduction, 1.0)  # noqa: B023

        inputs = [mu, logvar, mu2, logvar2] if i % 2 else [mu, logvar, None, None]
        value = kernels.gaussian_kl_fwd(*inputs, *numbers, reduction, 1.0)
        check(formula, inputs, [value])
        g = upstream(value)
        grads = kernels.gaussian_kl_bwd(g, *inputs, *numbers, reduction, 1.0)
        assert all(grad.is_contiguous() for grad in grads)
        check(formula, inputs, [None, *(grads if i % 2 else grads[:2])], g)


def test_expanded_upstream_gradients():
    mu, logvar = torch.randn(6, 4), torch.randn(6, 4)
    for reduction, shape in [(ROWS, (6,)), (COLUMNS, (4,)), (NONE, (6, 4))]:
        numbers = (LOGVAR, -INF, INF, 0.0, reduction, 1.0)
        ones = torch.ones(()).expand(shape)
        for ours, want in zip(
            kernels.gaussian_kl_bwd(ones, mu, logvar, None, None, *numbers),
            kernels.gaussian_kl_bwd(ones.contiguous(), mu, logvar, None, None, *numbers),
            strict=True,
        ):
            assert torch.equal(ours, want)
    grad = kernels.reconstruction_loss_bwd(torch.ones(()).expand(6), mu, logvar, None, MSE, 1.0, ROWS, 1.0)
    assert torch.equal(grad, (mu - logvar) * 2)


def exact_kl(excess: Tensor, log_var: Tensor) -> Tensor:
    """(excess - log_var) / 2 in float64, for excess = variance - 1, by the series where that cancels."""
    series = sum(log_var**k / math.factorial(k) for k in range(2, 12))
    return torch.where(log_var.abs() < 0.01, series, excess - log_var) / 2


def test_kl_near_zero_is_right_to_1e_6():
    d = torch.cat([10.0 ** -torch.arange(0.0, 7.0, 0.25), torch.tensor([0.3, 0.49, 0.51, 2.0, 10.0, 40.0])])
    d = torch.cat([d, -d])
    zero = torch.zeros_like(d)
    numbers = (None, None, LOGVAR, -INF, INF, 0.0, NONE, 1.0)
    value = kernels.gaussian_kl_fwd(zero, d, *numbers)
    exact = d.double()
    torch.testing.assert_close(value.double(), exact_kl(exact.expm1(), exact), rtol=1e-6, atol=0)
    dlogvar = kernels.gaussian_kl_bwd(torch.ones_like(d), zero, d, *numbers)[1]
    torch.testing.assert_close(dlogvar.double(), exact.expm1() / 2, rtol=1e-6, atol=0)


@pytest.mark.parametrize("form", [STD, VAR])
def test_kl_near_unit_variance(form):
    distance = 2.0 ** -torch.arange(1.0, 20.0)
    spread = torch.cat([1 - distance, 1 + distance, torch.tensor([0.1, 0.69, 0.71, 1.4, 1.5, 5.0])])
    if form == STD:
        spread = -spread
    exact = spread.double().abs()
    excess = (exact - 1) * (exact + 1) if form == STD else exact - 1
    numbers = (None, None, form, -INF, INF, 0.0, NONE, 1.0)
    value = kernels.gaussian_kl_fwd(torch.zeros_like(spread), spread, *numbers)
    torch.testing.assert_close(value.double(), exact_kl(excess, excess.log1p()), rtol=2e-6, atol=0)


def test_kl_of_infinite_and_nan_latents():
    logvar = torch.tensor([INF, -INF, NAN, 200.0, 0.0, 0.0])
    mu = torch.tensor([0.0, 0.0, 0.0, 0.0, NAN, INF])
    value = kernels.gaussian_kl_fwd(mu, logvar, None, None, LOGVAR, -INF, INF, 0.0, NONE, 1.0)
    # inf - inf in the first, as in 1 + logvar - mu^2 - exp(logvar).
    torch.testing.assert_close(value, torch.tensor([NAN, INF, NAN, INF, NAN, INF]), equal_nan=True)
    clamped = kernels.gaussian_kl_fwd(mu[:3], logvar[:3], None, None, LOGVAR, -1.0, 1.0, 0.0, NONE, 1.0)
    assert clamped[:2].isfinite().all() and clamped[2].isnan()
    bounds = torch.tensor([-1.0, 1.0, -1.001, 1.001])
    numbers = (LOGVAR, -1.0, 1.0, 0.0, NONE, 1.0)
    dlogvar = kernels.gaussian_kl_bwd(bounds, bounds, bounds, None, None, *numbers)[1]
    assert torch.equal(dlogvar != 0, torch.tensor([True, True, False, False]))


VAE_SHAPES = [((7, 5), (7, 3)), ((3, 2, 11, 17), (3, 20)), ((2, 4112), (2, 2064)), ((5, 784), (5, 32)), ((1, 1),) * 2]


def vae_formula(target, weight, kind, reduction, beta, lo, hi, recon_factor, kl_factor):
    def formula(x, mu, logvar):
        w = None if weight is None else weight.to(x.dtype)
        recon = reduce(reconstruction(x, target.to(x.dtype), w, kind, 1.0), reduction, recon_factor)
        divergence = reduce(kl(mu, logvar, None, None, LOGVAR, lo, hi, 0.0), reduction, kl_factor)
        return torch.stack([recon + beta * divergence, recon, divergence])

    return formula


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(kind, torch.float32) for kind in KINDS] + [(kind, dtype) for kind in (LOGITS, MSE) for dtype in DTYPES[1:]],
)
@pytest.mark.parametrize("reduction", [TOTAL, ROWS])
def test_vae_loss(kind, reduction, dtype):
    for i, (shape, latent) in enumerate(VAE_SHAPES):
        x, t, w = recon_inputs(shape, kind, dtype, weight=i % 2 == 0)
        mu, logvar, _, _ = latent_inputs(latent, LOGVAR, dtype, False)
        if i % 2:
            mu, logvar = torch.cat([mu, logvar], 1).chunk(2, 1)
        lo, hi = (-0.5, 0.5) if i % 2 else (-INF, INF)
        beta = torch.tensor(1.7, dtype=acc_of(dtype)) if i % 2 else None
        beta_value = NAN if i % 2 else 0.3
        formula = vae_formula(t, w, kind, reduction, 1.7 if i % 2 else 0.3, lo, hi, 0.5, 0.25)

        *parts, grad = kernels.vae_loss_fwd(
            x, t, w, mu, logvar, beta, beta_value, kind, reduction, 0.5, 0.25, lo, hi, True
        )
        assert all(part.dtype == acc_of(dtype) for part in parts)
        check(formula, [x, mu, logvar], [torch.stack(parts)])
        for mask in [(1, 1, 1), (1, 0, 0), (0, 1, 1), (0, 0, 0)] if i < 2 else [(1, 1, 1)]:
            gs = [upstream(part) if wanted else None for part, wanted in zip(parts, mask, strict=True)]
            g = torch.stack([torch.zeros_like(parts[0]) if g is None else g for g in gs])
            numbers = (kind, reduction, 0.5, 0.25, lo, hi)
            grads = kernels.vae_loss_bwd(*gs, x, t, w, mu, logvar, beta, beta_value, *numbers)
            check(formula, [x, mu, logvar], [None, *grads], g)
            if dtype in (torch.float32, torch.float64):
                scaled = grad.clone()
                stored = kernels.vae_loss_bwd_stored_(
                    scaled, *gs, mu, logvar, beta, beta_value, reduction, 0.25, lo, hi
                )
                check(formula, [x, mu, logvar], [None, scaled, *stored], g)


def test_stored_gradient_with_unit_upstream_is_left_alone():
    x, t, _ = recon_inputs((4, 100), LOGITS, torch.bfloat16)
    mu, logvar = torch.randn(2, 4, 8)
    for reduction, g in [(TOTAL, torch.ones(())), (ROWS, torch.ones(4))]:
        *_, grad = kernels.vae_loss_fwd(x, t, None, mu, logvar, None, 1.0, LOGITS, reduction, 1.0, 1.0, -INF, INF, True)
        before = grad.clone()
        numbers = (mu, logvar, None, 1.0, reduction, 1.0, -INF, INF)
        kernels.vae_loss_bwd_stored_(grad, g * 0.25, g * 0.75, None, *numbers)
        assert torch.equal(grad, before)
        kernels.vae_loss_bwd_stored_(grad, g, g, None, *numbers)
        assert torch.equal(grad, before * 2)


@pytest.mark.parametrize("shapes", [((0, 5), (0, 3)), ((4, 0), (4, 3)), ((4, 5), (4, 0))])
def test_vae_loss_empty(shapes):
    x, mu = torch.randn(shapes[0]), torch.randn(shapes[1])
    for reduction in (TOTAL, ROWS):
        formula = vae_formula(x, None, MSE, reduction, 2.0, -INF, INF, 1.0, 1.0)
        *parts, grad = kernels.vae_loss_fwd(x, x, None, mu, mu, None, 2.0, MSE, reduction, 1.0, 1.0, -INF, INF, True)
        g = torch.ones_like(parts[0])
        grads = kernels.vae_loss_bwd(g, None, None, x, x, None, mu, mu, None, 2.0, MSE, reduction, 1.0, 1.0, -INF, INF)
        want = torch.stack([g, torch.zeros_like(g), torch.zeros_like(g)])
        check(formula, [x, mu, mu], [torch.stack(parts), grad, None, None])
        check(formula, [x, mu, mu], [None, *grads], want)


def test_vae_loss_of_strided_latents_in_many_tiles(monkeypatch):
    monkeypatch.setattr(layout, "TOTAL_PROGRAMS", 4)
    x = torch.randn(100, 2, 9, 16).contiguous(memory_format=torch.channels_last)
    t = torch.rand(100, 2, 9, 16)
    mu, logvar = torch.randn(100, 2, 200).unbind(1)
    for reduction in (TOTAL, ROWS):
        formula = vae_formula(t, None, LOGITS, reduction, 0.5, -INF, INF, 1.0, 1.0)
        numbers = (LOGITS, reduction, 1.0, 1.0, -INF, INF)
        *parts, grad = kernels.vae_loss_fwd(x, t, None, mu, logvar, None, 0.5, *numbers, True)
        assert grad.stride() == x.stride()
        check(formula, [x, mu, logvar], [torch.stack(parts)])
        g = torch.randn(3, *parts[0].shape)
        grads = kernels.vae_loss_bwd(*g, x, t, None, mu, logvar, None, 0.5, *numbers)
        check(formula, [x, mu, logvar], [None, *grads], g)


def test_results_do_not_vary():
    x, t, w = recon_inputs((3, 4099), LOGITS, torch.float32)
    mu, logvar = torch.randn(2, 3, 77)
    for reduction in (TOTAL, ROWS):
        arguments = (x, t, w, mu, logvar, None, 0.5, LOGITS, reduction, 1.0, 1.0, -INF, INF, True)
        for first, second in zip(*(kernels.vae_loss_fwd(*arguments) for _ in range(2)), strict=True):
            assert torch.equal(first, second)
    numbers = (LOGVAR, -INF, INF, 0.0, COLUMNS, 1.0)
    assert torch.equal(*(kernels.gaussian_kl_fwd(mu, logvar, None, None, *numbers) for _ in range(2)))


def test_more_than_2_to_the_31_elements(device, large_memory):
    if device == "cpu":
        pytest.skip("too large for the interpreter")
    large_memory(20)
    n = 2**31 + 4096
    x = torch.zeros(n, dtype=torch.bfloat16)
    x[-1] = 3
    value, grad = kernels.reconstruction_loss_fwd(x, torch.zeros_like(x), None, MSE, 1.0, TOTAL, 1.0, True)
    assert value == 9 and grad[-1] == 6 and grad[:-1].count_nonzero() == 0
