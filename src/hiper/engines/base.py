"""The interface of an engine: tasks in, results out as they finish, whatever happens to the workers."""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from hiper.errors import HiperError, MemoryLimitError
from hiper.files import is_out_of_memory
from hiper.notes import collected_warnings
from hiper.training import StopRequest

TRIES = 3
"""Workers that a task may outlive before it is given up."""

T = TypeVar("T")
R = TypeVar("R")

Work = Callable[[T], R]
MakeWork = Callable[[StopRequest], Work[T, R]]
"""Called once in every worker, whose model it may load; what it returns is called with one payload after the
other. It, payloads and results travel between processes."""


@dataclass(frozen=True, kw_only=True)
class Task(Generic[T]):
    """One piece of work.

    Attributes:
        payload: What a worker is called with.
        seconds: How long it may take; None for any time.
        deaths: Workers that have died of it so far.
    """

    payload: T
    seconds: float | None = None
    deaths: int = 0

    def died(self) -> Task[T]:
        """The same after one more worker has died of it."""
        return replace(self, deaths=self.deaths + 1)


@dataclass(frozen=True, kw_only=True)
class TaskResult(Generic[T, R]):
    """The result of a task: a value or the error in its place, and the warnings of its worker."""

    task: Task[T]
    value: R | None
    error: Exception | None = None
    notes: tuple[str, ...] = ()

    def unwrapped(self) -> R:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        assert self.value is not None
        return self.value


class Engine(ABC):
    """Runs tasks by workers. Subclasses are final."""

    @abstractmethod
    def run(
        self, tasks: deque[Task[T]], make_work: MakeWork[T, R], should_stop: StopRequest
    ) -> Iterator[TaskResult[T, R]]:
        """Run tasks, from the left of the queue, as workers get free.

        A worker holds one task at a time. A task whose worker dies goes to another one, to three in all.

        Args:
            tasks: May grow while the results are read.
            make_work: Called once in every worker.
            should_stop: Returns the number of a signal to stop by.

        Yields:
            The result of each task, as they finish.

        Raises:
            Interrupted: `should_stop` said so.
            HiperError: No worker can be started.
        """


@dataclass(frozen=True, kw_only=True)
class Answer(Generic[R]):
    """What a worker sends back."""

    value: R | None
    error: Exception | None
    notes: tuple[str, ...]


class RemoteError(Exception):
    """What a worker raised that nobody foresaw; its text is the traceback there."""


def perform(work: Work[T, R], payload: T) -> Answer[R]:
    """Do one task; what it raises is returned, for a worker outlives its tasks."""
    value: R | None = None
    error: Exception | None = None
    with collected_warnings() as notes:
        try:
            value = work(payload)
        except Exception as raised:  # noqa: BLE001  # for whoever reads the answer
            error = _explained(raised)
    return Answer(value=value, error=error, notes=tuple(notes))


def perform_remotely(work: Work[T, R], payload: T) -> Answer[R]:
    """Like `perform`, but fit to be sent to another process."""
    answer = perform(work, payload)
    if answer.error is None or isinstance(answer.error, HiperError):
        return answer
    return replace(answer, error=RemoteError("".join(traceback.format_exception(answer.error)).rstrip()))


def _explained(error: Exception) -> Exception:
    """Report a lack of memory as such, which libraries raise as errors of many kinds."""
    if isinstance(error, HiperError) or not is_out_of_memory(error):
        return error
    reason = (str(error).splitlines() or ["MemoryError"])[0]
    explained = MemoryLimitError(f"out of memory ({reason[:200]}); allow more, or choose a smaller task")
    explained.__cause__ = error
    return explained
