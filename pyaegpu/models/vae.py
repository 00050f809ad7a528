"""Variational autoencoder of fully connected layers."""

from torch import Tensor, nn

from pyaegpu.models.base import BaseVAE, check_sizes


class VAE(BaseVAE):
    """MLP VAE: input_dim -> hidden (ReLU) -> (mu, logvar) of width latent -> hidden (ReLU) -> input_dim.

    x is [B, ...] with input_dim values a sample, the reconstruction [B, input_dim]. `output` and `fused` are those of
    `BaseVAE`. Bad sizes or output: ValueError.
    """

    def __init__(
        self,
        input_dim: int = 784,
        hidden: int = 400,
        latent: int = 20,
        output: str = "logits",
        fused: bool = True,
    ) -> None:
        super().__init__(latent, output, fused)
        check_sizes(input_dim=input_dim, hidden=hidden)
        self.input_dim, self.hidden = input_dim, hidden
        self.encoder = nn.Sequential(nn.Linear(input_dim, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent))
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, input_dim))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, logvar) of q(z|x), each [B, latent], for x of shape [B, ...], input_dim values a sample."""
        return super().encode(x.flatten(1))
