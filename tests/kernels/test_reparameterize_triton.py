"""The Triton launchers of the sampling family against float64 formulas with the oracle's noise."""

import itertools
import math

import noise
import pytest
import torch
from accuracy import acc_of, check, upstream
from pyaegpu.kernels import layout
from pyaegpu.kernels import reparameterize as kernels
from sampling import CASES, DTYPES, OFFSET, SEED, apart, assert_is_noise, contiguous

# NumPy, under the interpreter, warns of what the formulas mean: overflow to inf, inf - inf.
pytestmark = [pytest.mark.filterwarnings("ignore::RuntimeWarning:triton"), pytest.mark.usefixtures("device")]

LOGVAR, STD = range(2)
NONE, TOTAL, ROWS = range(3)
INF = float("inf")
NAN = float("nan")
DRAWN = (None, None, SEED, OFFSET)
FREE = (-INF, INF)
BOUNDS = [FREE, (-0.5, 0.4), (-0.5, INF)]


def given(eps):
    """The arguments where the noise is given: the seed must not matter."""
    return (eps, None, -1, 1)


def sample(mu, spread, eps, form, lo, hi):
    return mu + eps * (torch.exp(spread.clamp(lo, hi) / 2) if form == LOGVAR else spread)


def divergence(mu, logvar, lo, hi, reduction, factor):
    logvar = logvar.clamp(lo, hi)
    kl = 0.5 * (logvar.expm1() - logvar + mu.square()) * factor
    if reduction == ROWS:
        return kl.reshape(kl.shape[0], -1).sum(1) if kl.dim() else kl
    return kl.sum() if reduction == TOTAL else kl


def operands(shape, make, dtype):
    """mu and spread in their layouts; spread begins with both bounds."""
    mu, spread = make(shape).to(dtype), make(shape).to(dtype)
    if spread.is_contiguous() and spread.numel() > 2:
        spread.view(-1)[:2] = torch.tensor([-0.5, 0.4])
    return mu, spread


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", [LOGVAR, STD])
def test_reparameterize(form, dtype):
    for i, (shape, make) in enumerate(CASES if dtype == torch.float32 else CASES[::3]):
        lo, hi = BOUNDS[i % 3] if form == LOGVAR else FREE
        mu, spread = operands(shape, make, dtype)
        numbers = (form, lo, hi)
        z, eps = kernels.reparameterize_fwd(mu, spread, *DRAWN, *numbers, True)
        assert z.dtype == eps.dtype == dtype and z.is_contiguous() and eps.is_contiguous()
        assert_is_noise(eps)
        alone, absent = kernels.reparameterize_fwd(mu, spread, *DRAWN, *numbers, False)
        assert torch.equal(alone, z) and absent.shape == (0,) and absent.dtype == dtype
        again, copy = kernels.reparameterize_fwd(mu, spread, *given(eps), *numbers, True)
        assert torch.equal(again, z) and torch.equal(copy, eps)

        g = upstream(z)
        d_spread, d_eps = kernels.reparameterize_bwd(g, spread, *DRAWN, *numbers, True)
        for source in (DRAWN, given(eps)):
            same, absent = kernels.reparameterize_bwd(g, spread, *source, *numbers, False)
            assert torch.equal(same, d_spread) and absent.shape == (0,)

        def formula(mu, spread, eps, numbers=numbers):
            return sample(mu, spread, eps, *numbers)

        check(formula, [mu, spread, eps], [z])
        check(formula, [mu, spread, eps], [None, None, d_spread, d_eps], g)


