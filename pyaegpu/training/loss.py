"""The VAE loss that the loop trains with, fused or of stock PyTorch ops."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from pyaegpu.functional import vae_loss

LossParts = tuple[Tensor, Tensor, Tensor]
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], LossParts]

# What the decoder must return for each kind.
OUTPUT_OF_KIND = {"bce": "sigmoid", "bce_logits": "logits", "mse": "sigmoid"}

_STOCK: dict[str, Callable[..., Tensor]] = {
    "bce": F.binary_cross_entropy,
    "bce_logits": F.binary_cross_entropy_with_logits,
    "mse": F.mse_loss,
}


def make_loss(kind: str = "bce_logits", beta: float = 1.0, fused: bool = True) -> Loss:
    """loss(recon, target, mu, logvar) -> (reconstruction + beta * KL, reconstruction, KL), batch sums.

    "bce" and "bce_logits" are the negative log likelihood of Bernoulli pixels, in nats; "mse" is that of
    Gaussian pixels of variance 1/2, without its constant. In float32 at least, whatever the dtype of recon, mu and
    logvar, under autocast too. Unknown kind: ValueError.
    """
    if kind not in OUTPUT_OF_KIND:
        raise ValueError(f"kind is {kind!r}; allowed are {', '.join(OUTPUT_OF_KIND)}")
    return _fused_loss(kind, beta) if fused else _stock_loss(kind, beta)


def _fused_loss(kind: str, beta: float) -> Loss:
    def loss(recon: Tensor, target: Tensor, mu: Tensor, logvar: Tensor) -> LossParts:
        return cast(LossParts, vae_loss(recon, target, mu, logvar, kind=kind, beta=beta, return_parts=True))

    return loss


def _stock_loss(kind: str, beta: float) -> Loss:
    reconstruction_of = _STOCK[kind]

    def loss(recon: Tensor, target: Tensor, mu: Tensor, logvar: Tensor) -> LossParts:
        # Stock binary cross-entropy refuses autocast, and half precision is too coarse for the sums.
        with torch.autocast(recon.device.type, enabled=False):
            recon, mu, logvar = (t.float() if t.dtype.itemsize < 4 else t for t in (recon, mu, logvar))
            reconstruction = reconstruction_of(recon, target, reduction="sum")
            kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        return reconstruction + beta * kl, reconstruction, kl

    return loss
