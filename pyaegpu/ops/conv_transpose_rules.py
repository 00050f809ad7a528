"""Which algorithm a transposed convolution takes: what each can run, and the table of what was measured."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from pyaegpu import backends, measured
from pyaegpu.measured import Call
from pyaegpu.ops.conv_transpose_graph import FAMILY, output_sizes
from pyaegpu.ops.layout import suggests_channels_last
from pyaegpu.reference.activations import NONE, RELU

# Kernels of our own, stock kernels and then a pass of our own, stock kernels only.
SMALL, MATMUL, PHASES, PASS, STOCK = "small", "matmul", "phases", "pass", "stock"

DESCRIPTIONS = {
    SMALL: "one product per tile of pixels, taps summed inside the tile, for 1 to 4 output channels; backward likewise",
    MATMUL: "one matrix product with a pixel-shuffle store; backward by stock convolutions",
    PHASES: "an implicit matrix product for each phase of the stride, in one launch; backward by stock convolutions",
    PASS: "stock convolution, then in one pass the activation, and the bias on a GPU",
    STOCK: "stock convolution and activation",
}
# The kernels of a backend, the first choice first; each has the pass as well.
_KERNELS = {"cpu": (SMALL,), "cuda": (SMALL,), "triton": (SMALL, MATMUL, PHASES)}
_SMALL_CHANNELS = 4
_INDEX_LIMIT = 2**31 - 2**10  # the last tile may reach beyond the last pixel
_STEP_LIMIT = 2**20


class ConvArgs(NamedTuple):
    """The numbers of a transposed convolution and its activation."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    groups: int
    dilation: tuple[int, ...]
    activation: int
    slope: float


class Plan(NamedTuple):
    """What serves a call."""

    backend: str
    algorithm: str
    tf32: bool = False
    channels_last: bool = False


class Rule(NamedTuple):
    """Calls that were measured on a CPU: those that ``applies`` to are served by the algorithm."""

    applies: Callable[[Tensor, Tensor, ConvArgs], bool]
    algorithm: str


def _few_channels(input: Tensor, weight: Tensor, args: ConvArgs) -> bool:
    # Of a larger kernel each strip of rows would compute most of the next one's again.
    if weight.shape[1] > _SMALL_CHANNELS or max(weight.shape[2:]) > 9:
        return False
    # Below so many products a call's fixed cost decides, and stock's is less.
    return reaches(_pixels(input) * weight.numel(), 200_000)


def _costly_activation(input: Tensor, weight: Tensor, args: ConvArgs) -> bool:
    # Stock PyTorch's relu is as fast as memory; in a graph Inductor fuses it.
    if args.activation in (NONE, RELU) or is_traced():
        return False
    return reaches(_pixels(input) * math.prod(args.stride) * weight.shape[1] * args.groups, 2**16)


def reaches(size: int, bound: int) -> bool:
    """Whether ``size`` is at least ``bound``. Of a symbolic size, whether it may be: a comparison would bind the graph
    to sizes on one side, and an export with a dynamic batch would fail."""
    return not statically_known_true(size < bound) if torch.compiler.is_compiling() else size >= bound


def exceeds(size: int, bound: int) -> bool:
    """Whether ``size`` is above ``bound``; of a symbolic size, whether it must be."""
    return statically_known_true(size > bound) if torch.compiler.is_compiling() else size > bound


CPU_RULES = (Rule(_few_channels, SMALL), Rule(_costly_activation, PASS))


def plan(input: Tensor, weight: Tensor, bias: Tensor | None, args: ConvArgs, op: str = "conv_transpose") -> Plan:
    """What serves a call by the selected backend, or by the measured rules where none is selected; ``op`` is what the
    rules for a GPU call it."""
    backend = backends.choose(FAMILY, input.device)
    if not input.dim() == weight.dim() == len(args.stride) + 2:  # stock says what is wrong
        return Plan(backend, STOCK)
    if backends.selected() != "auto":
        for algorithm in (*_KERNELS[backend], PASS) if backend != "reference" else ():
            if refusal(algorithm, input, weight, bias, args) is None:
                return _plan(backend, algorithm, input, weight)
        return Plan(backend, STOCK)
    for served_by, algorithm in _measured(backend, input, weight, args, op):
        if refusal(algorithm, input, weight, bias, args) is None:
            return _plan(served_by, algorithm, input, weight)
    return Plan(backend, STOCK)


def folds(input: Tensor, weight: Tensor) -> bool:
    """Whether upsampling and the 3x3 convolution after it run as one transposed convolution."""
    call = call_of("upsample_conv2d", input, weight.shape[0])
    backend = backends.choose(FAMILY, input.device, call)
    if backend == "cpu" and backends.selected() == "auto":
        return _outweighs_folding(input, weight)
    return backend != "reference"


def call_of(op: str, input: Tensor, outputs: int) -> Call:
    """A convolution of ``outputs`` channels as the rules for a GPU see it."""
    return Call(op, input, input.is_cuda and suggests_channels_last(input), outputs)


def _outweighs_folding(input: Tensor, weight: Tensor) -> bool:
    """Whether the convolution is large enough, beside folding its weight; measured on a CPU."""
    pixels = _pixels(input)
    return reaches(pixels, 2**10) and reaches(pixels * weight.shape[0] * weight.shape[1], 2**20)


