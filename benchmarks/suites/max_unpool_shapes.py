"""The poolings and unpoolings that are measured: SegNet's. The shape of a case is that of the image, the large side."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

from benchmarks.case import DTYPES, LAYOUTS, MODES, Case
from benchmarks.suites.conv_transpose_shapes import BF16, FORWARD, LAST, OUT_OF_CACHE, TRAINING

POOL, UNPOOL, PAIR = OPS = ("max_pool2d", "max_unpool2d", "max_pool_unpool2d")
NEAREST, NAILS = WINDOW_OPS = ("nearest_unpool2d", "bed_of_nails2d")
INDEX_BYTES = {"codes": 1, "int64": 8}
CODES, PLANE = INDEX_BYTES
SEGNET = ((64, 224, 224), (128, 112, 112), (256, 56, 56), (512, 28, 28))  # what SegNet pools, but for its last map


class Window(NamedTuple):
    """The windows of a pooling of images, alike in both dimensions."""

    kernel: int
    stride: int
    padding: int = 0

    @property
    def overlaps(self) -> bool:
        """Whether an element of the image can be in several windows."""
        return self.kernel > self.stride

    def pooled(self, image: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the small side."""
        sizes = ((size + 2 * self.padding - self.kernel) // self.stride + 1 for size in image[2:])
        return (*image[:2], *sizes)


HALVING, OVERLAPPING = Window(2, 2), Window(3, 2, 1)


def make_case(
    op: str,
    image: tuple[int, ...],
    dtype: str = "float32",
    indices: str = CODES,
    window: Window = HALVING,
    **changes: Any,
) -> Case:
    """One row; the options tell, where the op has them, the indices, and always the bytes of `least_bytes`."""
    numbers: dict[str, str | int] = {"kernel": window.kernel}
    if window.stride != window.kernel:
        numbers["stride"] = window.stride
    if window.padding:
        numbers["padding"] = window.padding
    told = {**({"indices": indices} if op in OPS else {}), **numbers}
    pooled, elements = math.prod(window.pooled(image)), math.prod(image)
    of_stock = DTYPES[dtype].itemsize * (elements + pooled) + (INDEX_BYTES[PLANE] * pooled if op in OPS else 0)
    given: dict[str, Any] = {"out_of_cache": of_stock > OUT_OF_CACHE, **changes}
    case = Case(op, image, dtype, options=tuple(told.items()), **given)
    ours, stock = least_bytes(case)
    return replace(case, options=(*case.options, ("bytes", ours), ("stock_bytes", stock)))


def window_of(case: Case) -> Window:
    """The windows of a case."""
    options = dict(case.options)
    kernel = int(options["kernel"])
    return Window(kernel, int(options.get("stride", kernel)), int(options.get("padding", 0)))


def least_bytes(case: Case) -> tuple[float, float]:
    """Bytes per pooled element that the op must move, and that stock PyTorch moves at least.

    A pooling, an unpooling and each of their gradients go once through the image, the pooled side and the indices; a
    line of memory of a gradient of the image holds places of many windows, so that all of it counts. Stock's indices
    are int64, and it fills an unpooled image with zeros before it scatters the values into them.
    """
    window, size = window_of(case), DTYPES[case.dtype].itemsize
    ratio = math.prod(case.shape) / math.prod(window.pooled(case.shape))
    once, passes = size * (1 + ratio), MODES.index(case.mode) + 1
    scattered = 0 if case.op in (POOL, NEAREST) else size
    if case.op in WINDOW_OPS:
        ours = once * passes
        if case.op == NAILS and case.mode == TRAINING:  # the gradient reads rows, or pixels, of first cells alone
            ours = once + size * (1 + (1 if case.layout == LAST else ratio / window.kernel))
        return ours, ours + scattered
    passes *= 2 if case.op == PAIR else 1
    return (once + INDEX_BYTES[str(case.option("indices"))]) * passes, (once + INDEX_BYTES[PLANE]) * passes + scattered


def cpu_cases() -> list[Case]:
    """float32: all of SegNet's first layer, the backward of the third, the pair of every one."""
    first, second, third, last = ((batch, *layer) for layer, batch in zip(SEGNET, (2, 2, 2, 16), strict=True))
    cases = [
        make_case(op, shape, indices=indices, layout=layout, mode=mode)
        for shape, modes in ((first, MODES), (third, (TRAINING,)))
        for op in (POOL, UNPOOL)
        for indices in INDEX_BYTES
        for layout in LAYOUTS
        for mode in modes
    ]
    cases += [
        make_case(PAIR, shape, indices=indices, layout=layout)
        for shape, every in ((first, INDEX_BYTES), (second, (CODES,)), (third, INDEX_BYTES), (last, (CODES,)))
        for indices in every
        for layout in LAYOUTS
    ]
    return cases + [
        make_case(op, first, window=OVERLAPPING, layout=layout) for op in (POOL, PAIR) for layout in LAYOUTS
    ]


def cuda_cases() -> list[Case]:
    """bfloat16 of every layer at both batches, then one axis at a time."""
    large, small = ([(batch, *layer) for layer in SEGNET] for batch in (16, 2))
    cases = [
        make_case(op, shape, BF16, indices, layout=layout, mode=mode)
        for mode, shapes, ops in ((TRAINING, (*large, *small), OPS), (FORWARD, large, (POOL, UNPOOL)))
        for shape in shapes
        for op in ops
        for indices in INDEX_BYTES
        for layout in LAYOUTS
    ]
    cases += [make_case(op, shape, layout=layout) for shape in large[:2] for op in OPS for layout in LAYOUTS]
    cases += [
        make_case(op, large[0], BF16, indices, OVERLAPPING, layout=layout)
        for op in OPS
        for indices in INDEX_BYTES
        for layout in LAYOUTS
    ]
    return cases + [make_case(op, shape, BF16, layout=LAST, graph=True) for shape in small[2:] for op in OPS]


def large_case(op: str = UNPOOL) -> Case:
    """SegNet's first layer, in bfloat16 and channels_last."""
    return make_case(op, (16, *SEGNET[0]), BF16, layout=LAST)


def small_cases(dtype: str = "float32") -> list[Case]:
    """Every op, kind of index and layout on odd sizes and windows."""
    shapes = (((3, 5, 7, 9), Window(2, 2)), ((2, 16, 8, 34), Window(2, 2)), ((2, 3, 11, 6), OVERLAPPING))
    cases = [
        make_case(op, shape, dtype, indices, window, layout=layout)
        for shape, window in shapes
        for op in OPS
        for indices in INDEX_BYTES
        for layout in LAYOUTS
    ]
    gaps = [make_case(op, (1, 2, 13, 7), dtype, window=Window(2, 3, 1)) for op in OPS]
    return [*cases, *gaps, *(make_case(op, (2, 3, 9, 5), dtype, mode=FORWARD, window=Window(3, 3)) for op in OPS)]


def cpu_window_cases() -> list[Case]:
    """float32 of SegNet's first layer, with the backward and without it."""
    shape = (2, *SEGNET[0])
    return [make_case(op, shape, layout=layout, mode=mode) for op in WINDOW_OPS for layout in LAYOUTS for mode in MODES]


def cuda_window_cases() -> list[Case]:
    """bfloat16 of the first and the third layer, with the backward and without it, and float32 of the first."""
    shapes = [(16, *SEGNET[place]) for place in (0, 2)]
    cases = [
        make_case(op, shape, BF16, layout=layout, mode=mode)
        for shape in shapes
        for op in WINDOW_OPS
        for layout in LAYOUTS
        for mode in MODES
    ]
    return cases + [make_case(op, shapes[0], layout=layout) for op in WINDOW_OPS for layout in LAYOUTS]


def large_window_case(op: str = NEAREST) -> Case:
    """The image of SegNet's first layer, in bfloat16 and channels_last."""
    return make_case(op, (16, *SEGNET[0]), BF16, layout=LAST)


def small_window_cases(dtype: str = "float32") -> list[Case]:
    """Both ops on windows of two, three and one, on sizes that fill no 16-byte access."""
    shapes = (((3, 5, 6, 10), 2), ((2, 16, 6, 66), 2), ((1, 7, 9, 3), 3), ((2, 1, 5, 1), 1))
    return [
        make_case(op, shape, dtype, window=Window(kernel, kernel), layout=layout)
        for shape, kernel in shapes
        for op in WINDOW_OPS
        for layout in LAYOUTS
    ]
