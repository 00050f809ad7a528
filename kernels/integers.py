"""Whole-number arithmetic of the launchers. Triton's own functions of these names take 2 µs a call on the host."""


def cdiv(count: int, size: int) -> int:
    """How many pieces of ``size`` hold ``count``."""
    return -(-count // size)


def next_power_of_2(count: int) -> int:
    """The least power of two that is not below ``count``; 1 for none."""
    return 1 << max(0, count - 1).bit_length()
