"""Fused kernels for autoencoders, VAEs and GANs, as PyTorch autograd ops that drop into any model."""

from pyaegpu import nn
from pyaegpu._version import __version__
from pyaegpu.backends import backend
from pyaegpu.functional import explain, gaussian_kl, reconstruction_loss, vae_loss
from pyaegpu.info import info

__all__ = [
    "__version__",
    "backend",
    "explain",
    "gaussian_kl",
    "info",
    "nn",
    "reconstruction_loss",
    "vae_loss",
]
