"""Memory layouts that tensors are tried in, each a function of a contiguous tensor."""

import torch


def sliced(t):
    padded = torch.full([s + 3 for s in t.shape], float("nan"), dtype=t.dtype, device=t.device)
    inner = padded[tuple(slice(1, 1 + s) for s in t.shape)]
    inner.copy_(t)
    return inner


def every_second(t):
    spaced = torch.full((*t.shape[:-1], 2 * t.shape[-1]), float("nan"), dtype=t.dtype, device=t.device)
    view = spaced[..., ::2]
    view.copy_(t)
    return view


def permuted(t):
    """Dense, dimensions stored in reverse."""
    order = list(reversed(range(t.dim())))
    return t.permute(order).contiguous().permute(order)


LAYOUTS = {
    "contiguous": lambda t: t,
    "channels_last": lambda t: t.to(memory_format=torch.channels_last),
    "permuted": permuted,
    "transposed_batch": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
    "sliced": sliced,
    "every_second": every_second,
    "expanded_batch": lambda t: t[:1].expand_as(t),
    "expanded_pixels": lambda t: t[..., :1].expand_as(t),
    "offset": lambda t: torch.cat([t.new_zeros(3), t.reshape(-1)])[3:].view(t.shape),
}
DENSE = ("contiguous", "channels_last", "permuted", "transposed_batch", "offset")
