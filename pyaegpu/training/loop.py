"""Training of a VAE: one pass over the data per epoch, then a pass over the test samples."""

import time
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from pyaegpu.training.images import Images
from pyaegpu.training.loss import Loss
from pyaegpu.training.metrics import Elbo, EpochMetrics
from pyaegpu.training.precision import autocast
from pyaegpu.training.run import Run

EVALUATION_BATCH = 1000
# Large images go through the evaluation in smaller batches than that.
_EVALUATION_VALUES = 2**22
Progress = Callable[[Iterable[Tensor], int], Iterable[Tensor]]


class TrainingError(RuntimeError):
    """Training cannot go on; the message says what to change."""


def _no_progress(batches: Iterable[Tensor], epoch: int) -> Iterable[Tensor]:
    return batches


def fit(run: Run, train: Images, test: Images, progress: Progress = _no_progress) -> Iterator[EpochMetrics]:
    """Trains `run` from the epoch where it stands, yielding after each one, whose row then is in `run.history`.

    `progress(batches, epoch)` may wrap the batches of an epoch. A loss that is not a finite number: TrainingError,
    before the epoch is yielded; a step that the loss scaler skips is none.
    """
    for epoch in range(run.epoch + 1, run.schedule.epochs + 1):
        start = time.perf_counter()
        order = torch.randperm(len(train), generator=run.order)
        batches = progress(train.batches(run.schedule.batch_size, order), epoch)
        try:
            train_elbo = _train_epoch(run, batches, len(train))
            seconds = time.perf_counter() - start
            test_elbo = evaluate(run.model, run.loss, test, run.schedule.seed, run.dtype)
        except TrainingError as error:
            raise TrainingError(f"epoch {epoch}: {error}") from error
        run.history.append(EpochMetrics(epoch, train_elbo, test_elbo, seconds, len(train) / seconds))
        yield run.history[-1]


def evaluate(model: nn.Module, loss: Loss, images: Images, seed: int, dtype: torch.dtype = torch.float32) -> Elbo:
    """The ELBO of `images`, one noise sample each, the same at every call with this `seed`.

    Not a finite number: TrainingError.
    """
    noise = torch.Generator(device=images.device).manual_seed(seed + 2)
    sums = _sums(images.device)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for x in images.batches(_evaluation_batch(images)):
            _step(model, loss, x, noise, sums, dtype)
    model.train(was_training)
    return _read(sums, len(images))


def _evaluation_batch(images: Images) -> int:
    return min(EVALUATION_BATCH, max(1, _EVALUATION_VALUES // images.values[0].numel()))


def _train_epoch(run: Run, batches: Iterable[Tensor], samples: int) -> Elbo:
    run.model.train()
    sums = _sums(run.device)
    for x in batches:
        value = _step(run.model, run.loss, x, run.noise, sums, run.dtype)
        run.optimizer.zero_grad()
        run.scaler.scale(value).backward()
        run.scaler.step(run.optimizer)
        run.scaler.update()
    return _read(sums, samples)


def _step(model: nn.Module, loss: Loss, x: Tensor, noise: torch.Generator, sums: Tensor, dtype: torch.dtype) -> Tensor:
    """The loss of one batch; its parts are added to `sums` on the device, nothing waits for it."""
    with autocast(x.device, dtype):
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


def _sums(device: torch.device) -> Tensor:
    return torch.zeros(2, dtype=torch.float64, device=device)


def _read(sums: Tensor, samples: int) -> Elbo:
    reconstruction, kl = (sums / samples).tolist()
    elbo = Elbo(reconstruction, kl)
    if not elbo.is_finite():
        raise _diverged()
    return elbo


def _diverged() -> TrainingError:
    return TrainingError("the loss is not a finite number; try a smaller learning rate or beta")
