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
from pyaegpu.functional.max_pool import max_pool1d, max_pool2d, max_pool3d
from pyaegpu.functional.max_unpool import decode_pool_codes, max_unpool1d, max_unpool2d, max_unpool3d
from pyaegpu.functional.nearest_unpool import (
    bed_of_nails1d,
    bed_of_nails2d,
    bed_of_nails3d,
    nearest_unpool1d,
    nearest_unpool2d,
    nearest_unpool3d,
)
from pyaegpu.functional.norm_act import batch_norm_act
from pyaegpu.functional.penalties import contractive_penalty, sparsity_penalty
from pyaegpu.functional.reparameterize import reparameterize, reparameterize_kl
from pyaegpu.functional.vae_loss import gaussian_kl, reconstruction_loss, vae_loss

__all__ = [
    "batch_norm_act",
    "bed_of_nails1d",
    "bed_of_nails2d",
    "bed_of_nails3d",
    "contractive_penalty",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose2d_loss",
    "conv_transpose2d_norm_act",
    "conv_transpose3d",
    "corrupt",
    "decode_pool_codes",
    "explain",
    "gaussian_kl",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
    "nearest_unpool1d",
    "nearest_unpool2d",
    "nearest_unpool3d",
    "reconstruction_loss",
    "reparameterize",
    "reparameterize_kl",
    "sparsity_penalty",
    "upsample_conv2d",
    "vae_loss",
]
