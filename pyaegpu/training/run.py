"""A training run: everything that moves while a model trains."""

from dataclasses import dataclass

import torch
from torch import nn

from pyaegpu.training.loss import Loss
from pyaegpu.training.metrics import EpochMetrics
from pyaegpu.training.precision import loss_scaler


@dataclass(frozen=True)
class Schedule:
    """How long and with what; `seed` gives the order of the samples and the noise."""

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int


class Run:
    """A model with its optimizer (Adam), loss scaler and random generators, and the rows of the finished epochs.

    model(x, generator) gives (recon, mu, logvar). `dtype` is that of the forward pass: float32, bfloat16 or float16.
    """

    def __init__(self, model: nn.Module, loss: Loss, schedule: Schedule, dtype: torch.dtype = torch.float32) -> None:
        self.model, self.loss, self.schedule, self.dtype = model, loss, schedule, dtype
        self.device = next(model.parameters()).device
        self.optimizer = torch.optim.Adam(model.parameters(), lr=schedule.learning_rate, fused=True)
        self.scaler = loss_scaler(self.device, dtype)
        self.order = torch.Generator().manual_seed(schedule.seed)
        self.noise = torch.Generator(self.device).manual_seed(schedule.seed + 1)
        self.history: list[EpochMetrics] = []

    @property
    def epoch(self) -> int:
        """The last finished epoch, 0 before the first."""
        return self.history[-1].epoch if self.history else 0