def test_std_needs_no_spread_in_the_backward():
    g, spread = torch.randn(2, 5, 21)
    want, _ = kernels.reparameterize_bwd(g, spread, *DRAWN, STD, *FREE, False)
    ours, _ = kernels.reparameterize_bwd(g, None, *DRAWN, STD, *FREE, False)
    assert torch.equal(ours, want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", [NONE, TOTAL, ROWS])
def test_reparameterize_kl(reduction, dtype):
    for i, (shape, make) in enumerate(CASES if dtype == torch.float32 else CASES[2::3]):
        lo, hi = BOUNDS[i % 3]
        mu, logvar = operands(shape, make, dtype)
        bounds, sums = (lo, hi), (lo, hi, reduction, 1 / 3)
        z, kl = kernels.reparameterize_kl_fwd(mu, logvar, *DRAWN, *sums)
        drawn, eps = kernels.reparameterize_fwd(mu, logvar, *DRAWN, LOGVAR, *bounds, True)
        assert z.dtype == dtype and kl.dtype == acc_of(dtype)
        again, same = kernels.reparameterize_kl_fwd(mu, logvar, *given(eps), *sums)
        assert torch.equal(again, z) and torch.equal(same, kl)
        torch.testing.assert_close(z, drawn)

        def formula(mu, logvar, eps, sums=sums):
            z = sample(mu, logvar, eps, LOGVAR, *sums[:2])
            return torch.cat([z.flatten(), divergence(mu, logvar, *sums).flatten()])

        inputs = [mu, logvar, eps]
        check(lambda *t, bounds=bounds: sample(*t, LOGVAR, *bounds), inputs, [z])
        check(lambda m, v, e, sums=sums: divergence(m, v, *sums) + 0 * e.sum(), inputs, [kl])
        for has_z, has_kl in itertools.product([True, False], repeat=2) if i in (1, 2) else [(True, True)]:
            g_z, g_kl = upstream(z) if has_z else None, upstream(kl) if has_kl else None
            g = [torch.zeros_like(t) if u is None else u for t, u in ((z, g_z), (kl, g_kl))]
            g = torch.cat([t.flatten().to(torch.float64) for t in g])
            *grads, d_eps = kernels.reparameterize_kl_bwd(g_z, g_kl, mu, logvar, *DRAWN, *sums, True)
            check(formula, inputs, [None, *grads, d_eps], g)
            for source in (DRAWN, given(eps)):
                *same, absent = kernels.reparameterize_kl_bwd(g_z, g_kl, mu, logvar, *source, *sums, False)
                assert all(map(torch.equal, same, grads)) and absent.shape == (0,)


@pytest.mark.parametrize("seed", [0, 1, 16, -1, 2**31, 2**32 + 1, 2**63 - 1, -(2**63)])
def test_seeds_and_offsets(seed):
    for offset in (0, 1, 4, 2**31, 2**32 - 1, 2**32, 2**62 + 3):
        x = torch.zeros(3, 7)
        _, eps = kernels.reparameterize_fwd(x, x, None, None, seed, offset, LOGVAR, *FREE, True)
        assert_is_noise(eps, seed, offset)
        for shape in [(), (1,)]:
            tensor = torch.full(shape, seed, dtype=torch.int64)
            _, same = kernels.reparameterize_fwd(x, x, None, tensor, 5, offset, LOGVAR, *FREE, True)
            assert torch.equal(same, eps)


def test_a_seed_tensor_serves_every_pass():
    seed = torch.tensor([SEED])
    mu, logvar, g = torch.randn(3, 5, 20)
    read = (None, seed, 0, OFFSET)
    for run in (
        lambda source: kernels.reparameterize_fwd(mu, logvar, *source, LOGVAR, *FREE, True),
        lambda source: kernels.reparameterize_bwd(g, logvar, *source, LOGVAR, *FREE, True),
        lambda source: kernels.reparameterize_kl_fwd(mu, logvar, *source, *FREE, TOTAL, 1.0),
        lambda source: kernels.reparameterize_kl_bwd(g, g.sum(), mu, logvar, *source, *FREE, TOTAL, 1.0, True),
    ):
        assert all(map(torch.equal, run(read), run(DRAWN)))


def test_given_noise_in_its_own_layout():
    mu, logvar = contiguous((6, 40)), contiguous((6, 40))
    for eps in (apart((6, 40)), torch.randn(40).expand(6, 40), torch.randn(40, 6).t()):
        z, _ = kernels.reparameterize_fwd(mu, logvar, *given(eps), LOGVAR, *FREE, False)
        check(lambda *t: sample(*t, LOGVAR, *FREE), [mu, logvar, eps], [z])
        g = torch.randn(6, 1).expand(6, 40)
        grads = kernels.reparameterize_bwd(g, logvar, *given(eps), LOGVAR, *FREE, True)
        assert all(grad.is_contiguous() for grad in grads)
        check(lambda *t: sample(*t, LOGVAR, *FREE), [mu, logvar, eps], [None, None, *grads], g)


def test_upstream_gradients_in_their_own_layout():
    mu, logvar = apart((6, 20)), contiguous((6, 20))
    for reduction, shape in [(NONE, (6, 20)), (ROWS, (6,)), (TOTAL, ())]:
        g_z, g_kl = torch.randn(20, 6).t(), torch.randn(()).expand(shape)
        numbers = (mu, logvar, *DRAWN, *FREE, reduction, 0.5, True)
        ours = kernels.reparameterize_kl_bwd(g_z, g_kl, *numbers)
        want = kernels.reparameterize_kl_bwd(g_z.contiguous(), g_kl.contiguous(), *numbers)
        assert all(map(torch.equal, ours, want))
    every_other = torch.randn(12)[::2]
    numbers = (mu, logvar, *DRAWN, *FREE, ROWS, 0.5, True)
    ours = kernels.reparameterize_kl_bwd(None, every_other, *numbers)
    assert all(map(torch.equal, ours, kernels.reparameterize_kl_bwd(None, every_other.contiguous(), *numbers)))


def test_many_tiles_per_program(monkeypatch):
    monkeypatch.setattr(layout, "TOTAL_PROGRAMS", 1)
    for shape, make in [((4112,), contiguous), ((1031,), contiguous), ((2, 2064), apart), ((2, 515), apart)]:
        mu, logvar = make(shape), make(shape)
        z, eps = kernels.reparameterize_fwd(mu, logvar, *DRAWN, LOGVAR, *FREE, True)
        assert_is_noise(eps)
        g = upstream(z)
        grads = kernels.reparameterize_bwd(g, logvar, *DRAWN, LOGVAR, *FREE, True)
        check(lambda *t: sample(*t, LOGVAR, *FREE), [mu, logvar, eps], [z])
        check(lambda *t: sample(*t, LOGVAR, *FREE), [mu, logvar, eps], [None, None, *grads], g)
        sums = (*FREE, TOTAL if make is contiguous else ROWS, 0.5)
        same, kl = kernels.reparameterize_kl_fwd(mu, logvar, *DRAWN, *sums)
        torch.testing.assert_close(same, z)
        check(lambda m, v, sums=sums: divergence(m, v, *sums), [mu, logvar], [kl])
        g_kl = upstream(kl)
        *grads, _ = kernels.reparameterize_kl_bwd(None, g_kl, mu, logvar, *DRAWN, *sums, False)
        check(lambda m, v, sums=sums: divergence(m, v, *sums), [mu, logvar], [None, *grads], g_kl)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (4, 0), (4, 0, 2)])
