"""Corruption of the input of a denoising autoencoder."""

from __future__ import annotations

from torch import Tensor

from pyaegpu import _checks
from pyaegpu.functional._noise import Generators, by_sample, inverse_of, memory_order, one_or_each
from pyaegpu.ops import corrupt as ops

KINDS = ("gaussian", "masking", "salt_and_pepper")


def corrupt(
    input: Tensor,
    kind: str,
    amount: float,
    *,
    generator: Generators = None,
    low: float = 0.0,
    high: float = 1.0,
) -> Tensor:
    r"""``input`` with noise, as the input of a denoising autoencoder; the noise is drawn in the kernel.

    - ``"gaussian"``: :math:`x + amount \cdot n`, :math:`n \sim N(0, 1)`
    - ``"masking"``: each element is set to 0 with probability ``amount``; the others keep their value
    - ``"salt_and_pepper"``: each element is replaced with probability ``amount``, by ``low`` or ``high`` alike

    (Vincent et al. 2010, section 3.3.) Gradients pass through every element that was not replaced.
    ``torch.compile`` makes a graph for each ``amount``: a schedule of many belongs outside it.

    Args:
        input: tensor of any shape, float32, float64, float16 or bfloat16.
        kind: ``"gaussian"``, ``"masking"`` or ``"salt_and_pepper"``.
        amount: standard deviation, at least 0; for the other kinds a probability.
        generator: source of the noise, default the device's own, which ``torch.manual_seed`` sets; or a list of one for
            each sample of dim 0 (a list of one serves all).
        low: pepper.
        high: salt.

    Returns:
        A new tensor of the dtype, shape and memory format of ``input``.

    Raises:
        TypeError: for arguments of another type.
        ValueError: for an unknown kind, an ``amount`` out of range, a list of generators of another length than the
            batch.
        RuntimeError: for an ``input`` that is not floating-point.
    """
    kind_id = _checks.choice("kind", kind, KINDS)
    _checks.floating(input=input)
    amount = _checks.number("amount", amount, 0.0)
    if kind != "gaussian" and not amount <= 1.0:
        raise ValueError(f"amount must be a probability, at most 1, for kind {kind!r}; got {amount}")
    args = ops.CorruptArgs(kind_id, amount, _checks.number("low", low), _checks.number("high", high))
    rng, each = one_or_each(generator, "input", input)
    if each is not None:
        return by_sample(lambda x, one: [ops.corrupt(x, one, args)], each, input)[0]
    order = memory_order(input)
    if order is None:
        return ops.corrupt(input, rng, args)
    return ops.corrupt(input.permute(order), rng, args).permute(inverse_of(order))
