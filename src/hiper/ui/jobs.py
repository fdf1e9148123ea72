"""One piece of work in a thread of its own, watched and stopped from outside."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar, final

T = TypeVar("T")


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
class Job(Generic[T]):
    """Runs `work` in a thread as soon as `turn` is free; what it returns or raises is told by `result`."""

    def __init__(self, work: Callable[[Job[T]], T], turn: threading.Lock) -> None:
        self.progress = Progress()
        self._work, self._turn = work, turn
        self._stop = threading.Event()
        self._value: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="hiper-job", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask the work to end at its next step."""
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
        with self._turn:
            try:
                if self._stop.is_set():
                    raise Stopped
                self._value.append(self._work(self))
            except BaseException as error:  # noqa: BLE001  # raised again by `result`, in the thread that asks
                self._error = error
