"""torch.library.opcheck on the registered ops of reparameterize and corrupt."""

import itertools

import pytest
import torch
from layouts import permuted, sliced
from oracle import latents
from torch.library import opcheck

import pyaegpu  # noqa: F401 - registers the ops

INF = float("inf")
NONE, TOTAL, ROWS = range(3)
FAMILIES = ("reparameterize", "corrupt")
SEED = torch.tensor(12345)
REGISTERED = [n.removeprefix("pyaegpu::") for n in torch._C._dispatch_get_all_op_names() if n.startswith("pyaegpu::")]
OPS = sorted(op for op in REGISTERED if op.startswith(FAMILIES))
DIFFERENTIABLE = {"reparameterize_fwd": (0, 1, 2), "reparameterize_kl_fwd": (0, 1, 2), "corrupt_fwd": (0,)}


def tensors():
    yield latents((4, 6))
    yield latents((4, 6), torch.bfloat16)
    yield tuple(t.expand(3, 4, 6) for t in latents((4, 6)))
    yield torch.randn(4, 12).chunk(2, 1)
    yield tuple(permuted(t) for t in latents((2, 3, 5)))
    yield latents(())
    yield latents((0, 3))


def sources(like):
    """(eps, seed, seed_value, offset)"""
    yield None, SEED, 0, 0
    yield None, None, -(2**63) + 5, 2**40
    yield like.flip(0) if like.dim() else like * 1.0, None, 0, 0


def kl_samples():
    for (mu, logvar), reduction in itertools.product(tensors(), (NONE, TOTAL, ROWS)):
        if reduction == ROWS and mu.dim() == 0:
            continue
        for source in sources(mu):
            yield mu, logvar, *source, -1.0, 1.0, reduction, 0.5


def samples(op):
    if op == "reparameterize_fwd":
        for mu, spread in tensors():
            for source, form, returned in itertools.product(sources(mu), (0, 1), (False, True)):
                yield mu, spread, *source, form, -INF, 0.5 if form == 0 else INF, returned
    elif op == "reparameterize_bwd":
        for g, spread in tensors():
            for source in sources(g):
                yield g, spread, *source, 0, -0.5, 0.5, source[0] is not None
                yield sliced(g), None, *source, 1, -INF, INF, False
    elif op == "reparameterize_kl_fwd":
        yield from kl_samples()
    elif op == "reparameterize_kl_bwd":
        for args in kl_samples():
            mu, reduction = args[0], args[8]
            g_kl = torch.rand({NONE: mu.shape, TOTAL: (), ROWS: mu.shape[:1]}[reduction])
            for g_z, at_kl in ((torch.rand(mu.shape, dtype=mu.dtype), g_kl), (None, g_kl), (mu * 1.0, None)):
                yield g_z, at_kl, *args, args[2] is not None
    else:
        for (x, _), kind, (_, *source) in itertools.product(tensors(), range(3), list(sources(torch.ones(1)))[:2]):
            yield (x, *source, kind, 0.25, -1.0, 2.0)[: 8 if op == "corrupt_fwd" else 6]


def test_every_op_is_sampled():
    assert len(OPS) == 6
    assert all(list(samples(op)) for op in OPS)


@pytest.mark.parametrize("op", OPS)
def test_schema_and_fake_kernel(op):
    """The schema tells the truth, and the fake kernel gives the shapes, strides and dtypes of the real one."""
    for args in list(samples(op))[:: 4 if "kl" in op else 2]:
        opcheck(getattr(torch.ops.pyaegpu, op).default, args, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("op", OPS)
def test_autograd_and_aot_dispatch(op):
    every = list(samples(op))
    for args in every[:: max(1, len(every) // 6)]:
        wanted = DIFFERENTIABLE.get(op, ())
        args = tuple(
            a.detach().requires_grad_() if i in wanted and isinstance(a, torch.Tensor) else a
            for i, a in enumerate(args)
        )
        opcheck(
            getattr(torch.ops.pyaegpu, op).default,
            args,
            test_utils=("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"),
        )


@pytest.mark.parametrize("op", [op for op in OPS if not op.endswith("bwd")])
def test_a_seed_in_a_tensor_is_the_number(op):
    """Backwards too: what a graph draws on the device is what eager reads on the host."""
    for args in samples(op):
        place = 1 if op == "corrupt_fwd" else 3
        if args[place] is None:
            continue
        by_number = (*args[:place], None, args[place].item(), *args[place + 2 :])
        results = []
        for given in (args, by_number):
            leaves = [
                a.detach().requires_grad_() if i in (0, 1) and isinstance(a, torch.Tensor) and i < place else a
                for i, a in enumerate(given)
            ]
            value = getattr(torch.ops.pyaegpu, op)(*leaves)
            value = value if isinstance(value, torch.Tensor) else value[0]
            grads = torch.autograd.grad(value.sum(), [t for t in leaves[:place] if isinstance(t, torch.Tensor)])
            results.append([value, *grads])
        assert all(map(torch.equal, *results))
