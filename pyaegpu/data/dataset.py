"""What a loaded data set is."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

NO_LABEL = -1
_HELD_OUT = 0.1


class DataError(ValueError):
    """A data set that is missing, incomplete or damaged; the message names the file and what is wrong."""


@dataclass(frozen=True)
class Split:
    """images: [N, C, H, W], float32 in [0, 1] or uint8 (see `as_unit`); labels: int64 [N], -1 where there is none."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def head(self, count: int) -> "Split":
        """The first `count` samples."""
        return Split(self.images[:count], self.labels[:count])


@dataclass(frozen=True)
class Dataset:
    """Training and test samples of one image shape; other shapes: DataError."""

    name: str
    train: Split
    test: Split

    def __post_init__(self) -> None:
        shapes = [_times(split.images.shape[1:]) for split in (self.train, self.test)]
        if shapes[0] != shapes[1]:
            raise DataError(
                f"{self.name}: training images are {shapes[0]} (channels x height x width), test images {shapes[1]}"
            )

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return tuple(self.train.images.shape[1:])

    def limited(self, count: int) -> "Dataset":
        """The first `count` samples of either split."""
        return replace(self, train=self.train.head(count), test=self.test.head(count))


def as_unit(images: Tensor) -> Tensor:
    """float32 in [0, 1]: bytes are divided by 255. Data sets are kept as bytes, a quarter of the memory."""
    return images.to(torch.float32).div_(255) if images.dtype == torch.uint8 else images


def unlabelled(count: int) -> Tensor:
    """Labels of samples that have none."""
    return torch.full((count,), NO_LABEL, dtype=torch.int64)


def hold_out(everything: Split, count: int, seed: int = 0) -> tuple[Split, Split]:
    """(training, test): `count` samples, drawn with `seed`, are the test samples."""
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(seed))
    test, train = (Split(everything.images[part], everything.labels[part]) for part in (order[:count], order[count:]))
    return train, test


def hold_out_tenth(everything: Split, source: object) -> tuple[Split, Split]:
    """(training, test): a tenth of the samples, at least one, is held out. Fewer than two samples: DataError."""
    if len(everything) < 2:
        raise DataError(f"{source}: {len(everything)} sample; at least 2 are needed, one of them to test with")
    return hold_out(everything, max(1, round(_HELD_OUT * len(everything))))


def _times(sizes: torch.Size) -> str:
    return "x".join(map(str, sizes))
