"""Max-pooling with codes and max-unpooling, in plain, differentiable PyTorch.

Tensors are [..., *spatial]; the window's numbers tell how many dimensions are spatial. The image is the large side, the
pooled side the small one; indices lie on the pooled side and tell places of the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NO_INDICES, CODES, PLANE_INDICES = range(3)
# More positions do not fit a code.
MOST_POSITIONS = 256

_POOLS = (F.max_pool1d, F.max_pool2d, F.max_pool3d)


class Window(NamedTuple):
    """The windows of a pooling, one number for each spatial dimension."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def disjoint(self) -> bool:
        """Whether each element of an image is in one window at most."""
        return all((k - 1) * d < s for k, s, d in zip(self.kernel, self.stride, self.dilation, strict=True))

    @property
    def codable(self) -> bool:
        """Whether a code can tell the positions apart."""
        return math.prod(self.kernel) <= MOST_POSITIONS


def max_pool(input: Tensor, window: Window, ceil_mode: bool, kind: int) -> tuple[Tensor, Tensor | None]:
    """The maxima of the windows, and their codes or plane indices, or None for ``kind`` NO_INDICES."""
    dims = len(window.kernel)
    image = input.shape[-dims:]
    pool = _POOLS[dims - 1]
    if not _may_miss(image, window) and not (input.is_cuda and torch.are_deterministic_algorithms_enabled()):
        if kind == NO_INDICES:
            return pool(input, *window, ceil_mode), None
        out, indices = pool(input, *window, ceil_mode, True)
    else:
        out, indices = _pool_padded(input, window, ceil_mode)
    if kind == NO_INDICES:
        return out, None
    return out, _codes(indices, window, image) if kind == CODES else indices


def _may_miss(image: Sequence[int], window: Window) -> bool:
    """Whether a window may have no element of the image: the derivative of stock's pooling writes anywhere then."""
    columns = zip(image, window.padding, window.dilation, strict=True)
    return any(p > 0 and size < d for size, p, d in columns)


def _pool_padded(input: Tensor, window: Window, ceil_mode: bool) -> tuple[Tensor, Tensor]:
    """The same with a derivative that is defined for every window, and deterministic on a GPU too: a gather from the
    image and its padding."""
    dims = len(window.kernel)
    pool = _POOLS[dims - 1]
    _, indices = pool(input.detach(), *window, ceil_mode, True)
    padded = F.pad(input, [p for p in reversed(window.padding) for _ in range(2)], value=-math.inf)
    inner = window._replace(padding=(0,) * dims)
    _, places = pool(padded.detach(), *inner, ceil_mode, True)
    for axis in range(dims):  # with the padding for an image, ceil_mode may count a window more
        places = places.narrow(axis - dims, 0, indices.shape[axis - dims])
    out = padded.flatten(-dims).gather(-1, places.flatten(-dims))
    return out.view(indices.shape), indices


def max_pool_gradient(g: Tensor, indices: Tensor, image: Sequence[int], window: Window) -> Tensor:
    """The gradient at the input: each place of the image gets the sum of the gradients of the maxima taken there."""
    dims = len(image)
    places, inside = _places(indices, window, image)
    lead = g.shape[:-dims]
    flat = g.new_zeros(*lead, math.prod(image) + 1)
    flat = flat.scatter_add(-1, _or_beyond(places, inside, image), g.reshape(places.shape))
    return flat[..., :-1].reshape(*lead, *image)


def max_unpool(input: Tensor, indices: Tensor, image: Sequence[int], window: Window) -> Tensor:
    """Zeros, but each value at its place in the image; of several with one place the last is kept. Each of them gets
    the gradient of the place, as in stock PyTorch.

    Raises:
        RuntimeError: on a CPU, for an index outside the image; elsewhere such a value is left out.
    """
    dims = len(image)
    if 0 in image:
        return input.new_zeros(*input.shape[:-dims], *image)
    refuse_outside(indices, image, window)
    places, inside = _places(indices, window, image)
    places = _or_beyond(places, inside, image)
    size = math.prod(image) + 1
    flat = input.new_zeros(*input.shape[:-dims], size)
    flat = flat.scatter(-1, places, _of_the_last(input.flatten(-dims), places, size))
    return flat[..., :-1].unflatten(-1, tuple(image)).contiguous()


def max_unpool_gradient(g: Tensor, indices: Tensor, window: Window) -> Tensor:
    """The gradient at the input: of each element, that at its place; 0 for an index outside the image."""
    dims = len(window.kernel)
    places, inside = _places(indices, window, g.shape[-dims:])
    # By reshape, which legacy batching (is_grads_batched) knows, unlike flatten.
    gathered = g.reshape(*g.shape[:-dims], -1).gather(-1, torch.where(inside, places, 0))
    return torch.where(inside, gathered, 0).reshape(indices.shape)


def decode(codes: Tensor, window: Window, image: Sequence[int]) -> Tensor:
    """The plane indices that the codes stand for."""
    places, _ = _decoded(codes, window, image)
    return places


