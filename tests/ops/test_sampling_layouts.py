"""Memory layouts of the sampling functions' inputs: values, gradients and the layout of results."""

import oracle
import pytest
import torch
from layouts import LAYOUTS, every_second, permuted, sliced
from oracle import check, latents, run

import pyaegpu

KINDS = ("gaussian", "masking", "salt_and_pepper")


def pairs(device):
    """A mean and a log variance as programs have them."""
    mu, logvar = latents((6, 10), device=device)
    yield "contiguous", (mu, logvar)
    for name in ("permuted", "sliced", "every_second", "expanded_batch", "expanded_pixels", "offset"):
        yield name, (LAYOUTS[name](mu), LAYOUTS[name](logvar))
        yield name + " and contiguous", (LAYOUTS[name](mu), logvar)
        yield "contiguous and " + name, (mu, LAYOUTS[name](logvar))
    both = torch.cat([mu, logvar], 1)
    yield "halves", both.chunk(2, 1)
    yield "columns", (both[:, 3], both[:, 4])
    yield "column matrices", (both[:, 3:4], both[:, 4:5])
    yield "samples of an importance-weighted bound", (mu.expand(5, 6, 10), logvar.expand(5, 6, 10))
    yield "the same of halves", tuple(t.expand(5, 6, 10) for t in both.chunk(2, 1))
    yield "repeated within", tuple(t[:, None].expand(6, 5, 10) for t in (mu, logvar))
    for shape, memory_format in (((6, 4, 3, 5), torch.channels_last), ((2, 4, 3, 5, 2), torch.channels_last_3d)):
        maps = tuple(t.to(memory_format=memory_format) for t in latents(shape, device=device))
        yield str(memory_format), maps
        yield f"halves of {memory_format}", torch.cat(maps, 1).contiguous(memory_format=memory_format).chunk(2, 1)
        yield f"contiguous and {memory_format}", (maps[0].contiguous(), maps[1])
        yield f"{memory_format} and contiguous", (maps[0], maps[1].contiguous())
        yield f"{memory_format} of one sample", tuple(t[:1] for t in maps)
        yield f"{memory_format} of one channel", tuple(t[:, :1] for t in maps)
    maps = latents((3, 4, 5), device=device)
    for order in ((1, 0, 2), (2, 0, 1), (0, 2, 1), (1, 2, 0)):
        yield f"permuted {order}", tuple(t.permute(order) for t in maps)
    yield "empty", tuple(t[:0].transpose(1, 2) for t in maps)


NAMES = [name for name, _ in pairs("cpu")]
each_pair = pytest.mark.parametrize("name", NAMES)


def places(t):
    """The strides that say where elements lie: those of dimensions longer than 1."""
    return [stride for size, stride in zip(t.shape, t.stride(), strict=True) if size > 1] if t.numel() else []


def stock_sample(mu, logvar):
    return mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)


@each_pair
def test_given_noise(device, name):
    mu, logvar = dict(pairs(device))[name]
    noise = latents(mu.shape, device=device, seed=8)[0]
    for eps in (noise, sliced(noise), permuted(noise), noise[:1].expand_as(noise)):
        for form in ("logvar", "std"):
            check(
                lambda m, s, e, f=form: pyaegpu.reparameterize(m, **{f: s}, eps=e),
                lambda m, s, e, f=form: oracle.reparameterize(m, **{f: s}, eps=e),
                (mu, logvar, eps),
            )
        assert places(pyaegpu.reparameterize(mu, logvar, eps=eps)) == places(stock_sample(mu, logvar))


@each_pair
def test_drawn_noise(device, name):
    mu, logvar = dict(pairs(device))[name]
    torch.manual_seed(3)
    z, eps = pyaegpu.reparameterize(mu, logvar, return_eps=True)
    assert places(z) == places(eps) == places(stock_sample(mu, logvar))
    torch.manual_seed(3)
    assert torch.equal(pyaegpu.reparameterize(mu, logvar), z)
    assert torch.equal(pyaegpu.reparameterize(mu, logvar, eps=eps), z)
    if eps.numel() > 30:
        assert len(eps.unique()) == eps.numel() and 0.5 < eps.std() < 1.5

    def ours(m, v):
        torch.manual_seed(3)
        return pyaegpu.reparameterize(m, v)

    check(ours, lambda m, v: oracle.reparameterize(m, v, eps=eps.to(m.dtype)), (mu, logvar))


