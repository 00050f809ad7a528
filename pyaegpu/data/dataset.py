"""What a loaded data set is."""

from dataclasses import dataclass, replace

from torch import Tensor


class DataError(ValueError):
    """A data set that is missing, incomplete or damaged; the message names the file and what is wrong."""


@dataclass(frozen=True)
class Split:
    """images: float32 [N, C, H, W] in [0, 1]; labels: int64 [N]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def head(self, count: int) -> "Split":
        """The first `count` samples."""
        return Split(self.images[:count], self.labels[:count])


@dataclass(frozen=True)
class Dataset:
    """Training and test samples of one image shape."""

    name: str
    train: Split
    test: Split

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return tuple(self.train.images.shape[1:])

    def limited(self, count: int) -> "Dataset":
        """The first `count` samples of either split."""
        return replace(self, train=self.train.head(count), test=self.test.head(count))