def test_empty(shape):
    x = torch.empty(shape)
    assert all(t.shape == shape for t in kernels.reparameterize_fwd(x, x, *DRAWN, LOGVAR, *FREE, True))
    assert all(t.shape == shape for t in kernels.reparameterize_bwd(x, x, *DRAWN, LOGVAR, *FREE, True))
    for reduction, count in [(TOTAL, ()), (ROWS, shape[:1]), (NONE, shape)]:
        for factor, want in [(2.0, 0.0), (NAN, NAN)]:
            z, kl = kernels.reparameterize_kl_fwd(x, x, *DRAWN, *FREE, reduction, factor)
            assert z.shape == shape and torch.allclose(kl, torch.full(count, want), equal_nan=True)
            grads = kernels.reparameterize_kl_bwd(x, kl, x, x, *DRAWN, *FREE, reduction, factor, True)
            assert all(t.shape == shape for t in grads)


def test_bounds_pass_the_gradient_and_nan_stays():
    logvar = torch.tensor([-1.0, 1.0, -1.001, 1.001, NAN, -INF, INF, 0.0])
    g, eps = torch.ones(8), torch.full((8,), 2.0)
    want = [True, True, False, False, True, False, False, True]
    d_spread, d_eps = kernels.reparameterize_bwd(g, logvar, *given(eps), LOGVAR, -1.0, 1.0, True)
    assert d_spread.bool().tolist() == want and d_spread.isnan().tolist() == [i == 4 for i in range(8)]
    torch.testing.assert_close(d_eps, torch.exp(logvar.clamp(-1, 1) / 2), equal_nan=True)
    sums = (-1.0, 1.0, NONE, 1.0)
    for g_z, g_kl in [(g, None), (None, g), (g, g)]:
        _, d_logvar, _ = kernels.reparameterize_kl_bwd(g_z, g_kl, g, logvar, *given(eps), *sums, False)
        nonzero = [kept and not (g_z is None and i == 7) for i, kept in enumerate(want)]
        assert d_logvar.bool().tolist() == nonzero and d_logvar.isnan().tolist() == [i == 4 for i in range(8)]


