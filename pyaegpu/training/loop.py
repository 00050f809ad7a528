"""Training of a VAE: one pass over the data per epoch, then a pass over the test samples."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyaegpu.training.loss import Loss
from pyaegpu.training.metrics import Elbo, EpochMetrics

EVALUATION_BATCH = 1000
Progress = Callable[[Iterable[Tensor], int], Iterable[Tensor]]


class TrainingError(RuntimeError):
    """Training cannot go on; the message says what to change."""


@dataclass(frozen=True)
class Schedule:
    """How long and with what; `seed` gives the order of the samples and the noise."""

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int


def _no_progress(batches: Iterable[Tensor], epoch: int) -> Iterable[Tensor]:
    return batches


def fit(
    model: nn.Module,
    loss: Loss,
    train: Tensor,
    test: Tensor,
    schedule: Schedule,
    progress: Progress = _no_progress,
) -> Iterator[EpochMetrics]:
    """Trains `model` with Adam on the images `train`, yielding after each epoch.

    model(x, generator) gives (recon, mu, logvar); train and test are [N, ...], on the model's device.
    `progress(batches, epoch)` may wrap the batches of an epoch. A loss that is not a finite number:
    TrainingError, before the epoch is yielded.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=schedule.learning_rate, fused=True)
    order = torch.Generator().manual_seed(schedule.seed)
    noise = torch.Generator(device=train.device).manual_seed(schedule.seed + 1)
    for epoch in range(1, schedule.epochs + 1):
        start = time.perf_counter()
        indices = torch.randperm(len(train), generator=order).to(train.device)
        batches = progress(indices.split(schedule.batch_size), epoch)
        try:
            train_elbo = _train_epoch(model, loss, train, batches, optimizer, noise)
            seconds = time.perf_counter() - start
            test_elbo = evaluate(model, loss, test, schedule.seed)
        except TrainingError as error:
            raise TrainingError(f"epoch {epoch}: {error}") from error
        yield EpochMetrics(epoch, train_elbo, test_elbo, seconds, len(train) / seconds)


def evaluate(model: nn.Module, loss: Loss, images: Tensor, seed: int) -> Elbo:
    """The ELBO of `images`, one noise sample each, the same at every call with this `seed`.

    Not a finite number: TrainingError.
    """
    noise = torch.Generator(device=images.device).manual_seed(seed + 2)
    sums = _sums(images)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for x in images.split(EVALUATION_BATCH):
            _step(model, loss, x, noise, sums)
    model.train(was_training)
    return _read(sums, len(images))


def _train_epoch(
    model: nn.Module,
    loss: Loss,
    images: Tensor,
    batches: Iterable[Tensor],
    optimizer: torch.optim.Optimizer,
    noise: torch.Generator,
) -> Elbo:
    model.train()
    sums = _sums(images)
    for indices in batches:
        value = _step(model, loss, images[indices], noise, sums)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return _read(sums, len(images))


def _step(model: nn.Module, loss: Loss, x: Tensor, noise: torch.Generator, sums: Tensor) -> Tensor:
    """The loss of one batch; its parts are added to `sums` on the device, nothing waits for it."""
    recon, mu, logvar = model(x, noise)
    try:
        value, reconstruction, kl = loss(recon, x.view_as(recon), mu, logvar)
    except RuntimeError as error:
        # Binary cross-entropy refuses NaN on the CPU, before the end of the epoch can find it.
        if bool(recon.isfinite().all()):
            raise
        raise _diverged() from error
    sums += torch.stack((reconstruction.detach(), kl.detach()))
    return value


def _sums(images: Tensor) -> Tensor:
    return torch.zeros(2, dtype=torch.float64, device=images.device)


def _read(sums: Tensor, samples: int) -> Elbo:
    reconstruction, kl = (sums / samples).tolist()
    elbo = Elbo(reconstruction, kl)
    if not elbo.is_finite():
        raise _diverged()
    return elbo


def _diverged() -> TrainingError:
    return TrainingError("the loss is not a finite number; try a smaller learning rate or beta")
