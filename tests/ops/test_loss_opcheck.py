"""torch.library.opcheck on every registered op."""

import itertools

import oracle
import pytest
import torch
from oracle import images, latents
from torch.library import opcheck

import pyaegpu  # noqa: F401 - registers the ops

INF = float("inf")
NONE, TOTAL, ROWS, COLUMNS = range(4)
FAMILY = ("reconstruction_loss", "gaussian_kl", "vae_loss")

_to = {
    "contiguous": lambda t: t,
    "channels_last": lambda t: t.to(memory_format=torch.channels_last),
    "sliced": lambda t: torch.cat([t, t], 3)[..., 1 : 1 + t.shape[3]],
    "permuted": lambda t: t.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
}


def upstream(reduction, recon):
    return torch.rand({NONE: recon.shape, TOTAL: (), ROWS: recon.shape[:1]}[reduction])


def reconstructions():
    for layout, reduction in itertools.product(_to, (NONE, TOTAL, ROWS)):
        recon, target = (_to[layout](t) for t in images("bce", (2, 3, 4, 5)))
        weight = torch.rand(3, 1, 1).expand(recon.shape) if layout == "contiguous" else None
        yield recon, target, weight, reduction
    yield *images("bce", (2, 3, 4, 5), torch.bfloat16), None, ROWS
    yield torch.empty(0, 3), torch.empty(0, 3), None, ROWS


def kls():
    for reduction in (NONE, TOTAL, ROWS, COLUMNS):
        yield *torch.randn(4, 6).chunk(2, 1), None, None, 0, -1.0, 1.0, 0.0, reduction, 0.5
        yield *latents((4, 3, 2)), *latents((4, 3, 2), seed=4), 1, -INF, INF, 0.1, reduction, 2.0
    yield *latents((4, 3), torch.float16), None, None, 2, -INF, INF, 10.0, ROWS, 1.0


def vaes():
    for layout, reduction in itertools.product(("contiguous", "channels_last"), (TOTAL, ROWS)):
        recon, target = (_to[layout](t) for t in images("bce", (2, 3, 4, 5)))
        beta = torch.tensor(0.5) if reduction == TOTAL else None
        yield recon, target, None, *latents((2, 7)), beta, 0.7, 0, reduction, 1.0, 1.0, -INF, INF
    yield (
        *images("mse", (4, 5), torch.float16),
        torch.rand(4, 5).half(),
        *latents((4, 3)),
        None,
        2.0,
        2,
        TOTAL,
        1.0,
        1.0,
        -1.0,
        1.0,
    )


def samples(op):
    if op.startswith("reconstruction_loss"):
        for recon, target, weight, reduction in reconstructions():
            numbers = (0, 1.0, reduction, 0.5)
            g = upstream(reduction, recon)
            if op == "reconstruction_loss_fwd":
                yield from (
                    (recon, target, weight, *numbers, store) for store in (False, True) if reduction or not store
                )
            elif op == "reconstruction_loss_bwd":
                yield g, recon, target, weight, *numbers
            elif reduction != NONE:
                yield torch.rand(recon.shape, dtype=recon.dtype), g, reduction
    elif op == "gaussian_kl_fwd":
        yield from kls()
    elif op == "gaussian_kl_bwd":
        for args in kls():
            shape = {NONE: args[0].shape, TOTAL: (), ROWS: args[0].shape[:1], COLUMNS: args[0].shape[1:]}[args[8]]
            yield torch.rand(shape), *args
    else:
        for args in vaes():
            g = upstream(args[8], args[0])
            for upstreams in ((g, None, None), (g, 2 * g, 3 * g), (None, g, None)):
                if op == "vae_loss_fwd":
                    yield from ((*args, store) for store in (False, True))
                elif op == "vae_loss_bwd":
                    yield *upstreams, *args
                else:
                    yield torch.rand(args[0].shape, dtype=args[0].dtype), *upstreams, *args[3:7], args[8], *args[10:]


REGISTERED = [n.removeprefix("pyaegpu::") for n in torch._C._dispatch_get_all_op_names() if n.startswith("pyaegpu::")]
OPS = sorted(op for op in REGISTERED if op.startswith(FAMILY))


def test_every_op_of_the_family_is_sampled():
    assert len(OPS) == 8
    assert all(list(samples(op)) for op in OPS)


@pytest.mark.parametrize("op", OPS)
def test_schema_and_fake_kernel(op):
    """The schema tells the truth, and the fake kernel gives the shapes, strides and dtypes of the real one."""
    for args in samples(op):
        opcheck(getattr(torch.ops.pyaegpu, op).default, args, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("op", OPS)
def test_autograd_and_aot_dispatch(op):
    differentiable = op.endswith("_fwd")
    for args in list(samples(op))[:: 5 if differentiable else 7]:
        if differentiable:
            grads = {"reconstruction_loss_fwd": (0,), "gaussian_kl_fwd": (0, 1), "vae_loss_fwd": (0, 3, 4)}[op]
            args = tuple(a.detach().requires_grad_() if i in grads else a for i, a in enumerate(args))
        opcheck(
            getattr(torch.ops.pyaegpu, op).default,
            args,
            test_utils=("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"),
        )


def test_the_fake_kernels_of_every_reduction_agree_with_the_oracle():
    """The registered forward computes, and does not only have the right shape."""
    recon, target = images("bce", (2, 3, 4, 5))
    for reduction, name in ((NONE, "none"), (TOTAL, "sum"), (ROWS, "sample")):
        value, grad = torch.ops.pyaegpu.reconstruction_loss_fwd(recon, target, None, 0, 1.0, reduction, 1.0, False)
        torch.testing.assert_close(value, oracle.reconstruction(recon, target, "bce", reduction=name))
        assert grad.shape == (0,)


def test_stored_gradient_and_backward_agree():
    recon, target = images("bce_logits", (3, 7))
    weight = torch.rand(3, 7)
    for reduction in (TOTAL, ROWS):
        args = (recon, target, weight, 1, 1.0, reduction, 0.3)
        stored = torch.ops.pyaegpu.reconstruction_loss_fwd(*args, True)[1]
        g = upstream(reduction, recon)
        recomputed = torch.ops.pyaegpu.reconstruction_loss_bwd(g, *args)
        torch.ops.pyaegpu.reconstruction_loss_scale_(stored, g, reduction)
        torch.testing.assert_close(stored, recomputed)
