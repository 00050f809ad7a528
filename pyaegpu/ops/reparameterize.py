"""Gaussian sampling as autograd ops: the choice of backend, the noise and the derivatives in eager.

No noise is saved: the backward draws it again from seed and offset.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyaegpu import backends
from pyaegpu.measured import Call
from pyaegpu.ops import library
from pyaegpu.ops.eager import differentiable, differentiate, split_factor
from pyaegpu.ops.random import NO_DRAW, Draw, draw, route_of_draw, stock_noise
from pyaegpu.ops.reparameterize_graph import FAMILY
from pyaegpu.reference import reparameterize as reference
from pyaegpu.reference.reparameterize import STD
from pyaegpu.reference.vae_loss import NONE


class SampleArgs(NamedTuple):
    """The numbers of a sample, in the order of the op's schema."""

    form: int
    lo: float
    hi: float


class SampleKLArgs(NamedTuple):
    """The numbers of a sample with its divergence, in the order of the op's schema."""

    lo: float
    hi: float
    reduction: int
    factor: float


def reparameterize(
    mu: Tensor,
    spread: Tensor,
    eps: Tensor | None,
    generator: torch.Generator | None,
    args: SampleArgs,
    return_eps: bool,
) -> tuple[Tensor, Tensor]:
    """``(z, eps)`` of tensors of one shape and dtype; ``eps`` means nothing unless ``return_eps``."""
    route = route_of_draw(FAMILY, Call("reparameterize", mu))
    if route is None:
        noise = stock_noise(torch.randn, mu, generator) if eps is None else eps
        return reference.reparameterize(mu, spread, noise, *args), noise
    source = draw(mu.device, generator, route == "graph") if eps is None else NO_DRAW
    drawn = return_eps and eps is None
    if route == "graph":
        z, noise = torch.ops.pyaegpu.reparameterize_fwd(mu, spread, eps, *source, *args, drawn)
        noise = noise.detach() if drawn else mu
    else:
        call = (library.implementation(FAMILY, route), source, args, drawn)
        z, noise = _Sample.apply(mu, spread, eps, call) if drawn else (_Sample.apply(mu, spread, eps, call), mu)
    return z, noise if eps is None else eps


def reparameterize_kl(
    mu: Tensor,
    logvar: Tensor,
    eps: Tensor | None,
    generator: torch.Generator | None,
    args: SampleKLArgs,
) -> tuple[Tensor, Tensor]:
    """``(z, kl)``; the divergence comes in the accumulator's dtype."""
    route = route_of_draw(FAMILY, Call("reparameterize_kl", mu))
    if route is None:
        noise = stock_noise(torch.randn, mu, generator) if eps is None else eps
        return reference.reparameterize_kl(mu, logvar, noise, *args)
    source = draw(mu.device, generator, route == "graph") if eps is None else NO_DRAW
    if route == "graph":
        op_args, factor = split_factor(args, args.reduction == NONE)
        z, kl = torch.ops.pyaegpu.reparameterize_kl_fwd(mu, logvar, eps, *source, *op_args)
        return z, kl * factor
    return _SampleKL.apply(mu, logvar, eps, (library.implementation(FAMILY, route), source, args))


_ALGORITHMS = {
    "reparameterize": "noise drawn in the kernel; one pass forward, one backward, which draws it again",
    "reparameterize_kl": "sample and divergence in one pass, all gradients in another; noise drawn in the kernels; "
    "reduction 'dim' takes an op for each",
}


def explain(op: str, mu: Tensor) -> backends.Explanation:
    """The backend of a call of this family and the algorithm it takes there."""
    return backends.explain(FAMILY, op, Call(op, mu), _ALGORITHMS[op])


# The arguments without a gradient come as one tuple: autograd.Function looks at each, at every call.
class _Sample(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, mu: Tensor, spread: Tensor, eps: Tensor | None, call: tuple[Any, Draw, SampleArgs, bool]
    ) -> Tensor | tuple[Tensor, Tensor]:
        impl, source, args, return_eps = call
        z, noise = impl.reparameterize_fwd(mu, spread, eps, *source, *args, return_eps)
        # The derivative in a standard deviation does not depend on it.
        kept = None if args.form == STD and not ctx.needs_input_grad[2] else spread
        ctx.save_for_backward(kept, eps, source.seed)
        ctx.call, ctx.shape = call, mu.shape
        if not return_eps:
            return z
        ctx.mark_non_differentiable(noise)
        return z, noise

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        _, at_spread, at_eps, _ = ctx.needs_input_grad
        if not at_spread and not at_eps:
            return g, None, None, None
        spread, eps, seed = ctx.saved_tensors
        if differentiable((), g):
            return g, *_Sample._differentiated(ctx, g, spread, eps, seed), None
        impl, source, args, _ = ctx.call
        d_spread, d_eps = impl.reparameterize_bwd(g, spread, eps, seed, *source[1:], *args, at_eps)
        return g, d_spread, d_eps if at_eps else None, None

    @staticmethod
    def _differentiated(
        ctx: Any, g: Tensor, spread: Tensor | None, eps: Tensor | None, seed: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        noise = _redrawn(ctx, g, seed) if eps is None else eps
        if spread is None:
            return g * noise, None

        def formula(*tensors: Any) -> tuple[Tensor]:
            return (reference.scaled(*tensors, *ctx.call[2]),)

        d_spread, d_eps = differentiate(formula, (spread, noise), ctx.needs_input_grad[1:3], (g,))
        return d_spread, d_eps


class _SampleKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, mu: Tensor, logvar: Tensor, eps: Tensor | None, call: tuple[Any, Draw, SampleKLArgs]
    ) -> tuple[Tensor, Tensor]:
        impl, source, args = call
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(mu, logvar, eps, source.seed)
        ctx.call, ctx.shape = call, mu.shape
        return impl.reparameterize_kl_fwd(mu, logvar, eps, *source, *args)

    @staticmethod
    def backward(ctx: Any, g_z: Tensor | None, g_kl: Tensor | None) -> tuple[Tensor | None, ...]:
        mu, logvar, eps, seed = ctx.saved_tensors
        impl, source, args = ctx.call
        needed = ctx.needs_input_grad[:3]
        if differentiable((), g_z, g_kl):
            noise = _redrawn(ctx, mu, seed) if eps is None else eps

            def formula(*tensors: Any) -> tuple[Tensor, Tensor]:
                return reference.reparameterize_kl(*tensors, *args)

            return *differentiate(formula, (mu, logvar, noise), needed, (g_z, g_kl)), None
        d_mu, d_logvar, d_eps = impl.reparameterize_kl_bwd(
            g_z, g_kl, mu, logvar, eps, seed, *source[1:], *args, needed[2]
        )
        return d_mu, d_logvar, d_eps if needed[2] else None, None


def _redrawn(ctx: Any, like: Tensor, seed: Tensor | None) -> Tensor:
    """The noise of the forward, as a tensor."""
    impl, source, *_ = ctx.call
    blank = torch.zeros(ctx.shape, dtype=like.dtype, device=like.device)
    return impl.reparameterize_fwd(blank, blank, None, seed, *source[1:], STD, 0.0, 0.0, True)[1]