def refuse_outside(indices: Tensor, image: Sequence[int], window: Window) -> None:
    """Raise an error that names the first index outside the image, where values can be looked at.

    Raises:
        RuntimeError: for such an index on a CPU, outside graphs and functorch transforms.
    """
    if not _can_look_at(indices):
        return
    _, inside = _places(indices, window, image)
    if bool(inside.all()):
        return
    got = _first(indices, ~inside.view(indices.shape))
    size = " x ".join(map(str, image))
    if indices.dtype == torch.uint8:
        raise RuntimeError(
            f"indices must be codes of {_described(window)} whose places lie within the output plane of {size}; got "
            f"{got}. Are kernel_size, stride, padding and dilation those of the pooling, and the codes no cast indices?"
        )
    raise RuntimeError(f"indices must lie within the output plane of {size} (0 to {math.prod(image) - 1}); got {got}")


def refuse_positions(codes: Tensor, window: Window) -> None:
    """Raise an error that names the first code that is no position in the window, where values can be looked at.

    Raises:
        RuntimeError: for such a code.
    """
    if not _can_look_at(codes):
        return
    beyond = codes.long() >= math.prod(window.kernel)
    if bool(beyond.any()):
        raise RuntimeError(f"codes must be codes of {_described(window)}; got {_first(codes, beyond)}")


def _described(window: Window) -> str:
    return f"a {' x '.join(map(str, window.kernel))} window (0 to {math.prod(window.kernel) - 1})"


def _first(indices: Tensor, wrong: Tensor) -> str:
    place = tuple(wrong.nonzero()[0].tolist())
    return f"{indices[place].item()} at {place}"


def _can_look_at(indices: Tensor) -> bool:
    """Whether values may decide what is done: on a CPU, where nothing is traced, transformed or faked."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active():
        return False
    if type(indices) is not Tensor or torch._C._len_torch_dispatch_stack() > 0:
        return False
    return indices.device.type == "cpu"


def _places(indices: Tensor, window: Window, image: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The flat place of each element, spatial dimensions flattened, and whether it lies inside the image."""
    if indices.dtype == torch.uint8:
        places, inside = _decoded(indices, window, image)
    else:
        places = indices.long()
        inside = (places >= 0) & (places < math.prod(image))
    dims = len(image)
    return places.flatten(-dims), inside.flatten(-dims)


def _decoded(codes: Tensor, window: Window, image: Sequence[int]) -> tuple[Tensor, Tensor]:
    rest = codes.long()
    inside = rest < math.prod(window.kernel)
    places, step = torch.zeros_like(rest), 1
    for axis in reversed(range(len(image))):
        start = _starts(codes, window, axis)
        position = start + rest % window.kernel[axis] * window.dilation[axis]
        rest = rest // window.kernel[axis]
        inside = inside & (position >= 0) & (position < image[axis])
        places = places + position * step
        step *= image[axis]
    return places, inside


def _codes(indices: Tensor, window: Window, image: Sequence[int]) -> Tensor:
    """The inverse of ``decode`` for indices as stock's pooling gives them."""
    rest, codes, step = indices, torch.zeros_like(indices), 1
    for axis in reversed(range(len(image))):
        start, dilation = _starts(indices, window, axis), window.dilation[axis]
        first = (-start).clamp(min=0).add(dilation - 1) // dilation
        # Of a window without an element inside, stock's index may be anywhere.
        position = torch.where(start + first * dilation < image[axis], (rest % image[axis] - start) // dilation, first)
        rest = rest // image[axis]
        codes = codes + position.clamp(0, window.kernel[axis] - 1) * step
        step *= window.kernel[axis]
    return codes.to(torch.uint8)


def _starts(indices: Tensor, window: Window, axis: int) -> Tensor:
    """Where each window begins along an axis, in a shape that broadcasts to that of ``indices``."""
    dims = len(window.kernel)
    count = torch.arange(indices.shape[axis - dims], device=indices.device)
    start = count * window.stride[axis] - window.padding[axis]
    return start.view(-1, *(1,) * (dims - 1 - axis))


def _or_beyond(places: Tensor, inside: Tensor, image: Sequence[int]) -> Tensor:
    """The places inside the image; for others one cell beyond it."""
    return torch.where(inside, places, math.prod(image))


def _of_the_last(values: Tensor, places: Tensor, size: int) -> Tensor:
    """For each element the value of the last with its place, so that any order of writing gives one result; gradients
    go to the element itself."""
    order = torch.arange(values.shape[-1], device=values.device).expand(places.shape)
    last = order.new_zeros(*places.shape[:-1], size).scatter_reduce(-1, places, order, "amax").gather(-1, places)
    if not values.is_floating_point():
        return values.gather(-1, last)
    finite = torch.where(values.isfinite(), values, 0)
    # Minus a zero, which has the gradient: a sum would lose the sign of negative zeros.
    carried = values.detach().gather(-1, last) - (finite.detach() - finite)
    return torch.where(last == order, values, carried)
