"""Drawn noise under torch.compile, torch.export, torch.jit.trace, make_fx, fake tensors and torch.func."""

import io

import oracle
import pytest
import torch
from oracle import latents, run
from torch import func
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, export
from torch.fx.experimental.proxy_tensor import make_fx

import pyaegpu

CALLS = {
    "logvar": lambda m, s: pyaegpu.reparameterize(m, s),
    "std": lambda m, s: pyaegpu.reparameterize(m, std=s),
    "kl": lambda m, s: pyaegpu.reparameterize_kl(m, s)[0],
    "gaussian": lambda m, s: pyaegpu.corrupt(m * s, "gaussian", 0.5),
    "masking": lambda m, s: pyaegpu.corrupt(m * s, "masking", 0.5),
    "salt_and_pepper": lambda m, s: pyaegpu.corrupt(m * s, "salt_and_pepper", 0.5),
}
each_call = pytest.mark.parametrize("name", CALLS)


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def assert_draws_anew(draw):
    """Each call draws other noise, and the global seed repeats it."""
    torch.manual_seed(1)
    first, second, third = draw(), draw(), draw()
    assert not torch.equal(first, second) and not torch.equal(second, third)
    torch.manual_seed(1)
    assert torch.equal(draw(), first) and torch.equal(draw(), second)
    torch.manual_seed(2)
    assert not torch.equal(draw(), first)


def noisy(device, shape=(6, 5)):
    return latents(shape, device=device)


@each_call
def test_compiled(device, name):
    counter = CompileCounter()
    fn, inputs = torch.compile(CALLS[name], fullgraph=True, backend=counter), noisy(device)
    assert_draws_anew(lambda: fn(*inputs))
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", ["logvar", "masking"])
def test_inductor(device, name):
    fn, inputs = torch.compile(CALLS[name], fullgraph=True), noisy(device)
    assert_draws_anew(lambda: fn(*inputs))
    seeds = {tuple(fn(*inputs).flatten().tolist()) for _ in range(50)}
    assert len(seeds) == 50


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("form", ["logvar", "std"])
def test_compiled_gradients_are_those_of_the_drawn_noise(device, form, backend):
    def sample(m, s):
        return pyaegpu.reparameterize(m, **{form: s}, return_eps=True)

    leaves = [t.requires_grad_() for t in noisy(device)]
    fn = torch.compile(sample, fullgraph=True, backend=backend)
    for _ in range(2):
        z, eps = fn(*leaves)
        assert not eps.requires_grad
        expected = oracle.reparameterize(leaves[0], **{form: leaves[1]}, eps=eps)
        torch.testing.assert_close(z, expected)
        upstream = torch.linspace(-1, 1, z.numel(), device=device).view(z.shape)
        for a, b in zip(
            torch.autograd.grad(z, leaves, upstream), torch.autograd.grad(expected, leaves, upstream), strict=True
        ):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("reduction", ["none", "sum", "sample", "dim"])
def test_compiled_sample_and_divergence(device, reduction):
    leaves = [t.requires_grad_() for t in noisy(device)]
    fn = torch.compile(
        lambda m, v: pyaegpu.reparameterize_kl(m, v, reduction=reduction), fullgraph=True, backend="aot_eager"
    )
    z, kl = fn(*leaves)
    eps = ((z - leaves[0]) / (0.5 * leaves[1]).exp()).detach()
    expected = oracle.reparameterize_kl(*leaves, eps=eps, reduction=reduction)
    torch.testing.assert_close((z, kl), expected)
    for chosen in ((0, 1), (0,), (1,)):
        grads = [
            torch.autograd.grad(
                [r[i] for i in chosen], leaves, [torch.ones_like(r[i]) for i in chosen], retain_graph=True
            )
            for r in ((z, kl), expected)
        ]
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_divergence_that_is_not_used_contributes_nothing(device):
    """Its gradient would be zero times infinity."""
    mu = torch.tensor([[float("inf"), 1.0]], device=device)
    fn = torch.compile(lambda m, v: pyaegpu.reparameterize_kl(m, v)[0], fullgraph=True, backend="aot_eager")
    _, (grad, _) = run(fn, (mu, torch.zeros_like(mu)), upstream=[torch.ones_like(mu)])
    assert torch.equal(grad, torch.ones_like(mu))


