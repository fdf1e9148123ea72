"""How far a long job has come: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

from hiper.cli.console import write_line
from hiper.files import visible
from hiper.training import duration, rate

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Report = Callable[[str, int, int], None]
"""Told the stage, how much of it is done and how much there is; 0 in all: not known."""

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress(*, quiet: bool) -> Iterator[Report]:
    """Show progress on stderr while the block runs."""
    if quiet:
        yield _nothing
    elif sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _bars() as bars:
            yield Bars(bars)
    else:
        yield Lines()


@final
class Lines:
    """One line when a stage begins, every ten seconds, and at its end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stage = ""
        self._begun = self._reported = 0.0
        self._first = 0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Write a line when a stage begins, when it ends, and every so many seconds."""
        now = self._clock()
        if stage != self._stage:
            self._stage, self._begun, self._reported, self._first = stage, now, now, done
            write_line(sys.stderr, stage)
        if done == total > 0:
            write_line(sys.stderr, f"{stage}: {done} of {total}, took {duration(now - self._begun)}")
        elif now - self._reported >= SECONDS_BETWEEN_LINES and done > self._first:
            self._reported = now
            each = (now - self._begun) / (done - self._first)
            whole = (f" of {total}", f", {duration(each * (total - done))} left") if total else ("", "")
            write_line(sys.stderr, f"{stage}: {done}{whole[0]}, {rate(each)}{whole[1]}")


@final
class Bars:
    """One bar per stage, with the time that has passed and the time that is left."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Move the bar of a stage; a new stage gets one of its own."""
        stage = visible(stage)  # which may name the model of a stranger's picture
        if stage not in self._tasks:
            self._remove_unmeasured()
            self._tasks[stage] = self._bars.add_task(stage, total=total or None, completed=done)
        self._bars.update(self._tasks[stage], completed=done, total=total or None)

    def _remove_unmeasured(self) -> None:
        """A stage of unknown length is over when the next one begins."""
        for task in list(self._bars.tasks):
            if task.total is None:
                self._bars.remove_task(task.id)


def _nothing(stage: str, done: int, total: int) -> None:
    """Show nothing."""


def _bars() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class RateColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(rate(1 / speed) if speed else "")

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
    )
