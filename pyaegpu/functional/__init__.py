"""The public functions, one module per family: each checks its arguments and hands them to its ops."""

from pyaegpu.functional.explain import explain
from pyaegpu.functional.vae_loss import gaussian_kl, reconstruction_loss, vae_loss

__all__ = ["explain", "gaussian_kl", "reconstruction_loss", "vae_loss"]