@pytest.mark.parametrize("kind", ["masking", "salt_and_pepper"])
def test_compiled_gradient_of_a_corruption(device, kind):
    fn = torch.compile(lambda x: pyaegpu.corrupt(x, kind, 0.5, low=-9.0, high=9.0), fullgraph=True, backend="aot_eager")
    x = noisy(device)[0]
    for _ in range(2):
        (value,), (grad,) = run(fn, (x,), upstream=[torch.ones_like(x)])
        assert torch.equal(grad, (value == x).to(x.dtype))


@pytest.mark.parametrize("name", ["logvar", "kl", "masking"])
def test_a_changing_batch(device, name):
    counter = CompileCounter()
    for options, limit in (({}, 2), ({"dynamic": True}, 1)):
        torch._dynamo.reset()
        counter.clear()
        fn = torch.compile(CALLS[name], fullgraph=True, backend=counter, **options)
        for size in (4, 7, 9, 12, 18):
            assert fn(*noisy(device, (size, 5))).shape == (size, 5)
        assert counter.frame_count <= limit


def test_a_changing_batch_with_gradients(kernel_device):
    fn = torch.compile(lambda m, v: pyaegpu.reparameterize(m, v, return_eps=True), backend="aot_eager", dynamic=True)
    for size in (4, 1, 7, 2):
        mu, logvar = (t.requires_grad_() for t in noisy(kernel_device, (size, 5)))
        z, eps = fn(mu, logvar)
        torch.testing.assert_close(torch.autograd.grad(z.sum(), logvar)[0], (0.5 * (0.5 * logvar).exp() * eps).detach())


@pytest.mark.parametrize("module", ["Reparameterize", "Corrupt"])
def test_compiled_modules(device, module):
    module = pyaegpu.nn.Reparameterize() if module == "Reparameterize" else pyaegpu.nn.Corrupt("gaussian", 1.0)
    inputs = noisy(device)[: 2 if isinstance(module, pyaegpu.nn.Reparameterize) else 1]
    fn = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert_draws_anew(lambda: fn(*inputs))
    module.eval()
    assert torch.equal(fn(*inputs), inputs[0])


class Module(torch.nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, mu, spread):
        return CALLS[self.name](mu, spread)


@pytest.mark.parametrize("strict", [True, False])
@each_call
def test_exported(device, name, strict):
    inputs, shapes = noisy(device), {key: {0: Dim("batch", min=2, max=64)} for key in ("mu", "spread")}
    program = export(Module(name), inputs, dynamic_shapes=shapes, strict=strict)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    for module in (program.module(), torch.export.load(file).module()):
        assert_draws_anew(lambda module=module: module(*inputs))
        assert module(*noisy(device, (9, 5))).shape == (9, 5)


@pytest.mark.filterwarnings("ignore")
@each_call
def test_traced(device, name):
    inputs = noisy(device)
    traced = torch.jit.trace(CALLS[name], inputs, check_trace=False)
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    for fn in (traced, torch.jit.load(file)):
        assert_draws_anew(lambda fn=fn: fn(*inputs))


@pytest.mark.filterwarnings("ignore")
def test_a_traced_sample_keeps_its_gradient(device):
    traced = torch.jit.trace(
        lambda m, v: pyaegpu.reparameterize(m, v, return_eps=True), noisy(device), check_trace=False
    )
    mu, logvar = (t.requires_grad_() for t in noisy(device))
    z, eps = traced(mu, logvar)
    (grad,) = torch.autograd.grad(z.sum(), logvar)
    torch.testing.assert_close(grad, (0.5 * (0.5 * logvar).exp() * eps).detach())


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
@each_call
def test_make_fx(device, name, mode):
    inputs = noisy(device)
    fn = make_fx(CALLS[name], tracing_mode=mode)(*inputs)
    assert_draws_anew(lambda: fn(*inputs))


def test_make_fx_of_a_gradient(kernel_device):
    """The backward of the traced graph draws the noise of its forward."""

    def step(m, v):
        m, v = (t.detach().requires_grad_() for t in (m, v))
        z, eps = pyaegpu.reparameterize(m, v, return_eps=True)
        return eps, *torch.autograd.grad(z.sum(), (m, v))

    mu, logvar = noisy(kernel_device)
    fn = make_fx(step)(mu, logvar)
    for _ in range(2):
        eps, d_mu, d_logvar = fn(mu, logvar)
        assert torch.equal(d_mu, torch.ones_like(mu))
        torch.testing.assert_close(d_logvar, 0.5 * (0.5 * logvar).exp() * eps)


