"""The launches of max-pooling, max-unpooling and the other upsamplers that are compiled ahead of time."""

import functools

import torch
from aot_calls import DTYPES, Calls
from pyaegpu.kernels import max_unpool, nearest_unpool

TWO_BY_TWO = ([2, 2], [2, 2], [0, 0], [1, 1])
OVERLAPPING = ([3, 3], [2, 2], [1, 1], [1, 1])
# Channels and side of the images that SegNet's decoder makes.
SEGNET = ((64, 224), (128, 112), (256, 56), (512, 28))
CODES, PLANE_INDICES = 1, 2
KINDS = {CODES: torch.uint8, PLANE_INDICES: torch.int64}
# What reads or writes whole windows does so 16 bytes at a time on the side of the image alone, of contiguous images;
# what gathers, element by element.
NARROW = (
    "max_pool_kernel",
    "spread_windows_kernel",
    "gather_kernel",
    "scatter_kernel",
    "collect_kernel",
    "fill_windows_kernel",
    "repeat_kernel",
    "sum_windows_kernel",
)


def images(channels: int, side: int, dtype: torch.dtype, channels_last: bool) -> torch.Tensor:
    order = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((16, channels, side, side), dtype=dtype, device="meta", memory_format=order)


def pooling_calls(label: str, channels: int, side: int, dtype: torch.dtype, channels_last: bool, kind: int) -> Calls:
    image = images(channels, side, dtype, channels_last)
    small = images(channels, side // 2, dtype, channels_last)
    indices = images(channels, side // 2, KINDS[kind], channels_last)
    sizes = [side, side], [side // 2, side // 2]
    for name, window in (("", TWO_BY_TWO), (" overlapping", OVERLAPPING)):
        if name and side not in (SEGNET[0][1], SEGNET[-1][1]):
            continue
        rest = *window, channels_last
        yield (
            f"{label}{name}",
            functools.partial(max_unpool.max_pool_fwd, image, sizes[1], *window, kind, channels_last),
        )
        yield f"{label}{name} backward", functools.partial(max_unpool.max_pool_bwd, small, indices, sizes[0], *rest)
        yield f"{label}{name} unpool", functools.partial(max_unpool.max_unpool_fwd, small, indices, sizes[0], *rest)
        yield f"{label}{name} unpool bwd", functools.partial(max_unpool.max_unpool_bwd, image, indices, *rest)


def nearest_calls(label: str, channels: int, side: int, dtype: torch.dtype, channels_last: bool, k: int) -> Calls:
    small = images(channels, side, dtype, channels_last)
    image = images(channels, side * k, dtype, channels_last)
    for name, nails in (("nearest", False), ("nails", True)):
        rest = [k, k], nails, channels_last
        yield f"{label} {name} {k}", functools.partial(nearest_unpool.nearest_unpool_fwd, small, *rest)
        yield f"{label} {name} {k} bwd", functools.partial(nearest_unpool.nearest_unpool_bwd, image, *rest)


def calls(name: str) -> Calls:
    dtype = DTYPES[name]
    chosen = SEGNET if name == "bf16" else SEGNET[:1] if name == "f32" else ()
    for (channels, side), channels_last in ((each, last) for each in chosen for last in (False, True)):
        label = f"{side}x{channels}{' channels_last' if channels_last else ''}"
        for kind, suffix in ((CODES, ""), (PLANE_INDICES, " int64")):
            yield from pooling_calls(label + suffix, channels, side, dtype, channels_last, kind)
    for channels_last in (False, True):
        label = f"112x64{' channels_last' if channels_last else ''}"
        for k in (2, 3) if name in ("bf16", "f32") else (2,):
            yield from nearest_calls(label, 64, 112, dtype, channels_last, k)
        if not chosen:
            yield from pooling_calls(f"{label} {name}", 64, 112, dtype, channels_last, CODES)
