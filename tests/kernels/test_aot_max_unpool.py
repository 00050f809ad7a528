"""What the kernels over windows compile to: the widths of their accesses, and what compiles anew."""

import os
import re
from collections import Counter

import aot
import aot_calls_max_unpool
import pytest
import torch
from pyaegpu.kernels import max_unpool, nearest_unpool

pytestmark = [
    pytest.mark.aot,
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="Triton compiles nothing there"),
]

TWO_BY_TWO = aot_calls_max_unpool.TWO_BY_TWO
OVERLAPPING = aot_calls_max_unpool.OVERLAPPING
WIDE = "v4.b32"


def recorded(*calls):
    launches = []
    with aot.gpu(90), aot.recording("", launches):
        for call in calls:
            call()
    return launches


def accesses(launch, arch):
    """How often each access to global memory stands in the kernel."""
    return Counter(re.findall(r"(ld|st)\.global\.(\S+)", aot.compile_launch(launch, arch).ptx))


def of(shape, dtype, channels_last):
    order = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device="meta", memory_format=order)


@pytest.mark.parametrize("arch", aot.ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("side, channels", [(224, 64), (56, 256)])
def test_whole_windows_of_contiguous_images(side, channels, dtype, arch):
    """The image is read and written in whole rows, 16 bytes at a time; what is pooled, 8 at a time."""
    shapes = (16, channels, side, side), (16, channels, side // 2, side // 2)
    image, pooled = (of(shape, dtype, False) for shape in shapes)
    codes = of(shapes[1], torch.uint8, False)
    pool, spread, collect, fill, sums = recorded(
        lambda: max_unpool.max_pool_fwd(image, shapes[1][2:], *TWO_BY_TWO, 1, False),
        lambda: max_unpool.max_unpool_fwd(pooled, codes, shapes[0][2:], *TWO_BY_TWO, False),
        lambda: max_unpool.max_unpool_bwd(image, codes, *TWO_BY_TWO, False),
        lambda: nearest_unpool.nearest_unpool_fwd(pooled, [2, 2], False, False),
        lambda: nearest_unpool.nearest_unpool_bwd(image, [2, 2], False, False),
    )
    of_codes = "b32" if dtype == torch.bfloat16 else "b16"
    assert accesses(pool, arch) == {("ld", WIDE): 2, ("st", "v2.b32"): 1, ("st", of_codes): 1}
    assert accesses(spread, arch) == {("ld", "v2.b32"): 1, ("ld", of_codes): 1, ("st", WIDE): 2}
    assert accesses(collect, arch) == {("ld", WIDE): 2, ("ld", of_codes): 1, ("st", "v2.b32"): 1}
    assert accesses(fill, arch) == {("ld", "v2.b32"): 1, ("st", WIDE): 2}
    assert accesses(sums, arch) == {("ld", WIDE): 2, ("st", "v2.b32"): 1}


@pytest.mark.parametrize("arch", aot.ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("channels", [64, 24])
def test_channels_innermost(channels, dtype, arch):
    """16 bytes at a time on both sides, whatever the windows; of channels that are a multiple of 8."""
    shapes = (16, channels, 57, 57), (16, channels, 29, 29)
    image, pooled = (of(shape, dtype, True) for shape in shapes)
    codes = of(shapes[1], torch.uint8, True)
    of_codes = "v2.b32" if dtype == torch.bfloat16 else "b32"
    for window in (TWO_BY_TWO, OVERLAPPING):
        pool, spread, gradient = recorded(
            lambda window=window: max_unpool.max_pool_fwd(image, shapes[1][2:], *window, 1, True),
            lambda window=window: max_unpool.max_unpool_fwd(pooled, codes, shapes[0][2:], *window, True),
            lambda window=window: max_unpool.max_pool_bwd(pooled, codes, shapes[0][2:], *window, True),
        )
        positions = window[0][0] * window[0][1]
        assert accesses(pool, arch) == Counter([("ld", WIDE)] * positions + [("st", WIDE), ("st", of_codes)])
        # Each element of the image asks four overlapping windows; a window of its own writes its four.
        reads, writes = (1, 4) if window == TWO_BY_TWO else (4, 1)
        wanted = Counter([("ld", WIDE), ("ld", of_codes)] * reads + [("st", WIDE)] * writes)
        assert accesses(spread, arch) == accesses(gradient, arch) == wanted
    (collect,) = recorded(lambda: max_unpool.max_unpool_bwd(image, codes, *TWO_BY_TWO, True))
    assert accesses(collect, arch) == Counter([("ld", WIDE)] * 4 + [("ld", of_codes), ("st", WIDE)])


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("window", [TWO_BY_TWO, OVERLAPPING])
def test_sizes_do_not_recompile(window, channels_last):
    found = set()
    for n, c, h, w in ((16, 64, 224, 224), (3, 48, 160, 96), (1, 16, 32, 64)):
        shapes = (n, c, h, w), (n, c, h // 2, w // 2)
        image, pooled = (of(shape, torch.bfloat16, channels_last) for shape in shapes)
        launches = []
        with aot.recording("", launches):
            max_unpool.max_pool_fwd(image, shapes[1][2:], *window, 2, channels_last)
            for indices in (pooled.to(torch.uint8), pooled.long()):
                max_unpool.max_unpool_fwd(pooled, indices, shapes[0][2:], *window, channels_last)
                max_unpool.max_unpool_bwd(image, indices, *window, channels_last)
        assert len(launches) == 6
        found.add(tuple(aot.specialization(launch, 90) for launch in launches))
    assert len(found) == 1, found
