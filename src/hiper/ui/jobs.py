"""One piece of work in a thread of its own, which waits for its turn, is watched, and is stopped from outside."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar, final

T = TypeVar("T")
_LOOK = 0.1
"""Seconds between two looks of a waiting job whether it is still wanted."""


class Stopped(Exception):  # no mistake of anybody
    """Raised inside a job that was asked to stop, wherever it reports its progress."""


@final
class Progress:
    """How far a job has come: what it does, steps done and in all, and the seconds it has left."""

    def __init__(self) -> None:
        self.stage, self.done, self.total = "", 0, 0
        self._first, self._begun = 0, time.monotonic()

    def report(self, stage: str, done: int, total: int) -> None:
        """Note where the job stands; a new stage starts its own clock."""
        if stage != self.stage:
            self._first, self._begun = done, time.monotonic()
        self.stage, self.done, self.total = stage, done, total

    @property
    def seconds_left(self) -> float | None:
        """At the pace of this stage so far; None while that is not known."""
        if self.done <= self._first:
            return None
        pace = (time.monotonic() - self._begun) / (self.done - self._first)
        return pace * (self.total - self.done)


@final
class Line:
    """First come, first served, one at a time; who waits may be told to leave."""

    def __init__(self) -> None:
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    def before(self, who: object) -> int:
        """Count those who come before `who`, who has had no turn yet if it is more than none."""
        return next((place for place, each in enumerate(tuple(self._waiting)) if each is who), 0)

    @contextmanager
    def turn(self, who: object, leaves: threading.Event) -> Iterator[None]:
        """Wait for the turn of `who`, hold it for the block; raises Stopped as soon as `leaves` is set before it."""
        with self._changed:
            self._waiting.append(who)
        try:
            with self._changed:
                while self._waiting[0] is not who and not leaves.is_set():
                    self._changed.wait(_LOOK)
            if leaves.is_set():
                raise Stopped
            yield
        finally:
            with self._changed:
                self._waiting.remove(who)
                self._changed.notify_all()


@final
class Job(Generic[T]):
    """Runs `work` in a thread when its turn in `line` comes; what it returns or raises is told by `result`."""

    def __init__(self, work: Callable[[Job[T]], T], line: Line) -> None:
        self.progress = Progress()
        self._work, self._line = work, line
        self._stop = threading.Event()
        self._value: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="hiper-job", daemon=True)
        self._thread.start()

    @property
    def before(self) -> int:
        """Count the jobs that come first; 0: it runs, or has run."""
        return self._line.before(self)

    def stop(self) -> None:
        """Ask the work to end at its next step, or not to begin."""
        self._stop.set()

    def stop_request(self) -> int | None:
        """Answer a fit's question whether to stop (`hiper.fitting.StopRequest`)."""
        return int(signal.SIGINT) if self._stop.is_set() else None

    def report(self, stage: str, done: int, total: int) -> None:
        """Note progress from inside the work; raises Stopped there once `stop` was called."""
        self.progress.report(stage, done, total)
        if self._stop.is_set():
            raise Stopped

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end, at most so long; whether it has come."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def ticks(self, seconds: float) -> Iterator[None]:
        """Yield every so many seconds until the end; whoever leaves early stops the work."""
        try:
            while not self.wait(seconds):
                yield
        finally:
            self.stop()

    def result(self) -> T:
        """Return what the work returned, or raise what it raised; only after the end."""
        if self._error is not None:
            raise self._error
        return self._value[0]

    def _run(self) -> None:
        try:
            with self._line.turn(self, self._stop):
                self._value.append(self._work(self))
        except BaseException as error:  # noqa: BLE001  # raised again by `result`, in the thread that asks
            self._error = error