def refusal(algorithm: str, input: Tensor, weight: Tensor, bias: Tensor | None, args: ConvArgs) -> str | None:
    """Why an algorithm cannot run a call, or None; calls that stock PyTorch refuses are among them."""
    if algorithm == PASS:
        fuses = args.activation != NONE and input.is_floating_point() and input.numel() > 0
        return None if fuses else "there is no activation to fuse"
    if len(args.stride) != 2:
        return "its kernels are 2-D"
    if args.groups != 1 or args.dilation != (1, 1):
        return "its kernels take one group and a dilation of 1"
    if input.shape[1] != weight.shape[0] or (bias is not None and bias.shape != weight.shape[1:2]):
        return "the channels do not fit"
    if not _alike(input, weight, bias):
        return "dtypes or devices differ"
    empty = input.numel() == 0 or weight.numel() == 0
    rows, columns = output_sizes(input.shape[2:], weight.shape[2:], *args[:3])
    if not _regular(args) or empty or rows < 1 or columns < 1:
        return "nothing to compute"
    plane = rows * columns
    if _is_vast(input, weight, args, plane):
        return "it counts in 32 bits within an image"
    if algorithm == SMALL and weight.shape[1] > _SMALL_CHANNELS:
        return f"its kernels take 1 to {_SMALL_CHANNELS} output channels, not {weight.shape[1]}"
    if algorithm in (MATMUL, PHASES) and exceeds(input.shape[0] * plane, _INDEX_LIMIT):
        return f"it counts pixels in 32 bits: fewer than {_INDEX_LIMIT}"
    if algorithm == MATMUL and not _is_matmul(input, weight, args):
        return "it takes a kernel as large as its stride, or one pixel of input"
    if algorithm in (MATMUL, PHASES) and not _takes_tensor_cores(input):
        return "it takes float16, bfloat16, and float32 where TF32 is allowed"
    return None


def reason_for_stock(backend: str, input: Tensor, weight: Tensor, bias: Tensor | None, args: ConvArgs) -> str | None:
    """Why a backend has no kernel of its own for a call, or None where it has."""
    reasons = [refusal(algorithm, input, weight, bias, args) for algorithm in _KERNELS[backend]]
    return None if None in reasons else reasons[-1]


def _plan(backend: str, algorithm: str, input: Tensor, weight: Tensor) -> Plan:
    if algorithm == PASS:
        return Plan(backend, algorithm)
    # cuDNN keeps float64 contiguous.
    keeps = input.dtype != torch.float64 or not input.is_cuda
    channels_last = keeps and (suggests_channels_last(input) or suggests_channels_last(weight))
    return Plan(backend, algorithm, _allows_tf32(input), channels_last)


def _measured(backend: str, input: Tensor, weight: Tensor, args: ConvArgs, op: str) -> list[tuple[str, str]]:
    """Backend and algorithm of each measured rule that is for a call, in their order."""
    if backend == "cpu":
        return [(backend, rule.algorithm) for rule in CPU_RULES if rule.applies(input, weight, args)]
    call = call_of(op, input, weight.shape[1] * args.groups)
    found = backends.rules(FAMILY, input.device)
    return [(rule.backend, rule.algorithm) for rule in found if measured.holds(rule, call)]


def _pixels(input: Tensor) -> int:
    """Of all images of a batch."""
    return input.numel() // max(1, input.shape[1])


def _is_vast(input: Tensor, weight: Tensor, args: ConvArgs, plane: int) -> bool:
    """Whether the places within an image, of every tap, are more than 32 bits count; ``plane``: pixels of an output
    image."""
    if max(*args.stride, *args.padding, *weight.shape[2:]) > _STEP_LIMIT:
        return True
    taps = weight.numel() // weight.shape[0]
    return exceeds(plane * taps, _INDEX_LIMIT) or exceeds(input.shape[2] * input.shape[3] * taps, _INDEX_LIMIT)


def is_traced() -> bool:
    """Whether a graph is compiled, exported or traced."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def _alike(input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    others = (weight,) if bias is None else (weight, bias)
    return input.is_floating_point() and all(t.dtype == input.dtype and t.device == input.device for t in others)


def _regular(args: ConvArgs) -> bool:
    """Whether stock PyTorch takes these numbers."""
    (rows, columns), (extra_rows, extra_columns) = args.stride, args.output_padding
    return min(args.padding) >= 0 and 0 <= extra_rows < rows and 0 <= extra_columns < columns


def _is_matmul(input: Tensor, weight: Tensor, args: ConvArgs) -> bool:
    if args.output_padding != (0, 0):
        return False
    if input.shape[2:] == (1, 1):
        return True
    return args.padding == (0, 0) and weight.shape[2:] == args.stride


def _takes_tensor_cores(input: Tensor) -> bool:
    if input.dtype == torch.float32:
        return _allows_tf32(input) or os.environ.get("TRITON_INTERPRET") == "1"
    return input.dtype != torch.float64


@torch.compiler.assume_constant_result
def _convolutions_use_tf32() -> bool:
    return torch._C._get_fp32_precision_getter("cuda", "conv") == "tf32"


def _allows_tf32(input: Tensor) -> bool:
    return input.is_cuda and input.dtype == torch.float32 and _convolutions_use_tf32()
