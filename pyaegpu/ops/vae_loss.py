"""The loss family as autograd ops: the choice of backend and the derivatives in eager."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyaegpu import backends
from pyaegpu.measured import Call
from pyaegpu.ops import library
from pyaegpu.ops.eager import differentiable, differentiate, route_of, split_factor
from pyaegpu.ops.vae_loss_graph import FAMILY, where_given
from pyaegpu.reference import vae_loss as reference
from pyaegpu.reference.vae_loss import NONE


class ReconstructionArgs(NamedTuple):
    """The numbers of a reconstruction loss, in the order of the op's schema."""

    kind: int
    threshold: float
    reduction: int
    factor: float


class KLArgs(NamedTuple):
    """The numbers of a Gaussian KL divergence, in the order of the op's schema."""

    form: int
    lo: float
    hi: float
    log_eps: float
    reduction: int
    factor: float


class VAEArgs(NamedTuple):
    """The numbers of a VAE loss, in the order of the op's schema."""

    beta_value: float
    kind: int
    reduction: int
    recon_factor: float
    kl_factor: float
    lo: float
    hi: float


def reconstruction_loss(recon: Tensor, target: Tensor, weight: Tensor | None, args: ReconstructionArgs) -> Tensor:
    """Reconstruction loss of tensors of one shape and dtype; sums come in the accumulator's dtype."""
    route = route_of(FAMILY, Call("reconstruction_loss", recon), target, weight)
    if route is None:
        return reference.reconstruction_loss(recon, target, weight, *args)
    if route == "graph":
        op_args, factor = split_factor(args, args.reduction == NONE)
        return torch.ops.pyaegpu.reconstruction_loss_fwd(recon, target, weight, *op_args, False)[0] * factor
    store = args.reduction != NONE and _stores(recon)
    return _Reconstruction.apply(recon, target, weight, library.implementation(FAMILY, route), args, store)


def gaussian_kl(mu: Tensor, spread: Tensor, mu2: Tensor | None, logvar2: Tensor | None, args: KLArgs) -> Tensor:
    """KL divergence of diagonal Gaussians, in the accumulator's dtype."""
    route = route_of(FAMILY, Call("gaussian_kl", mu))
    if route is None:
        return reference.gaussian_kl(mu, spread, mu2, logvar2, *args)
    if route == "graph":
        op_args, factor = split_factor(args, args.reduction == NONE)
        return torch.ops.pyaegpu.gaussian_kl_fwd(mu, spread, mu2, logvar2, *op_args) * factor
    return _GaussianKL.apply(mu, spread, mu2, logvar2, library.implementation(FAMILY, route), args)


def vae_loss(
    recon: Tensor,
    target: Tensor,
    weight: Tensor | None,
    mu: Tensor,
    logvar: Tensor,
    beta: Tensor | None,
    args: VAEArgs,
) -> tuple[Tensor, Tensor, Tensor]:
    """``(loss, reconstruction, kl)`` in the accumulator's dtype, in one op."""
    route = route_of(FAMILY, Call("vae_loss", recon), target, weight)
    if route is None:
        return reference.vae_loss(recon, target, weight, mu, logvar, beta, *args)
    if route == "graph":
        return _vae_loss_in_graph(recon, target, weight, mu, logvar, beta, args)
    impl = library.implementation(FAMILY, route)
    return _VAELoss.apply(recon, target, weight, mu, logvar, beta, impl, args, _stores(recon))


def _vae_loss_in_graph(
    recon: Tensor,
    target: Tensor,
    weight: Tensor | None,
    mu: Tensor,
    logvar: Tensor,
    beta: Tensor | None,
    args: VAEArgs,
) -> tuple[Tensor, Tensor, Tensor]:
    op_args = args._replace(beta_value=0.0, recon_factor=1.0, kl_factor=1.0)
    _, reconstruction, kl, _ = torch.ops.pyaegpu.vae_loss_fwd(recon, target, weight, mu, logvar, None, *op_args, False)
    reconstruction, kl = reconstruction * args.recon_factor, kl * args.kl_factor
    return reconstruction + (args.beta_value if beta is None else beta) * kl, reconstruction, kl


_ALGORITHMS = {
    "reconstruction_loss": "one pass gives the loss and, but for float16 and 'none', its gradient; two-stage sum",
    "gaussian_kl": "one pass for the value and one for all gradients; two-stage sum",
    "vae_loss": "one pass gives the loss and, but for float16, the gradient at recon; with free_bits or a mean by "
    "weight of mse, l1 or smooth_l1 one op for each part",
}


