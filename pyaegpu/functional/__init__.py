"""The public functions, one module per family: each checks its arguments and hands them to its ops."""

from pyaegpu.functional.conv_transpose import (
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
    upsample_conv2d,
)
from pyaegpu.functional.conv_transpose_loss import conv_transpose2d_loss
from pyaegpu.functional.conv_transpose_norm import conv_transpose2d_norm_act
from pyaegpu.functional.corrupt import corrupt
from pyaegpu.functional.explain import explain
from pyaegpu.functional.norm_act import batch_norm_act
from pyaegpu.functional.penalties import contractive_penalty, sparsity_penalty
from pyaegpu.functional.reparameterize import reparameterize, reparameterize_kl
from pyaegpu.functional.vae_loss import gaussian_kl, reconstruction_loss, vae_loss

__all__ = [
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
    "reconstruction_loss",
    "reparameterize",
    "reparameterize_kl",
    "sparsity_penalty",
    "upsample_conv2d",
    "vae_loss",
]