@each_pair
def test_sample_and_divergence(device, name):
    mu, logvar = dict(pairs(device))[name]
    for reduction in ("none", "sum", "sample", "dim"):
        torch.manual_seed(3)
        eps = pyaegpu.reparameterize(mu, logvar, return_eps=True)[1]

        def ours(m, v, r=reduction):
            torch.manual_seed(3)
            return pyaegpu.reparameterize_kl(m, v, reduction=r)

        def stock(m, v, r=reduction, eps=eps):
            return oracle.reparameterize_kl(m, v, eps=eps.to(m.dtype), reduction=r)

        (z, _), _ = check(ours, stock, (mu, logvar))
        assert places(z) == places(stock_sample(mu, logvar))
        check(
            lambda m, v, e, r=reduction: pyaegpu.reparameterize_kl(m, v, eps=e, reduction=r),
            lambda m, v, e, r=reduction: oracle.reparameterize_kl(m, v, eps=e, reduction=r),
            (mu, logvar, permuted(eps)),
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in NAMES if " and " not in name])
def test_corrupt(device, name, kind):
    x, _ = dict(pairs(device))[name]

    def ours(x):
        torch.manual_seed(3)
        return pyaegpu.corrupt(x, kind, 0.5, low=-9.0, high=9.0)

    (value,), (grad,) = run(ours, (x,), upstream=[torch.ones_like(x)])
    assert places(value) == places(torch.empty_like(x))
    if kind == "gaussian":
        assert torch.equal(grad, torch.ones_like(x))
        assert len((value - x).unique()) > 0.9 * x.numel() or x.numel() == 0
    else:
        kept = value == x
        assert torch.equal(grad, kept.to(x.dtype))
        replaced = value[~kept]
        assert not replaced.any() if kind == "masking" else torch.equal(replaced.abs(), torch.full_like(replaced, 9.0))


@pytest.mark.parametrize("name", ["halves", "permuted", "permuted (2, 0, 1)", "torch.channels_last", "expanded_batch"])
def test_a_generator_for_each_sample(device, name):
    mu, logvar = dict(pairs(device))[name]
    generators = [torch.Generator(device).manual_seed(i) for i in range(len(mu))]
    z = pyaegpu.reparameterize(mu, logvar, generator=generators)
    assert z.shape == mu.shape and places(z) == places(stock_sample(mu, logvar))


@pytest.mark.parametrize("layout", ["expanded", "strided", "permuted"])
def test_upstream_gradients_of_any_layout(device, layout):
    mu, logvar = latents((6, 10), device=device)
    upstream = {
        "expanded": torch.full((), 1.5, device=device).expand(6, 10),
        "strided": every_second(mu + 1),
        "permuted": permuted(logvar),
    }[layout]
    for form in ("logvar", "std"):
        check(
            lambda m, s, e, f=form: pyaegpu.reparameterize(m, **{f: s}, eps=e),
            lambda m, s, e, f=form: oracle.reparameterize(m, **{f: s}, eps=e),
            (mu, logvar, mu.flip(0)),
            upstream=[upstream],
        )
    for reduction, shape in (("none", (6, 10)), ("sample", (6,)), ("sum", ()), ("dim", (10,))):
        at_kl = torch.full((), -0.5, device=device).expand(shape)
        if layout == "strided":
            at_kl = torch.randn((*shape, 2), device=device)[..., 0]
        check(
            lambda m, v, e, r=reduction: pyaegpu.reparameterize_kl(m, v, eps=e, reduction=r),
            lambda m, v, e, r=reduction: oracle.reparameterize_kl(m, v, eps=e, reduction=r),
            (mu, logvar, mu.flip(0)),
            upstream=[upstream, at_kl],
        )
    for kind in KINDS[1:]:
        x = torch.ones_like(mu)
        (value,), (grad,) = run(lambda x, k=kind: pyaegpu.corrupt(x, k, 0.5, high=0.0), (x,), upstream=[upstream])
        assert torch.equal(grad, torch.where(value == 1, upstream, 0.0))


def test_a_generator_for_each_sample_of_a_graph(device):
    """In a dispatch mode, as under torch.utils.flop_counter, the registered op is called, which returns no noise."""
    from torch.utils.flop_counter import FlopCounterMode

    mu, logvar = (permuted(t) for t in latents((6, 10), device=device))
    generators = [torch.Generator(device).manual_seed(i) for i in range(6)]
    with FlopCounterMode(display=False):
        z = pyaegpu.reparameterize(mu, logvar, generator=generators)
    assert places(z) == places(mu)
