"""Penalties that sparse and contractive autoencoders add to their loss."""

from __future__ import annotations

from torch import Tensor

from pyaegpu import _checks, backends
from pyaegpu.reference import penalties as reference
from pyaegpu.reference.vae_loss import accumulator

SPARSITIES = ("l1", "kl", "squared")
_REDUCTIONS = ("mean", "sum")


def sparsity_penalty(code: Tensor, kind: str = "l1", *, target: float = 0.05, reduction: str = "mean") -> Tensor:
    r"""Penalty that makes most units of a code inactive.

    - ``"l1"``: :math:`|h|` of every element
    - ``"kl"``: :math:`p \log(p/q) + (1 - p) \log((1-p)/(1-q))`, p = ``target``, q the unit's mean activation over dim 0
      (Ng 2011, "Sparse autoencoder", section 3)
    - ``"squared"``: :math:`(p - q)^2`

    Args:
        code: activations, batch in dim 0; a 1-D code is one sample. For ``"kl"`` in [0, 1]: q outside gives NaN, and
            q is kept off 0 and 1 by the epsilon of float32, or of float64 for float64.
        kind: ``"l1"``, ``"kl"`` or ``"squared"``.
        target: p, above 0 and below 1 for ``"kl"``.
        reduction: ``"mean"`` or ``"sum"``: over all elements for ``"l1"``, else over units.

    Returns:
        The penalty, 0-d, in the dtype that these formulas have in stock PyTorch.

    Raises:
        ValueError: for an unknown kind or reduction, and a ``target`` out of range.
        RuntimeError: for a ``code`` that is not floating-point.
    """
    _checks.choice("kind", kind, SPARSITIES)
    _checks.choice("reduction", reduction, _REDUCTIONS)
    _checks.floating(code=code)
    target = _checks.number("target", target)
    if kind == "kl" and not 0.0 < target < 1.0:
        raise ValueError(f"target must lie between 0 and 1 for kind 'kl', got {target}")
    if kind == "l1":
        values = code.abs()
    else:
        # Near 0 a half-precision activity is too coarse for its logarithm.
        wide = accumulator(code.dtype) if kind == "kl" else code.dtype
        activity = code.mean(0, dtype=wide) if code.dim() > 1 else code.to(wide)
        values = reference.kl_to_target(activity, target) if kind == "kl" else (activity - target).square()
    value = values.mean() if reduction == "mean" else values.sum()
    # Autocast on a GPU takes logarithms to float32.
    return value.to(code.dtype) if kind == "kl" and not (code.is_cuda and _checks.autocasts(code)) else value


def contractive_penalty(hidden: Tensor, weight: Tensor, *, reduction: str = "mean") -> Tensor:
    r"""Squared Frobenius norm of the Jacobian of one sigmoid layer, in closed form.

    :math:`\sum_j (h_j (1 - h_j))^2 \sum_i W_{ji}^2` for :math:`h = sigmoid(W x + b)` (Rifai et al. 2011).

    Args:
        hidden: h, [..., units]; the last dimension holds the units, the others the batch.
        weight: W, [units, inputs], as ``torch.nn.Linear`` has it.
        reduction: ``"mean"`` or ``"sum"`` over the batch.

    Returns:
        The penalty, 0-d.

    Raises:
        ValueError: for shapes that do not go together, and an unknown reduction.
        RuntimeError: for tensors that are not floating-point, different dtypes outside autocast, different devices.
    """
    _checks.choice("reduction", reduction, _REDUCTIONS)
    _checks.floating(hidden=hidden, weight=weight)
    _checks.same_device("weight", weight, "hidden", hidden)
    if hidden.dim() < 1 or weight.dim() != 2 or weight.shape[0] != hidden.shape[-1]:
        raise ValueError(
            "weight must be [units, inputs] for hidden of [..., units]; "
            f"got {tuple(weight.shape)} for {tuple(hidden.shape)}"
        )
    hidden, weight = _checks.one_dtype({"hidden": hidden, "weight": weight})
    wide = accumulator(hidden.dtype)
    values = reference.contraction(hidden.to(wide), weight.to(wide))
    return (values.mean() if reduction == "mean" else values.sum()).to(hidden.dtype)


def explain(op: str, input: Tensor) -> backends.Explanation:
    """Stock PyTorch serves the penalties: after one sum over the batch little is left to fuse."""
    return backends.explain_plain(op, "the penalties have no kernels")
