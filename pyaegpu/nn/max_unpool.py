"""Max-pooling, max-unpooling and unpooling without indices as modules."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from pyaegpu import functional
from pyaegpu.functional._pooling import check_index_dtype


class _MaxPool(nn.modules.pooling._MaxPoolNd):
    """The constructor and the call of the three poolings, over those of torch.nn."""

    explained_as: str

    def __init__(self, *args: Any, index_dtype: torch.dtype = torch.int64, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_index_dtype(index_dtype)
        self.index_dtype = index_dtype

    def forward(self, input: Tensor) -> Any:
        """The maxima, or with ``return_indices`` the pair of them and their indices."""
        args, kwargs = self.explained_call(input)
        return getattr(functional, self.explained_as)(*args, **kwargs)

    def explained_call(self, input: Tensor) -> tuple[Any, dict[str, Any]]:
        """The arguments of the function that the layer calls."""
        numbers = (self.kernel_size, self.stride, self.padding, self.dilation)
        return (input, *numbers, self.ceil_mode, self.return_indices), {"index_dtype": self.index_dtype}

    def extra_repr(self) -> str:
        """The arguments, as printed."""
        shown = super().extra_repr()
        return shown if self.index_dtype == torch.int64 else f"{shown}, index_dtype={self.index_dtype}"


class MaxPool1d(_MaxPool, nn.MaxPool1d):
    """:class:`torch.nn.MaxPool1d` whose indices can be codes (see :func:`pyaegpu.functional.max_pool1d`)."""

    explained_as = "max_pool1d"


class MaxPool2d(_MaxPool, nn.MaxPool2d):
    """:class:`torch.nn.MaxPool2d` whose indices, with ``index_dtype=torch.uint8``, are codes of a byte for
    :class:`MaxUnpool2d` of the same window (see :func:`pyaegpu.functional.max_pool2d`)."""

    explained_as = "max_pool2d"


class MaxPool3d(_MaxPool, nn.MaxPool3d):
    """:class:`torch.nn.MaxPool3d` whose indices can be codes (see :func:`pyaegpu.functional.max_pool3d`)."""

    explained_as = "max_pool3d"


class _MaxUnpool(nn.modules.pooling._MaxUnpoolNd):
    """The constructor and the call of the three unpoolings, over those of torch.nn."""

    explained_as: str

    def __init__(self, *args: Any, dilation: int | tuple[int, ...] = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dilation = dilation

    def forward(self, input: Tensor, indices: Tensor, output_size: Any = None) -> Tensor:
        """Each value at its place in a larger image of zeros; ``output_size`` as in torch.nn."""
        args, kwargs = self.explained_call(input, indices, output_size)
        return cast(Tensor, getattr(functional, self.explained_as)(*args, **kwargs))

    def explained_call(self, input: Tensor, indices: Tensor, output_size: Any = None) -> tuple[Any, dict[str, Any]]:
        """The arguments of the function that the layer calls."""
        args = (input, indices, self.kernel_size, self.stride, self.padding, output_size)
        return args, {"dilation": self.dilation}

    def extra_repr(self) -> str:
        """The arguments, as printed."""
        shown = super().extra_repr()
        return shown if self.dilation in (1, (1,), (1, 1), (1, 1, 1)) else f"{shown}, dilation={self.dilation}"


class MaxUnpool1d(_MaxUnpool, nn.MaxUnpool1d):
    """:class:`torch.nn.MaxUnpool1d`, also of codes (see :func:`pyaegpu.functional.max_unpool1d`)."""

    explained_as = "max_unpool1d"


class MaxUnpool2d(_MaxUnpool, nn.MaxUnpool2d):
    """:class:`torch.nn.MaxUnpool2d`, also of codes, whose pooling can have had a ``dilation`` (see
    :func:`pyaegpu.functional.max_unpool2d`)."""

    explained_as = "max_unpool2d"


class MaxUnpool3d(_MaxUnpool, nn.MaxUnpool3d):
    """:class:`torch.nn.MaxUnpool3d`, also of codes (see :func:`pyaegpu.functional.max_unpool3d`)."""

    explained_as = "max_unpool3d"


class _WindowUnpool(nn.Module):
    explained_as: str

    def __init__(self, kernel_size: int | tuple[int, int]) -> None:
        super().__init__()
        self.kernel_size = kernel_size

    def forward(self, input: Tensor) -> Tensor:
        """The larger image [N, C, H * k, W * k] of ``input`` [N, C, H, W]."""
        return cast(Tensor, getattr(functional, self.explained_as)(input, self.kernel_size))

    def explained_call(self, input: Tensor) -> tuple[Any, dict[str, Any]]:
        """The arguments of the function that the layer calls."""
        return (input, self.kernel_size), {}

    def extra_repr(self) -> str:
        """The argument, as printed."""
        return f"kernel_size={self.kernel_size}"


class NearestUnpool2d(_WindowUnpool):
    """Each value fills its window of ``kernel_size`` (see :func:`pyaegpu.functional.nearest_unpool2d`)."""

    explained_as = "nearest_unpool2d"


class BedOfNails2d(_WindowUnpool):
    """Each value in its window's first cell, among zeros (see :func:`pyaegpu.functional.bed_of_nails2d`)."""

    explained_as = "bed_of_nails2d"
