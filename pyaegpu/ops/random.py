"""Where the noise of a call comes from: seed and offset of the Philox stream that its kernels draw, and draw again in
the backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyaegpu.measured import Call
from pyaegpu.ops.eager import route_of

# A generator's offset counts 32-bit words and moves by whole Philox calls of four; the counter counts calls. We take
# one call's worth, so that torch's own kernels, before or after, use none of our counters.
_OFFSET_STEP = 4
_SEEDS = (-(2**63), 2**63 - 1)
_CPU = torch.device("cpu")


class Draw(NamedTuple):
    """One draw: ``seed`` on the device, fresh at each run of a graph, or ``seed_value``, 64 bits as a signed int."""

    seed: Tensor | None
    seed_value: int
    offset: int


NO_DRAW = Draw(None, 0, 0)


def draw(device: torch.device, generator: torch.Generator | None, traced: bool = False) -> Draw:
    """The next draw of ``generator``, or of the device's default one, which moves on by it.

    A CUDA generator is read on the host, without a launch. One without an offset, as on the CPU, yields a seed. While a
    CUDA graph is captured, or a graph ``traced``, the seed is drawn on the device by the graph itself.
    """
    if traced:
        return Draw(_random_seed(device, generator), 0, 0)
    if device.type != "cuda":
        return Draw(None, _seed_of_host(generator), 0)
    on_gpu = generator is None or generator.device.type == "cuda"
    if torch.cuda.is_current_stream_capturing():
        if not on_gpu:
            raise RuntimeError(
                "generator must be None or a CUDA generator while a CUDA graph is captured: a CPU generator's noise "
                "would be the same at each replay"
            )
        return Draw(_random_seed(device, generator), 0, 0)
    if not on_gpu:
        return Draw(None, _seed_of_host(generator), 0)
    source = generator or torch.cuda.default_generators[device.index]
    offset = source.get_offset()
    source.set_offset(offset + _OFFSET_STEP)
    return Draw(None, _signed(source.initial_seed()), offset // _OFFSET_STEP)


def route_of_draw(family: str, call: Call) -> str | None:
    """The route of a call that draws: "graph" also where a seed read on the host would be no number at all."""
    route = route_of(family, call)
    if route is None or route == "graph":
        return route  # torch.compile, which is one of the two, could not trace what follows
    return "graph" if torch._C._len_torch_dispatch_stack() > 0 else route


def stock_noise(
    source: Callable[..., Tensor],
    like: Tensor,
    generator: torch.Generator | None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Noise of ``like``'s shape by torch.randn or torch.rand; a CPU generator's noise is moved to ``like``'s device."""
    device = like.device if generator is None or generator.device.type == "cuda" else generator.device
    dtype = like.dtype if dtype is None else dtype
    # The overload with a generator, even None, takes no symbolic sizes.
    given = {} if generator is None else {"generator": generator}
    return source(like.shape, **given, dtype=dtype, device=device).to(like.device)


def _seed_of_host(generator: torch.Generator | None) -> int:
    # The device is named: the user may have set another default.
    return int(_random_seed(_CPU, generator).item())


def _random_seed(device: torch.device, generator: torch.Generator | None) -> Tensor:
    return torch.randint(*_SEEDS, (), dtype=torch.int64, device=device, generator=generator)


def _signed(seed: int) -> int:
    return seed - 2**64 if seed >= 2**63 else seed
