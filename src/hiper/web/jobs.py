"""Jobs in threads of their own, which wait for their turn, report their progress, and can be stopped."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar, final

from hiper.errors import Interrupted

T = TypeVar("T")
_LOOK = 0.1
"""Seconds after which a waiting job checks whether it was stopped."""


SLICE = 60.0
"""Seconds after which a job yields to those that wait, and queues behind them."""


class JobStopped(Exception):
    """Raised inside a job that was asked to stop, wherever it reports its progress."""


class _GaveWay(Exception):
    """Raised inside a job whose slice is over; its work is called again in its next turn."""


@final
class JobProgress:
    """The progress of a job: its stage, steps done and in all, and the seconds left."""

    def __init__(self) -> None:
        self.stage, self.done, self.total, self.reports = "", 0, 0, 0
        self._first, self._begun = 0, time.monotonic()

    def report(self, stage: str, done: int, total: int) -> None:
        """Note progress; a new stage restarts the clock."""
        if stage != self.stage:
            self._first, self._begun = done, time.monotonic()
        self.stage, self.done, self.total = stage, done, total
        self.reports += 1

    @property
    def seconds_left(self) -> float | None:
        """At the pace of this stage so far; None while it is not known."""
        if self.done <= self._first:
            return None
        pace = (time.monotonic() - self._begun) / (self.done - self._first)
        return pace * (self.total - self.done)


@final
class JobQueue:
    """First come, first served, one at a time; those that wait may be cancelled."""

    def __init__(self) -> None:
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    def is_wanted(self) -> bool:
        """Whether others wait for the one whose turn it is."""
        return len(self._waiting) > 1

    def before(self, waiting: object) -> int:
        """Return how many come before `waiting`."""
        return next((place for place, each in enumerate(tuple(self._waiting)) if each is waiting), 0)

    @contextmanager
    def turn(self, waiting: object, leaves: threading.Event) -> Iterator[None]:
        """Wait for the turn of `waiting` and hold it while the block runs.

        Raises:
            JobStopped: `leaves` was set before the turn came.
        """
        with self._changed:
            self._waiting.append(waiting)
        try:
            with self._changed:
                while self._waiting[0] is not waiting and not leaves.is_set():
                    self._changed.wait(_LOOK)
            if leaves.is_set():
                raise JobStopped
            yield
        finally:
            with self._changed:
                self._waiting.remove(waiting)
                self._changed.notify_all()


@final
class BackgroundJob(Generic[T]):
    """Runs work in a thread when its turn comes; `result` returns or raises what the work did.

    Work that others wait for yields after a slice of time, wherever it calls `stop_request` or `give_way`, and is
    called again in its next turn: it resumes from what it has kept.

    Args:
        work: What to do.
        line: Where to wait for a turn.
        stop: Set when the work is to end.
    """

    def __init__(
        self, work: Callable[[BackgroundJob[T]], T], line: JobQueue, stop: threading.Event | None = None
    ) -> None:
        self.progress = JobProgress()
        self._work, self._line = work, line
        self._stop = stop or threading.Event()
        self._turn_ends, self._reports_before, self._pauses = 0.0, 0, False
        self._value: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="hiper-job", daemon=True)
        self._thread.start()

    @property
    def before(self) -> int:
        """How many jobs come first; 0 when it runs, or has run."""
        return self._line.before(self)

    def stop(self) -> None:
        """Ask the work to end at its next step, or not to begin."""
        self._stop.set()

    def stop_request(self) -> int | None:
        """Return the signal by which a fit is to end or to yield (a `hiper.training.StopRequest`)."""
        self._pauses = not self._stop.is_set() and self._gives_way()
        return int(signal.SIGINT) if self._stop.is_set() or self._pauses else None

    def report(self, stage: str, done: int, total: int) -> None:
        """Note progress from inside the work; raises JobStopped there once `stop` was called."""
        self.progress.report(stage, done, total)
        self.check()

    def check(self) -> None:
        """Raise JobStopped inside the work once `stop` was called."""
        if self._stop.is_set():
            raise JobStopped

    def give_way(self) -> None:
        """Leave the work until its next turn if others wait and its slice is over."""
        if self._gives_way():
            raise _GaveWay

    def _gives_way(self) -> bool:
        """Whether to yield; never before progress in this turn: two jobs that prepare for long would never advance."""
        is_over = self.progress.reports > self._reports_before and time.monotonic() > self._turn_ends
        return is_over and self._line.is_wanted()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end, at most so long; return whether it has come."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def ticks(self, seconds: float) -> Iterator[None]:
        """Yield every so many seconds until the end; leaving early stops the work."""
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
            while not self._has_finished():
                pass
        except BaseException as error:  # noqa: BLE001  # raised again by `result`, in the thread that asks
            self._error = error

    def _has_finished(self) -> bool:
        """Work for one turn; return whether nothing is left to do."""
        with self._line.turn(self, self._stop):
            self._turn_ends, self._reports_before = time.monotonic() + SLICE, self.progress.reports
            try:
                self._value.append(self._work(self))
            except _GaveWay:
                return False
            except Interrupted:
                if not self._pauses:
                    raise
                return False
        return True
