"""What the tests of drawn noise share: the draw that a call will take, and its noise by tests/noise.py."""

import noise
import torch

import pyaegpu
from pyaegpu import backends


def has_corrupt():
    """Whether the selected backend has kernels of corrupt."""
    return backends.selected() != "cuda"


def next_draw(device):
    """Seed and offset of the next call on ``device``, whose generator stays as it is."""
    if torch.device(device).type == "cuda":
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        return generator.initial_seed(), generator.get_offset()
    before = torch.get_rng_state()
    seed = torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64).item()
    torch.set_rng_state(before)
    return seed, 0


def standard_normals(shape, dtype=torch.float32, device="cpu", generator=None):
    """What reparameterize draws, bare."""
    zeros = torch.zeros(shape, dtype=dtype, device=device)
    return pyaegpu.reparameterize(zeros, std=torch.ones_like(zeros), generator=generator)


def assert_is_noise(eps, seed, offset):
    """``eps`` is the oracle's noise to rounding."""
    count = eps.numel() + eps.numel() % 2
    want = noise.normals(count, seed, offset)
    # A word near 2^32 leaves few digits in its logarithm, the square of the radius; the oracle's angle is rounded too.
    radius = want.view(-1, 2).norm(dim=1).repeat_interleave(2)
    wide = torch.float64 if eps.dtype == torch.float64 else torch.float32
    tolerance = torch.finfo(wide).eps * (1 + 8 * radius + 2 / radius)
    if eps.dtype != wide:
        info = torch.finfo(eps.dtype)
        tolerance += info.eps * want.abs() + info.tiny
    error = (eps.detach().cpu().double().reshape(-1) - want[: eps.numel()]).abs()
    assert (error <= tolerance[: eps.numel()]).all(), f"off by up to {error.max():.2e}"
