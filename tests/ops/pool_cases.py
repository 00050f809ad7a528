"""Poolings to try: shapes and windows, beside stock PyTorch's functions and loops in plain Python."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import pyaegpu

INT64, INT32, CODES = torch.int64, torch.int32, torch.uint8
_POOLS = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_UNPOOLS = (F.max_unpool1d, F.max_unpool2d, F.max_unpool3d)
_Numbers = int | tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """One pooling of [N, C, *spatial]."""

    shape: tuple[int, ...]
    kernel: _Numbers
    stride: _Numbers | None = None
    padding: _Numbers = 0
    dilation: _Numbers = 1
    ceil_mode: bool = False

    @property
    def dims(self):
        return len(self.shape) - 2

    @property
    def image(self):
        return self.shape[2:]

    def numbers(self):
        """Kernel, stride, padding and dilation, one for each dimension."""
        stride = self.kernel if self.stride is None else self.stride
        each = (self.kernel, stride, self.padding, self.dilation)
        return tuple((n,) * self.dims if isinstance(n, int) else n for n in each)

    def input(self, dtype=torch.float32, device="cpu", ties=False):
        """Random values, every fourth or so in several places where ``ties``."""
        generator = torch.Generator().manual_seed(sum(self.shape))
        values = torch.randn(self.shape, generator=generator, dtype=torch.float64)
        return (values.round() if ties else values).to(device, dtype)

    def pool(self, input, index_dtype: Any = None):
        """Ours; with an ``index_dtype`` the maxima and their indices."""
        options = {} if index_dtype is None else {"return_indices": True, "index_dtype": index_dtype}
        return ours("max_pool", self.dims)(input, *self._arguments(), self.ceil_mode, **options)

    def stock_pool(self, input, return_indices=True):
        return _POOLS[self.dims - 1](input, *self._arguments(), self.ceil_mode, return_indices)

    def unpool(self, input, indices):
        """Ours, to the sizes that were pooled. Of plane indices, whose default size counts no dilation, the window is
        one of as many elements."""
        kernel, stride, padding, dilation = self.numbers()
        if indices.dtype != CODES:
            kernel = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
        return ours("max_unpool", self.dims)(input, indices, kernel, stride, padding, self.image, dilation=dilation)

    def stock_unpool(self, input, indices):
        """Stock's op, whose function knows no dilation; by one thread, since several keep any value of a place."""
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            return self._stock_unpool(input, indices)
        finally:
            torch.set_num_threads(threads)

    def _stock_unpool(self, input, indices):
        if self.dims == 3:
            _, stride, padding, _ = self.numbers()
            return torch._C._nn.max_unpool3d(input, indices, self.image, stride, padding)
        if self.dims == 2:
            return torch._C._nn.max_unpool2d(input, indices, self.image)
        return torch._C._nn.max_unpool2d(input.unsqueeze(-1), indices.unsqueeze(-1), [*self.image, 1]).squeeze(-1)

    def decode(self, codes, input_size=None):
        kernel, stride, padding, dilation = self._arguments()
        size = self.image if input_size is None else input_size
        return pyaegpu.decode_pool_codes(codes, kernel, stride, padding, dilation=dilation, input_size=size)

    def _arguments(self):
        return self.kernel, self.stride, self.padding, self.dilation


def ours(name, dims):
    return getattr(pyaegpu, f"{name}{dims}d")


def stock_unpool_of(dims):
    return _UNPOOLS[dims - 1]


