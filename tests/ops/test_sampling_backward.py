"""The backward of drawn noise: it is drawn again, alike in every mode, and nothing but the inputs is stored."""

import oracle
import pytest
import torch
from draws import has_corrupt
from oracle import DTYPES, latents, run, upstreams
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import pyaegpu

FORMS = {
    "logvar": lambda fn, m, s, **o: fn(m, s, **o),
    "std": lambda fn, m, s, **o: fn(m, std=s, **o),
    "clamped": lambda fn, m, s, **o: fn(m, s, clamp=(-0.5, 0.5), **o),
}
each_form = pytest.mark.parametrize("form", FORMS)


def seeded(form, mu, spread, **options):
    torch.manual_seed(6)
    return FORMS[form](pyaegpu.reparameterize, mu, spread, **options)


def seeded_kl(mu, logvar, reduction="sum"):
    torch.manual_seed(6)
    return pyaegpu.reparameterize_kl(mu, logvar, reduction=reduction)


def noise_of(inputs):
    """What the seeded calls draw."""
    return seeded("std", torch.zeros_like(inputs[0]), torch.ones_like(inputs[0]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_form
def test_gradients_are_those_of_the_returned_noise(device, form, dtype):
    for shape in ((), (7,), (3, 40001)):
        inputs = latents(shape, dtype, device)
        eps = seeded(form, *inputs, return_eps=True)[1]
        assert torch.equal(eps, noise_of(inputs))

        def stock(m, s, eps=eps):
            return FORMS[form](oracle.reparameterize, m, s, eps=eps.to(m.dtype))

        oracle.check(lambda *a: seeded(form, *a), stock, inputs)
        oracle.check(lambda *a: seeded(form, *a, return_eps=True)[0], stock, inputs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sample", "dim"])
def test_gradients_with_divergence(device, reduction, dtype):
    # Rows that are no whole number of quads, nor of tiles.
    inputs = latents((5, 1031) if dtype == torch.float64 else (3, 40001), dtype, device)
    eps = noise_of(inputs)
    oracle.check(
        lambda m, v: seeded_kl(m, v, reduction),
        lambda m, v: oracle.reparameterize_kl(m, v, eps=eps.to(m.dtype), reduction=reduction),
        inputs,
    )


@each_form
def test_every_way_backwards_draws_alike(device, form):
    """Kept and last, first and differentiable, one and batched; other draws in between change nothing."""
    inputs = latents((3, 7), torch.float64, device)
    eps, upstream = noise_of(inputs), latents((3, 7), torch.float64, device, seed=3)[0]
    _, expected = run(lambda m, s: FORMS[form](oracle.reparameterize, m, s, eps=eps), inputs, upstream=[upstream])
    leaves = [t.requires_grad_() for t in inputs]
    for z in (seeded(form, *leaves), seeded(form, *leaves, return_eps=True)[0]):
        noise_of(inputs)
        for options in ({"retain_graph": True}, {"retain_graph": True}, {"create_graph": True}, {}):
            grads = torch.autograd.grad(z, leaves, upstream, **options)
            torch.testing.assert_close(grads, tuple(expected), rtol=1e-13, atol=1e-13)
    batch = torch.stack([upstream, 2 * upstream])
    grads = torch.autograd.grad(seeded(form, *leaves), leaves, batch, is_grads_batched=True)
    torch.testing.assert_close(grads, tuple(torch.stack([g, 2 * g]) for g in expected), rtol=1e-13, atol=1e-13)


@each_form
def test_derivatives(device, form):
    leaves = [t.requires_grad_() for t in latents((2, 3), torch.float64, device)]
    assert gradcheck(lambda *a: seeded(form, *a), leaves, check_batched_grad=True)
    assert gradgradcheck(lambda *a: seeded(form, *a), leaves, check_batched_grad=True)
    assert gradgradcheck(lambda *a: seeded(form, *a, return_eps=True)[0], leaves)


@pytest.mark.parametrize("reduction", ["none", "mean", "sample", "dim"])
def test_derivatives_with_divergence(device, reduction):
    leaves = [t.requires_grad_() for t in latents((2, 3), torch.float64, device)]
    assert gradcheck(lambda *a: seeded_kl(*a, reduction), leaves, check_batched_grad=True)
    assert gradgradcheck(lambda *a: seeded_kl(*a, reduction), leaves, check_batched_grad=True)


@pytest.mark.parametrize("reduction", ["sum", "dim"])
def test_second_derivatives_of_one_result(device, reduction):
    leaves = [t.requires_grad_() for t in latents((2, 3), torch.float64, device)]
    for index in (0, 1):
        assert gradgradcheck(lambda *a, i=index: seeded_kl(*a, reduction)[i].square(), leaves)


def test_forward_mode_on_kernels_is_refused(kernel_device):
    mu, logvar = latents((3, 4), device=kernel_device)
    calls = (
        lambda m: pyaegpu.reparameterize(m, logvar),
        lambda m: pyaegpu.reparameterize_kl(m, logvar)[1],
        lambda m: pyaegpu.corrupt(m, "masking", 0.5),
    )
    for call in calls:
        with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="jvp"):
            call(forward_ad.make_dual(mu, mu))


@pytest.mark.parametrize("op", ["reparameterize_bwd", "reparameterize_kl_bwd", "corrupt_bwd"])
def test_the_registered_backward_refuses_a_second_derivative(op):
    g, m, v = (torch.rand(3, 4, requires_grad=True) for _ in range(3))
    numbers = (None, 1, 0)
    bounds = (-float("inf"), float("inf"))
    results = {
        "reparameterize_bwd": lambda: torch.ops.pyaegpu.reparameterize_bwd(g, v, None, *numbers, 0, *bounds, False)[0],
        "reparameterize_kl_bwd": lambda: torch.ops.pyaegpu.reparameterize_kl_bwd(
            g, None, m, v, None, *numbers, *bounds, 1, 1.0, False
        )[0],
        "corrupt_bwd": lambda: torch.ops.pyaegpu.corrupt_bwd(g, *numbers, 1, 0.5),
    }[op]()
    with pytest.raises(RuntimeError, match=f"{op} has no derivative"):
        results.sum().backward()


class Saved:
    """The tensors that a graph stores."""

    def __enter__(self):
        self.tensors = []
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda t: t)
        self.hooks.__enter__()
        return self

    def __exit__(self, *args):
        self.hooks.__exit__(*args)

    def _pack(self, tensor):
        self.tensors.append(tensor)
        return tensor

    def are(self, *expected):
        """The same memory, read in the same way, and no more."""
        places = {(t.untyped_storage().data_ptr(), t.dtype, t.numel()) for t in self.tensors}
        return places == {(t.untyped_storage().data_ptr(), t.dtype, t.numel()) for t in expected}


@pytest.mark.parametrize("layout", ["plain", "halves", "expanded", "channels_last"])
def test_no_noise_is_stored(kernel_device, layout):
    mu, logvar = {
        "plain": lambda: latents((6, 4), device=kernel_device),
        "halves": lambda: torch.randn(6, 8, device=kernel_device).chunk(2, 1),
        "expanded": lambda: tuple(t.expand(5, 6, 4) for t in latents((6, 4), device=kernel_device)),
        "channels_last": lambda: tuple(
            t.to(memory_format=torch.channels_last) for t in latents((2, 3, 4, 5), device=kernel_device)
        ),
    }[layout]()
    mu, logvar = (t.detach().requires_grad_() for t in (mu, logvar))
    kinds = ("gaussian", "masking", "salt_and_pepper") if has_corrupt() else ()
    cases = [
        (lambda: pyaegpu.reparameterize(mu, logvar), [logvar]),
        (lambda: pyaegpu.reparameterize(mu, logvar, return_eps=True)[0], [logvar]),
        (lambda: pyaegpu.reparameterize(mu, logvar, clamp=(-1, 1)), [logvar]),
        (lambda: pyaegpu.reparameterize(mu, std=logvar), []),
        (lambda: pyaegpu.reparameterize_kl(mu, logvar), [mu, logvar]),
        *((lambda k=k: pyaegpu.corrupt(mu, k, 0.5), []) for k in kinds),
    ]
    for call, expected in cases:
        with Saved() as saved:
            value = call()
        assert saved.are(*expected), [t.shape for t in saved.tensors]
        sum(v.sum() for v in oracle.as_tuple(value)).backward()


def test_given_noise_is_stored_without_a_copy(kernel_device):
    mu, logvar, eps = (t.requires_grad_() for t in (*latents((6, 4), device=kernel_device), torch.ones(6, 4)))
    eps = eps.detach().to(kernel_device).requires_grad_()
    for options, expected in (({"logvar": logvar}, [logvar, eps]), ({"std": logvar}, [logvar, eps])):
        with Saved() as saved:
            pyaegpu.reparameterize(mu, eps=eps, **options)
        assert saved.are(*expected)
    with Saved() as saved:
        pyaegpu.reparameterize(mu, std=logvar, eps=eps.detach())
    assert saved.are(eps)


@pytest.mark.parametrize("name", ["logvar", "std", "kl", "corrupt"])
def test_a_compiled_graph_stores_no_noise(kernel_device, name):
    torch._dynamo.reset()
    inputs = [t.requires_grad_() for t in latents((6, 4), device=kernel_device)]
    fn = {
        "logvar": lambda m, s: pyaegpu.reparameterize(m, s),
        "std": lambda m, s: pyaegpu.reparameterize(m, std=s),
        "kl": lambda m, s: pyaegpu.reparameterize_kl(m, s),
        "corrupt": lambda m, s: pyaegpu.corrupt(m, "masking", 0.5),
    }[name]
    results = oracle.as_tuple(torch.compile(fn, fullgraph=True, backend="aot_eager")(*inputs))
    stored = [t for t in results[0].grad_fn.saved_tensors if t.is_floating_point()]
    places = {t.untyped_storage().data_ptr() for t in inputs}
    assert all(t.untyped_storage().data_ptr() in places for t in stored), [t.shape for t in stored]
    assert len(stored) <= {"logvar": 1, "std": 1, "kl": 2, "corrupt": 0}[name]
    torch.autograd.backward(results, upstreams(results))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_no_graph_without_gradients(device, context):
    mu, logvar = (t.requires_grad_() for t in latents((3, 4), device=device))
    with context():
        results = [
            *pyaegpu.reparameterize(mu, logvar, return_eps=True),
            *pyaegpu.reparameterize_kl(mu, logvar),
            pyaegpu.corrupt(mu, "masking", 0.5),
        ]
    assert not any(t.requires_grad for t in results)


def test_a_stored_input_changed_in_place_is_noticed(kernel_device):
    leaf = torch.randn(3, 4, device=kernel_device, requires_grad=True)
    for call in (lambda s: pyaegpu.reparameterize(s.detach(), s), lambda s: pyaegpu.reparameterize_kl(s, s)[0]):
        inner = leaf * 1.0
        z = call(inner)
        inner.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            z.sum().backward()


def test_second_derivative_where_only_the_noise_needs_one(device):
    """The divergence then depends on nothing that needs a gradient."""
    mu, logvar = latents((3, 4), torch.float64, device)
    eps = torch.randn_like(mu, requires_grad=True)
    z, kl = pyaegpu.reparameterize_kl(mu, logvar, eps=eps)
    (grad,) = torch.autograd.grad(z.square().sum() + kl, eps, create_graph=True)
    torch.testing.assert_close(grad, 2 * z * (0.5 * logvar).exp())
    (second,) = torch.autograd.grad(grad.sum(), eps)
    torch.testing.assert_close(second, 2 * logvar.exp())
