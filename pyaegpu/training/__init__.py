"""Training: loss, loop, metrics, checkpoints and pictures."""

from pyaegpu.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from pyaegpu.training.checksum import checksum
from pyaegpu.training.files import atomic_write, remove_leftovers
from pyaegpu.training.images import Images, place
from pyaegpu.training.loop import TrainingError, evaluate, fit
from pyaegpu.training.loss import OUTPUT_OF_KIND, make_loss
from pyaegpu.training.metrics import Elbo, EpochMetrics
from pyaegpu.training.precision import DTYPES
from pyaegpu.training.run import Run, Schedule
from pyaegpu.training.state import SavedState, load_state, restore, save_state

__all__ = [
    "DTYPES",
    "OUTPUT_OF_KIND",
    "CheckpointError",
    "Elbo",
    "EpochMetrics",
    "Images",
    "Run",
    "SavedState",
    "Schedule",
    "TrainingError",
    "atomic_write",
    "checksum",
    "evaluate",
    "fit",
    "load_checkpoint",
    "load_state",
    "make_loss",
    "place",
    "remove_leftovers",
    "restore",
    "save_checkpoint",
    "save_state",
]