@each_call
def test_fake_tensors(device, name):
    before = torch.get_rng_state()
    mode = FakeTensorMode()
    fakes = [mode.from_tensor(t.half()) for t in noisy(device)]
    with mode:
        result = CALLS[name](*fakes)
    assert result.shape == (6, 5) and result.dtype == torch.float16 and result.device.type == device.type
    assert torch.equal(torch.get_rng_state(), before)


@each_call
def test_meta_tensors(name):
    result = CALLS[name](*(t.to("meta") for t in noisy("cpu")))
    assert result.shape == (6, 5) and result.device.type == "meta"


@each_call
def test_vmap_honours_randomness(device, name):
    mu, spread = noisy(device)
    same = tuple(t[:1].expand_as(t).contiguous() for t in (mu, spread))
    with pytest.raises(RuntimeError, match="random"):
        func.vmap(CALLS[name])(*same)
    different = func.vmap(CALLS[name], randomness="different")(*same)
    assert len({tuple(row.tolist()) for row in different}) > 1
    equal = func.vmap(CALLS[name], randomness="same")(*same)
    assert torch.equal(equal, equal[:1].expand_as(equal))
    torch.manual_seed(1)
    first = func.vmap(CALLS[name], randomness="different")(mu, spread)
    torch.manual_seed(1)
    assert torch.equal(func.vmap(CALLS[name], randomness="different")(mu, spread), first)


def test_func_gradients(device):
    mu, logvar = (t.double() for t in noisy(device))

    def sample(m, v):
        return pyaegpu.reparameterize(m, v, return_eps=True)

    torch.manual_seed(1)
    eps = func.vjp(sample, mu, logvar)[0][1]
    torch.manual_seed(1)
    grads = func.grad(lambda m, v: sample(m, v)[0].sum(), argnums=(0, 1))(mu, logvar)
    torch.testing.assert_close(grads, (torch.ones_like(mu), 0.5 * (0.5 * logvar).exp() * eps))
    torch.manual_seed(1)
    jacobian = func.jacrev(lambda m: pyaegpu.reparameterize(m, logvar))(mu)
    torch.testing.assert_close(jacobian.reshape(30, 30), torch.eye(30, dtype=mu.dtype, device=device))
    jacobian = func.jacrev(lambda x: pyaegpu.corrupt(x, "masking", 0.5))(mu).reshape(30, 30)
    assert set(jacobian.diagonal().tolist()) == {0.0, 1.0} and jacobian.sum() == jacobian.diagonal().sum()


def test_autograd_jacobian(device):
    from torch.autograd.functional import jacobian

    mu, std = (t.double() for t in noisy(device, (2, 3)))

    def sample(m, s):
        torch.manual_seed(1)
        return pyaegpu.reparameterize(m, std=s)

    noise = sample(torch.zeros_like(mu), torch.ones_like(std))
    for vectorize in (False, True):
        at_mu, at_std = jacobian(sample, (mu, std), vectorize=vectorize)
        torch.testing.assert_close(at_mu.reshape(6, 6), torch.eye(6, dtype=mu.dtype, device=device))
        torch.testing.assert_close(at_std.reshape(6, 6), noise.flatten().diag())


def test_compiled_gradient_transform(device):
    mu, logvar = noisy(device)
    fn = torch.compile(
        func.grad(lambda m, v: pyaegpu.reparameterize(m, v).square().sum()), fullgraph=True, backend="aot_eager"
    )
    assert fn(mu, logvar).isfinite().all() and fn(mu, logvar).any()


LAYOUTS_OF_A_BATCH = {
    "expanded": lambda n: torch.randn(n, 5).expand(4, n, 5),
    "swapped": lambda n: torch.randn(3, n, 5).transpose(0, 1),
    "transposed": lambda n: torch.randn(n, 5).t(),
    "channels_last": lambda n: torch.randn(2, 3, n, 5).contiguous(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("make", LAYOUTS_OF_A_BATCH.values(), ids=LAYOUTS_OF_A_BATCH)
def test_a_layout_of_changing_size(device, make):
    """Symbolic strides can be compared with each other, and nothing else."""

    def both(x):
        return pyaegpu.reparameterize(x, x), pyaegpu.corrupt(x, "masking", 0.5)

    fn = torch.compile(both, fullgraph=True, backend="aot_eager")
    for size in (4, 6, 9):
        x = make(size).to(device)
        assert [t.stride() for t in fn(x)] == [t.stride() for t in both(x)]