def explain(op: str, input: Tensor) -> backends.Explanation:
    """The backend of a call of this family and the algorithm it takes there."""
    return backends.explain(FAMILY, op, Call(op, input), _ALGORITHMS[op])


def _stores(recon: Tensor) -> bool:
    """Whether the forward keeps the gradient at ``recon``; float16 would underflow before it is scaled."""
    return recon.requires_grad and torch.is_grad_enabled() and recon.dtype != torch.float16


class _Reconstruction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        recon: Tensor,
        target: Tensor,
        weight: Tensor | None,
        impl: Any,
        args: ReconstructionArgs,
        store: bool,
    ) -> Tensor:
        value, grad = impl.reconstruction_loss_fwd(recon, target, weight, *args, store)
        ctx.save_for_backward(recon, target, weight, grad if store else None)
        ctx.impl, ctx.args = impl, args
        return value

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        recon, target, weight, grad = ctx.saved_tensors
        needed, args = ctx.needs_input_grad[:3], ctx.args
        if differentiable(needed[1:], g):

            def formula(*inputs: Any) -> tuple[Tensor]:
                return (reference.reconstruction_loss(*inputs, *args),)

            return *differentiate(formula, (recon, target, weight), needed, (g,)), None, None, None
        if grad is not None:
            grad = _to_scale(grad)
            ctx.impl.reconstruction_loss_scale_(grad, g, args.reduction)
        elif needed[0]:
            grad = ctx.impl.reconstruction_loss_bwd(g, recon, target, weight, *args)
        return grad, None, None, None, None, None


class _GaussianKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        mu: Tensor,
        spread: Tensor,
        mu2: Tensor | None,
        logvar2: Tensor | None,
        impl: Any,
        args: KLArgs,
    ) -> Tensor:
        ctx.save_for_backward(mu, spread, mu2, logvar2)
        ctx.impl, ctx.args = impl, args
        return impl.gaussian_kl_fwd(mu, spread, mu2, logvar2, *args)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        inputs, args = ctx.saved_tensors, ctx.args
        if differentiable((), g):

            def formula(*tensors: Any) -> tuple[Tensor]:
                return (reference.gaussian_kl(*tensors, *args),)

            return *differentiate(formula, inputs, ctx.needs_input_grad[:4], (g,)), None, None
        grads = ctx.impl.gaussian_kl_bwd(g, *inputs, *args)
        return *where_given(inputs, grads), None, None


class _VAELoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        recon: Tensor,
        target: Tensor,
        weight: Tensor | None,
        mu: Tensor,
        logvar: Tensor,
        beta: Tensor | None,
        impl: Any,
        args: VAEArgs,
        store: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        loss, reconstruction, kl, grad = impl.vae_loss_fwd(recon, target, weight, mu, logvar, beta, *args, store)
        # A copy, since callers divide or log the parts that they were given in place.
        kl_for_beta = kl.clone() if ctx.needs_input_grad[5] else None
        ctx.save_for_backward(recon, target, weight, mu, logvar, beta, kl_for_beta, grad if store else None)
        ctx.impl, ctx.args = impl, args
        return loss, reconstruction, kl

    @staticmethod
    def backward(ctx: Any, *g: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, kl, grad = ctx.saved_tensors
        mu, logvar, beta = inputs[3:]
        needed, args = ctx.needs_input_grad[:6], ctx.args
        if differentiable(needed[1:3], *g):

            def formula(*tensors: Any) -> tuple[Tensor, ...]:
                return reference.vae_loss(*tensors, *args)

            return *differentiate(formula, inputs, needed, g), None, None, None
        if grad is not None:
            grad = _to_scale(grad)
            d_mu, d_logvar = ctx.impl.vae_loss_bwd_stored_(
                grad, *g, mu, logvar, beta, args.beta_value, args.reduction, *args[4:]
            )
        else:
            grad, d_mu, d_logvar = ctx.impl.vae_loss_bwd(*g, *inputs, *args)
        if g[0] is None:  # a part that was not used sends nothing, not 0 times what may be infinite
            grad = None if g[1] is None else grad
            d_mu, d_logvar = (None, None) if g[2] is None else (d_mu, d_logvar)
        d_beta = None if g[0] is None or kl is None else (g[0] * kl).sum().to(beta.dtype)
        return grad, None, None, d_mu, d_logvar, d_beta, None, None, None


def _to_scale(grad: Tensor) -> Tensor:
    """The stored gradient to scale in place, or a copy where the graph is kept and a second backward will scale it."""
    return grad.clone() if torch._C._autograd._get_current_graph_task_keep_graph() else grad
