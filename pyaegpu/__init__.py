"""Fused kernels for autoencoders, VAEs and GANs, as PyTorch autograd ops that drop into any model."""

from pyaegpu import nn
from pyaegpu._version import __version__
from pyaegpu.backends import backend
from pyaegpu.functional import (
    batch_norm_act,
    contractive_penalty,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose2d_loss,
    conv_transpose2d_norm_act,
    conv_transpose3d,
    corrupt,
    explain,
    gaussian_kl,
    reconstruction_loss,
    reparameterize,
    reparameterize_kl,
    sparsity_penalty,
    upsample_conv2d,
    vae_loss,
)
from pyaegpu.info import info

__all__ = [
    "__version__",
    "backend",
    "batch_norm_act",
    "contractive_penalty",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose2d_loss",
    "conv_transpose2d_norm_act",
    "conv_transpose3d",
    "corrupt",
    "explain",
    "gaussian_kl",
    "info",
    "nn",
    "reconstruction_loss",
    "reparameterize",
    "reparameterize_kl",
    "sparsity_penalty",
    "upsample_conv2d",
    "vae_loss",
]
