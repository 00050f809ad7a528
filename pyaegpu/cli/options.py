"""Options that several sub-commands share, and the types of their values."""

import argparse
import math
from collections.abc import Callable
from importlib.util import find_spec

import torch

from pyaegpu.cli.errors import UsageError
from pyaegpu.training import DTYPES

# Room for the seeds that training derives from this one by adding.
MAX_SEED = 2**63 - 8
MAX_COUNT = 2**31 - 1

_OTHER_DTYPE_NAMES = {"fp32": "float32", "bfloat16": "bf16", "float16": "fp16"}


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """A whole number of at least `low`, at most `high`."""
    limits = f"a whole number of at least {low}" + (f" and at most {high}" if high is not None else "")

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"{text!r} is not {limits}")
        return value

    return parse


def wholes(low: int, high: int) -> Callable[[str], tuple[int, ...]]:
    """Whole numbers with commas between them."""
    parse_one = whole(low, high)

    def parse(text: str) -> tuple[int, ...]:
        return tuple(parse_one(part) for part in text.split(","))

    return parse


def real(low: float, inclusive: bool) -> Callable[[str], float]:
    """A finite number above `low`, or from `low` on."""
    limits = f"a finite number {'of at least' if inclusive else 'above'} {low:g}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < low or (value == low and not inclusive):
            raise argparse.ArgumentTypeError(f"{text!r} is not {limits}")
        return value

    return parse


def add_run_options(parser: argparse.ArgumentParser, seed_text: str) -> None:
    """--seed, --device, --stock."""
    text = f"{seed_text}; default: 0"
    parser.add_argument("--seed", type=whole(0, MAX_SEED), metavar="N", default=0, help=text)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    parser.add_argument("--stock", action="store_true", help="stock PyTorch ops instead of the fused ones")


def add_dtype_option(parser: argparse.ArgumentParser) -> None:
    """--dtype."""
    parser.add_argument(
        "--dtype",
        type=lambda name: _OTHER_DTYPE_NAMES.get(name, name),
        choices=tuple(DTYPES),
        default="float32",
        help="bf16, fp16: mixed precision, with float32 weights; default: float32",
    )


def add_output_options(parser: argparse.ArgumentParser, progress: bool = True) -> None:
    """--json and --quiet; with `progress`, --progress and --no-progress."""
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of text")
    parser.add_argument("--quiet", action="store_true", help="print only the files written, and errors")
    if progress:
        parser.add_argument(
            "--progress",
            action=argparse.BooleanOptionalAction,
            default=None,
            help="progress bar on stderr; default: where stderr is a terminal and not --quiet",
        )


def pick_device(name: str) -> torch.device:
    """The device of --device; UsageError where there is no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            f"--device cuda: PyTorch {torch.__version__} finds no CUDA device here; use --device cpu or auto"
        )
    return torch.device(name)


def require(packages: dict[str, str]) -> None:
    """UsageError unless each module (key) can be imported; the value is what to install."""
    missing = [package for module, package in packages.items() if find_spec(module) is None]
    if missing:
        raise UsageError(f"this command needs more packages: pip install {' '.join(missing)}")
