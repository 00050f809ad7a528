"""What is measured per epoch."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Elbo:
    """Negative ELBO per sample and its two parts, in nats; KL counts once whatever beta was trained with."""

    reconstruction: float
    kl: float

    @property
    def negative(self) -> float:
        """reconstruction + kl."""
        return self.reconstruction + self.kl

    def is_finite(self) -> bool:
        """Whether both parts are numbers."""
        return math.isfinite(self.reconstruction) and math.isfinite(self.kl)


@dataclass(frozen=True)
class EpochMetrics:
    """One epoch. `train` is the mean over the training pass, whose weights move; `seconds` is its time."""

    epoch: int
    train: Elbo
    test: Elbo
    seconds: float
    samples_per_second: float

    def as_dict(self) -> dict[str, float]:
        """Flat, for JSON."""
        row: dict[str, float] = {"epoch": self.epoch}
        for name, elbo in (("train", self.train), ("test", self.test)):
            row[f"{name}_negative_elbo"] = elbo.negative
            row |= {f"{name}_{part}": value for part, value in asdict(elbo).items()}
        return row | {"seconds": self.seconds, "samples_per_second": self.samples_per_second}

    @classmethod
    def from_dict(cls, row: Mapping[str, float]) -> "EpochMetrics":
        """What `as_dict` made flat."""
        train, test = (Elbo(row[f"{name}_reconstruction"], row[f"{name}_kl"]) for name in ("train", "test"))
        return cls(int(row["epoch"]), train, test, row["seconds"], row["samples_per_second"])
