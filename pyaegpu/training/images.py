"""Where training reads its images: on the device where they fit, else in the host's memory."""

from collections.abc import Iterator

import torch
from torch import Tensor

from pyaegpu.data import as_unit

_SHARE_OF_FREE_MEMORY = 0.5


class Images:
    """The images of one split, [N, ...], and the device that wants them in batches."""

    def __init__(self, values: Tensor, device: torch.device | None = None) -> None:
        self.values = values
        self.device = values.device if device is None else device

    def __len__(self) -> int:
        return len(self.values)

    @property
    def resident(self) -> bool:
        """Whether they lie on the device that wants them."""
        return self.values.device.type == self.device.type

    def batches(self, size: int, order: Tensor | None = None) -> Iterator[Tensor]:
        """Batches of `size` on the device, float32 in [0, 1]; in `order`, which holds indices, or as they lie."""
        if order is None:
            pieces = iter(self.values.split(size))
        else:
            pieces = map(self._gather, order.to(self.values.device).split(size))
        for piece in pieces:
            yield as_unit(piece.to(self.device, non_blocking=True))

    def _gather(self, indices: Tensor) -> Tensor:
        if self.resident:
            return self.values[indices]
        # From pinned memory the copy runs beside the computation; the allocator keeps the buffer until it is done.
        buffer = torch.empty((len(indices), *self.values.shape[1:]), dtype=self.values.dtype, pin_memory=True)
        return torch.index_select(self.values, 0, indices, out=buffer)


def place(train: Tensor, test: Tensor, device: torch.device) -> tuple[Images, Images]:
    """Both splits for `device`: on it where they take less than half of its free memory, else left where they are."""
    if _fits(train.nbytes + test.nbytes, device):
        train, test = train.to(device), test.to(device)
    return Images(train, device), Images(test, device)


def _fits(size: int, device: torch.device) -> bool:
    return device.type != "cuda" or size < _SHARE_OF_FREE_MEMORY * torch.cuda.mem_get_info(device)[0]
