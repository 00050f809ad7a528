"""Sub-commands, and what becomes of errors: one line, never a traceback."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from pyaegpu._version import __version__
from pyaegpu.backends import BackendError
from pyaegpu.cli import generate, info, train
from pyaegpu.cli.errors import UsageError
from pyaegpu.data import DataError
from pyaegpu.training import CheckpointError, TrainingError

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130

_USER_ERRORS = (UsageError, DataError, CheckpointError, TrainingError, BackendError)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; `run` of a parsed namespace does the work."""
    parser = _Parser(prog="pyaegpu", description="Fused autoencoder, VAE and GAN operations for PyTorch.")
    parser.add_argument("--version", action="version", version=f"pyaegpu {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    info.add_parser(commands)
    train.add_parser(commands)
    generate.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status: 0, 2 after an error, 130 after an interrupt."""
    try:
        arguments = build_parser().parse_args(argv)
        arguments.run(arguments)
        sys.stdout.flush()
    except _USER_ERRORS as error:
        return _fail(str(error))
    except BrokenPipeError:
        # The reader has gone; without this the interpreter complains when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except OSError as error:
        return _fail(f"{error.filename or 'input/output'}: {error.strerror or error}")
    except KeyboardInterrupt as error:
        print(f"pyaegpu: interrupted{f'; {error}' if str(error) else ''}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        return _fail("out of memory; try smaller sizes (--batch-size, --hidden, --channels, --latent, --count)")
    return 0


def _fail(message: str) -> int:
    print(f"pyaegpu: error: {' '.join(message.split())}", file=sys.stderr)
    return EXIT_ERROR


def _out_of_memory(error: BaseException) -> bool:
    """torch has a class of its own for this on a GPU only."""
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text
