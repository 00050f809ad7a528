"""What every variational autoencoder of this package shares."""

from typing import cast

import torch
from torch import Tensor, nn

from pyaegpu.functional import reparameterize

OUTPUTS = ("logits", "sigmoid")


class BaseVAE(nn.Module):
    """A Gaussian VAE with an `encoder` (x -> mu and logvar, side by side) and a `decoder` (z -> logits of the pixels).

    z = mu + exp(logvar / 2) * eps with eps ~ N(0, I), in training and in evaluation mode: the ELBO is an expectation
    over z. `output` says what `decode` returns: "logits" of the pixel values, or "sigmoid" of them. `fused` says which
    ops sample, and tells whoever trains the model which loss to use; the parameters are the same for every `output`
    and `fused`. Unknown output: ValueError. Source: Kingma & Welling 2013, arXiv 1312.6114.
    """

    encoder: nn.Module
    decoder: nn.Module

    def __init__(self, latent: int, output: str, fused: bool) -> None:
        super().__init__()
        check_sizes(latent=latent)
        if output not in OUTPUTS:
            raise ValueError(f"output is {output!r}; allowed are {', '.join(OUTPUTS)}")
        self.latent, self.output, self.fused = latent, output, fused

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, logvar) of q(z|x), each [B, latent]."""
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        return mu, logvar

    def reparameterize(self, mu: Tensor, logvar: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """mu + exp(logvar / 2) * eps, eps ~ N(0, I) drawn from `generator` (on mu's device)."""
        if self.fused:
            return cast(Tensor, reparameterize(mu, logvar, generator=generator))
        eps = torch.randn(mu.shape, generator=generator, dtype=mu.dtype, device=mu.device)
        return torch.addcmul(mu, torch.exp(0.5 * logvar), eps)

    def decode(self, z: Tensor) -> Tensor:
        """[B, latent] -> the reconstruction, as `output` says."""
        recon: Tensor = self.decoder(z)
        return recon if self.output == "logits" else _probabilities(recon)

    def generate(self, z: Tensor) -> Tensor:
        """[B, latent] -> pixel values in [0, 1], whatever `output` is."""
        return _probabilities(self.decoder(z))

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(recon, mu [B, latent], logvar [B, latent])."""
        mu, logvar = self.encode(x)
        return self.decode(self.reparameterize(mu, logvar, generator)), mu, logvar


def check_sizes(**sizes: int) -> None:
    """ValueError unless every size is at least 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; it must be at least 1")


def _probabilities(logits: Tensor) -> Tensor:
    """In half precision they would round to 0 and 1, where binary cross-entropy's gradient overflows."""
    return torch.sigmoid(logits.float() if logits.dtype.itemsize < 4 else logits)
