"""Variational autoencoder of fully connected layers."""

import torch
from torch import Tensor, nn

OUTPUTS = ("logits", "sigmoid")


class VAE(nn.Module):
    """MLP VAE: input_dim -> hidden (ReLU) -> (mu, logvar) of width latent -> hidden (ReLU) -> input_dim.

    z = mu + exp(logvar / 2) * eps with eps ~ N(0, I), in training and in evaluation mode: the ELBO is an
    expectation over z. `output` says what the decoder returns: "logits" of the pixel values, or "sigmoid"
    of them. `fused` tells whoever trains the model which ops to use; the parameters are the same for every
    `output` and `fused`. Bad sizes or output: ValueError. Source: Kingma & Welling 2013, arXiv 1312.6114.
    """

    def __init__(
        self,
        input_dim: int = 784,
        hidden: int = 400,
        latent: int = 20,
        output: str = "logits",
        fused: bool = True,
    ) -> None:
        super().__init__()
        for name, size in (("input_dim", input_dim), ("hidden", hidden), ("latent", latent)):
            if size < 1:
                raise ValueError(f"{name} is {size}; it must be at least 1")
        if output not in OUTPUTS:
            raise ValueError(f"output is {output!r}; allowed are {', '.join(OUTPUTS)}")
        self.input_dim, self.hidden, self.latent = input_dim, hidden, latent
        self.output, self.fused = output, fused
        self.encoder = nn.Sequential(nn.Linear(input_dim, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent))
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, input_dim))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, logvar) of q(z|x), each [B, latent], for x of shape [B, ...], input_dim values a sample."""
        mu, logvar = self.encoder(x.flatten(1)).chunk(2, dim=1)
        return mu, logvar

    def reparameterize(self, mu: Tensor, logvar: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """mu + exp(logvar / 2) * eps, eps ~ N(0, I) drawn from `generator` (on mu's device)."""
        eps = torch.randn(mu.shape, generator=generator, dtype=mu.dtype, device=mu.device)
        return torch.addcmul(mu, torch.exp(0.5 * logvar), eps)

    def decode(self, z: Tensor) -> Tensor:
        """[B, latent] -> [B, input_dim], as `output` says."""
        recon: Tensor = self.decoder(z)
        return recon if self.output == "logits" else torch.sigmoid(recon)

    def generate(self, z: Tensor) -> Tensor:
        """[B, latent] -> pixel values in [0, 1], [B, input_dim], whatever `output` is."""
        return torch.sigmoid(self.decoder(z))

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(recon [B, input_dim], mu [B, latent], logvar [B, latent])."""
        mu, logvar = self.encode(x)
        return self.decode(self.reparameterize(mu, logvar, generator)), mu, logvar
