"""Fused kernels for autoencoders, VAEs and GANs, as PyTorch autograd ops that drop into any model."""

from pyaegpu import nn
from pyaegpu._version import __version__
from pyaegpu.backends import backend
from pyaegpu.functional import (
    contractive_penalty,
    corrupt,
    explain,
    gaussian_kl,
    reconstruction_loss,
    reparameterize,
    reparameterize_kl,
    sparsity_penalty,
    vae_loss,
)
from pyaegpu.info import info

__all__ = [
    "__version__",
    "backend",
    "contractive_penalty",
    "corrupt",
    "explain",
    "gaussian_kl",
    "info",
    "nn",
    "reconstruction_loss",
    "reparameterize",
    "reparameterize_kl",
    "sparsity_penalty",
    "vae_loss",
]
