"""What serves a call, without making it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from pyaegpu import backends
from pyaegpu.functional import (
    conv_transpose,
    conv_transpose_loss,
    conv_transpose_norm,
    max_pool,
    max_unpool,
    nearest_unpool,
    norm_act,
    penalties,
)
from pyaegpu.ops import corrupt, reparameterize, vae_loss

_OPS = {
    vae_loss: ("gaussian_kl", "reconstruction_loss", "vae_loss"),
    reparameterize: ("reparameterize", "reparameterize_kl"),
    corrupt: ("corrupt",),
    penalties: ("contractive_penalty", "sparsity_penalty"),
}
# Here shapes decide, not the device alone.
_BY_CALL: dict[str, Any] = {
    f"{op}{dims}d": explain_op
    for op, explain_op in (
        ("bed_of_nails", nearest_unpool.explain),
        ("conv_transpose", conv_transpose.explain),
        ("max_pool", max_pool.explain),
        ("max_unpool", max_unpool.explain),
        ("nearest_unpool", nearest_unpool.explain),
    )
    for dims in (1, 2, 3)
} | {
    "batch_norm_act": norm_act.explain,
    "conv_transpose2d_loss": conv_transpose_loss.explain,
    "conv_transpose2d_norm_act": conv_transpose_norm.explain,
    "decode_pool_codes": max_unpool.explain_decode,
    "upsample_conv2d": conv_transpose.explain,
}
_FAMILIES: dict[str, Any] = {name: family for family, names in _OPS.items() for name in names}


def explain(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> backends.Explanation:
    """Tell which backend and algorithm ``fn(*args, **kwargs)`` takes, and why each other backend does not.

    Args:
        fn: a public function of pyaegpu, or a module of :mod:`pyaegpu.nn`.
        args: the arguments of the call, which is not made.
        kwargs: likewise.

    Returns:
        An object with ``op``, ``backend``, ``algorithm`` and ``others``, the reason for each other backend.

    Raises:
        TypeError: for a function that pyaegpu does not offer, or a call without a tensor.
        RuntimeError: if the selected backend cannot serve the call.
    """
    name = getattr(fn, "explained_as", None) or getattr(fn, "__name__", type(fn).__name__)
    if name in _BY_CALL:
        if isinstance(fn, nn.Module):
            args, kwargs = fn.explained_call(*args, **kwargs)  # type: ignore[operator]
        return _BY_CALL[name](name, *args, **kwargs)
    if name not in _FAMILIES:
        given = f"a {type(fn).__module__}.{name}" if isinstance(fn, nn.Module) else name
        raise TypeError(
            f"fn must be one of {', '.join(sorted([*_FAMILIES, *_BY_CALL]))} or a module of pyaegpu.nn; got {given}"
        )
    tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
    if not tensors:
        raise TypeError(f"explain({name}, ...) needs the tensors of the call")
    return _FAMILIES[name].explain(name, tensors[0])
