"""What a training run shows: text or JSON lines on stdout, a progress bar on stderr."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from pyaegpu.training import Elbo, EpochMetrics
from pyaegpu.training.loop import Progress

_TEXT_LINES = 20
_SECONDS_WITHOUT_BAR = 1.0


class Report:
    """Shows a run as --json, --quiet and --progress say."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.json, self.quiet, self.epochs = arguments.json, arguments.quiet, arguments.epochs
        shown = sys.stderr.isatty() and not self.quiet
        self.progress = shown if arguments.progress is None else arguments.progress

    def start(self, summary: str) -> None:
        """A line of what is about to run."""
        if not self.json and not self.quiet:
            print(summary, flush=True)

    def resumed(self, epoch: int, out: Path) -> None:
        """Where a run with --resume goes on; epoch 0: there was nothing to go on with."""
        if self.quiet:
            return
        if self.json:
            print(json.dumps({"resumed_epoch": epoch}), flush=True)
        elif epoch:
            print(f"resuming after epoch {epoch} of {self.epochs}", flush=True)
        else:
            print(f"no saved state in {out}: starting at epoch 1", flush=True)

    def reading(self, paths: Sequence[Path], text: str) -> Iterable[Path]:
        """The paths, with a bar where reading them takes long."""
        from tqdm import tqdm

        return tqdm(paths, desc=text, disable=not self.progress, unit="file", leave=False, delay=_SECONDS_WITHOUT_BAR)

    @contextmanager
    def bar(self, steps: int, done: int) -> Iterator[Progress]:
        """One bar over `steps` batches of every epoch, `done` of which are; yields what wraps one epoch's batches."""
        from tqdm import tqdm

        total, initial = steps * self.epochs, steps * done
        with tqdm(total=total, initial=initial, disable=not self.progress, unit="step", leave=False) as bar:

            def wrap(batches: Iterable[Tensor], epoch: int) -> Iterable[Tensor]:
                bar.set_description(f"epoch {epoch}/{self.epochs}", refresh=False)
                for batch in batches:
                    yield batch
                    bar.update()

            yield wrap

    def epoch(self, metrics: EpochMetrics) -> None:
        """The line of one epoch; of a long run every JSON line, but only some twenty lines of text."""
        if self.quiet:
            return
        every = -(-self.epochs // _TEXT_LINES)
        if self.json:
            self._line(json.dumps(metrics.as_dict()))
        elif metrics.epoch in (1, self.epochs) or metrics.epoch % every == 0:
            self._line(self._text(metrics))

    def files(self, paths: Sequence[Path]) -> None:
        """The files written, last of all."""
        print_files(paths, self.json)

    def _text(self, metrics: EpochMetrics) -> str:
        epoch = f"epoch {metrics.epoch:{len(str(self.epochs))}}/{self.epochs}"
        speed = f"{metrics.seconds:.2f} s  {metrics.samples_per_second:,.0f} samples/s"
        return f"{epoch}  train {_elbo(metrics.train)}  test {_elbo(metrics.test)}  {speed}"

    @staticmethod
    def _line(text: str) -> None:
        """Prints above the bar, if there is one."""
        from tqdm import tqdm

        with tqdm.external_write_mode():
            print(text, flush=True)


def print_files(paths: Sequence[Path], as_json: bool) -> None:
    """The files that a command has written."""
    names = [str(path) for path in paths]
    print(json.dumps({"files": names}) if as_json else "\n".join(["wrote:", *names]))


def _elbo(elbo: Elbo) -> str:
    return f"{elbo.negative:.2f} (reconstruction {elbo.reconstruction:.2f}, KL {elbo.kl:.2f})"