IMAGES = {
    "2/2": Case((2, 3, 8, 10), 2),
    "2/2 of odd sizes": Case((2, 3, 7, 9), 2),
    "2/2 ceil": Case((2, 3, 7, 9), 2, ceil_mode=True),
    "2/2 wide": Case((1, 2, 4, 70), 2),
    "3/2/1": Case((2, 3, 9, 8), 3, 2, 1),
    "3/2/1 ceil": Case((1, 2, 8, 7), 3, 2, 1, ceil_mode=True),
    "3/1/1": Case((2, 2, 5, 6), 3, 1, 1),
    "2/1": Case((1, 3, 5, 4), 2, 1),
    "3/3": Case((2, 5, 11, 7), 3),
    "1/2": Case((2, 3, 5, 6), 1, 2),
    "(2, 3)": Case((2, 3, 6, 11), (2, 3)),
    "(3, 2)": Case((2, 3, 11, 6), (3, 2), (2, 3), (1, 0)),
    "(2, 3)/(3, 2)": Case((1, 4, 9, 8), (2, 3), (3, 2), (0, 1), ceil_mode=True),
    "dilation": Case((2, 3, 9, 8), 2, 2, 1, 2),
    "(1, 3) dilation": Case((1, 2, 7, 12), (2, 3), (2, 1), 1, (1, 3), True),
    "dilation over the image": Case((1, 2, 1, 1), 2, 2, 1, 2),
    "one window": Case((3, 2, 4, 5), (4, 5)),
    "one channel": Case((3, 1, 6, 6), 2),
    "17 channels": Case((1, 17, 4, 6), 2),
    "16 x 16": Case((1, 1, 17, 18), 16, 1),
}
LINES = {
    "line": Case((2, 3, 11), 2),
    "line 3/2/1": Case((2, 3, 37), 3, 2, 1),
    "line ceil": Case((1, 2, 8), 3, 2, ceil_mode=True),
    "line dilation": Case((2, 2, 9), 3, 2, 1, 2),
}
VOLUMES = {
    "volume": Case((2, 3, 4, 5, 6), 2),
    "volume 3/2/1": Case((1, 2, 5, 4, 7), 3, 2, 1),
    "volume (1, 2, 3)": Case((1, 2, 3, 5, 7), (1, 2, 3), (2, 1, 2), (0, 1, 1), ceil_mode=True),
    "volume dilation": Case((1, 2, 5, 6, 5), 2, (1, 2, 2), 1, (2, 1, 2)),
}
CASES = IMAGES | LINES | VOLUMES
# One of each way through the package.
FEW = {name: CASES[name] for name in ("2/2", "3/2/1", "dilation", "line 3/2/1", "volume (1, 2, 3)")}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
few_cases = pytest.mark.parametrize("case", FEW.values(), ids=FEW)
each_index_dtype = pytest.mark.parametrize("index_dtype", [CODES, INT64], ids=str)


def positions(case, pooled, p):
    """Of the window at ``p``: the code of each position, and its place in each dimension."""
    for code, k in enumerate(itertools.product(*map(range, case.numbers()[0]))):
        _, stride, padding, dilation = case.numbers()
        yield code, [a * s - b + i * d for a, s, b, i, d in zip(p, stride, padding, k, dilation, strict=True)]


def flat_place(place, image):
    flat = 0
    for at, size in zip(place, image, strict=True):
        flat = flat * size + at
    return flat


def pool_by_loops(input, case, pooled):
    """The maxima, plane indices and codes of the windows; ``pooled`` are their sizes."""
    image, spots = case.image, list(itertools.product(*map(range, pooled)))
    rows = []
    for plane in input.reshape(-1, math.prod(image)).tolist():
        for p in spots:
            best = None
            for code, place in positions(case, pooled, p):
                if min(place) < 0:
                    continue
                if best is None:  # what is told of a window without an element inside
                    best = (-math.inf, flat_place(place, image), code)
                    first = True
                if any(at >= size for at, size in zip(place, image, strict=True)):
                    continue
                value = plane[flat_place(place, image)]
                if first or value > best[0] or math.isnan(value):
                    best, first = (value, flat_place(place, image), code), False
            rows.append(best)
    values, indices, codes = zip(*rows, strict=True)
    shape = (*input.shape[:2], *pooled)
    kinds = ((values, input.dtype), (indices, INT64), (codes, CODES))
    return tuple(torch.tensor(column, dtype=dtype).view(shape) for column, dtype in kinds)


def unpool_by_loops(input, indices, image):
    """Zeros, but each value at its place; the last value of a place is kept."""
    dims, size = len(image), math.prod(image)
    values = input.flatten(-dims).flatten(0, -2)
    places = indices.long().flatten(-dims).flatten(0, -2).tolist()
    out = input.new_zeros(len(places), size)
    for row, line in enumerate(places):
        for p, place in enumerate(line):
            out[row, place] = values[row, p]
    return out.view(*input.shape[:-dims], *image)


def channels_last(t):
    """In the order of its number of dimensions, if there is one."""
    return t.to(memory_format={4: torch.channels_last, 5: torch.channels_last_3d}.get(t.dim(), torch.contiguous_format))


def outcome(fn, input, upstream=None):
    """The value of ``fn``, and the gradient at ``input``; integers among the results are left out."""
    leaf = input.detach().requires_grad_()
    result = fn(leaf)
    value = result[0] if isinstance(result, tuple) else result
    upstream = upstream_of(value) if upstream is None else upstream
    return value.detach(), *torch.autograd.grad(value, leaf, upstream.to(value.dtype))


def upstream_of(value, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(value.shape, generator=generator).to(value.device, value.dtype)


def assert_equal(ours, stock, strides=True):
    """In every bit, NaN in the same places; the strides too, up to those of sizes of one."""
    torch.testing.assert_close(ours, stock, rtol=0, atol=0, equal_nan=True)
    if strides:
        assert_strides(ours, stock)


def assert_strides(ours, stock):
    pairs = zip(ours.stride(), stock.stride(), ours.shape, strict=True)
    assert all(a == b or size == 1 for a, b, size in pairs), (ours.stride(), stock.stride())