def test_nan_and_inf_as_stock():
    special = [NAN, INF, -INF, 0.0, -0.0, 1.0, 100.0, 170.0, 200.0, -200.0]
    mu, spread, eps = torch.tensor(list(itertools.product(special, special, [0.0, -1.5, NAN]))).unbind(1)
    for form in (LOGVAR, STD):
        leaves = [t.clone().requires_grad_() for t in (mu, spread, eps)]
        sigma = torch.exp(0.5 * leaves[1]) if form == LOGVAR else leaves[1]
        stock = leaves[0] + sigma * leaves[2]
        _, *grads = torch.autograd.grad(stock, leaves, torch.full_like(stock, 0.5))
        z, _ = kernels.reparameterize_fwd(mu, spread, *given(eps), form, *FREE, False)
        torch.testing.assert_close(z, stock.detach(), equal_nan=True, rtol=1e-5, atol=0)
        ours = kernels.reparameterize_bwd(torch.full_like(mu, 0.5), spread, *given(eps), form, *FREE, True)
        for mine, want in zip(ours, grads, strict=True):
            torch.testing.assert_close(mine, want, equal_nan=True, rtol=1e-5, atol=0)
    z, kl = kernels.reparameterize_kl_fwd(mu, spread, *given(eps), *FREE, NONE, 1.0)
    torch.testing.assert_close(z, mu + torch.exp(0.5 * spread) * eps, equal_nan=True, rtol=1e-5, atol=0)
    stock = -0.5 * (1 + spread - mu.square() - spread.exp())
    torch.testing.assert_close(kl, stock, equal_nan=True, rtol=1e-5, atol=1e-5)


def test_kl_near_zero_is_right_to_1e_6():
    d = torch.cat([10.0 ** -torch.arange(0.0, 7.0, 0.25), torch.tensor([0.3, 0.49, 0.51, 0.99, 1.01, 10.0, 40.0])])
    d = torch.cat([d, -d])
    zero = torch.zeros_like(d)
    exact = d.double()
    series = sum(exact**k / math.factorial(k) for k in range(2, 12))
    want = torch.where(exact.abs() < 0.01, series, exact.expm1() - exact) / 2
    _, kl = kernels.reparameterize_kl_fwd(zero, d, *DRAWN, *FREE, NONE, 1.0)
    torch.testing.assert_close(kl.double(), want, rtol=1e-6, atol=0)
    grads = kernels.reparameterize_kl_bwd(None, torch.ones_like(d), zero, d, *DRAWN, *FREE, NONE, 1.0, False)
    torch.testing.assert_close(grads[1].double(), exact.expm1() / 2, rtol=1e-6, atol=0)


def test_results_do_not_vary():
    mu, logvar = torch.randn(2, 3, 1031)
    for reduction in (NONE, TOTAL, ROWS):
        first, second = (kernels.reparameterize_kl_fwd(mu, logvar, *DRAWN, *FREE, reduction, 1.0) for _ in range(2))
        assert all(map(torch.equal, first, second))


def test_more_than_2_to_the_31_elements(device, large_memory):
    if device == "cpu":
        pytest.skip("too large for the interpreter")
    large_memory(30)
    n, last = 2**31 + 4096, 4096
    x = torch.zeros(n, dtype=torch.bfloat16)
    z, eps = kernels.reparameterize_fwd(x, x, *DRAWN, LOGVAR, *FREE, True)
    assert torch.equal(z, eps)
    want = noise.normals(last, SEED, OFFSET, start=n - last)
    torch.testing.assert_close(z[-last:].double(), want, rtol=2**-8, atol=1e-6)
