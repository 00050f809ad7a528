"""Reference models by name."""

from collections.abc import Callable
from typing import Any

from torch import nn

from pyaegpu.models.base import BaseVAE
from pyaegpu.models.conv_vae import ConvVAE
from pyaegpu.models.dcgan import DCGAN
from pyaegpu.models.vae import VAE

__all__ = ["DCGAN", "VAE", "BaseVAE", "ConvVAE", "available", "create"]

_MODELS: dict[str, Callable[..., nn.Module]] = {"conv_vae": ConvVAE, "dcgan": DCGAN, "vae": VAE}


def available() -> list[str]:
    """Names that `create` takes, sorted."""
    return sorted(_MODELS)


def create(name: str, fused: bool = True, **kwargs: Any) -> nn.Module:
    """The model `name`, with the fused ops (default) or with stock PyTorch ones.

    `kwargs` go to the model. Unknown name: ValueError; unknown keyword: TypeError.
    """
    if name not in _MODELS:
        raise ValueError(f"name is {name!r}; available models are {', '.join(available())}")
    return _MODELS[name](fused=fused, **kwargs)
