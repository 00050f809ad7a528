"""Training: loss, loop, metrics, checkpoints and pictures."""

from pyaegpu.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from pyaegpu.training.files import atomic_write
from pyaegpu.training.loop import Schedule, TrainingError, evaluate, fit
from pyaegpu.training.loss import OUTPUT_OF_KIND, make_loss
from pyaegpu.training.metrics import Elbo, EpochMetrics

__all__ = [
    "OUTPUT_OF_KIND",
    "CheckpointError",
    "Elbo",
    "EpochMetrics",
    "Schedule",
    "TrainingError",
    "atomic_write",
    "evaluate",
    "fit",
    "load_checkpoint",
    "make_loss",
    "save_checkpoint",
]
