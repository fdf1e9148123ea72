"""Assigning tasks to workers, by the same rules for processes of this machine and of a cluster."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Generic, final

from hiper.engines.base import TRIES, Answer, R, T, Task, TaskResult
from hiper.errors import HiperError, Interrupted, TimeLimitError, WorkerDiedError
from hiper.training import StopRequest

SECONDS_BETWEEN_LOOKS = 0.2


class WorkerDied(Exception):
    """The worker has died."""


class Worker(ABC):
    """One worker process somewhere. `ready` once it has answered for the first time."""

    def __init__(self) -> None:
        self.ready = False
        self.task: Task[Any] | None = None
        self.deadline: float | None = None

    @abstractmethod
    def give(self, payload: Any) -> None:
        """Send one payload to a ready worker that has none."""

    @abstractmethod
    def hear(self) -> Answer[Any] | None:
        """Return its answer, None when it is only ready; WorkerDied when it has died."""

    @abstractmethod
    def end(self) -> None:
        """End it at once."""


class WorkerFactory(ABC):
    """Where workers come from."""

    @abstractmethod
    def room(self) -> int:
        """Return how many workers there may be now."""

    @abstractmethod
    def start(self) -> Worker:
        """Start one, without waiting until it is ready."""

    @abstractmethod
    def shutdown(self, members: Sequence[Worker]) -> None:
        """End all workers; those that can stop by themselves are given time to."""

    @abstractmethod
    def poll(self, members: Sequence[Worker], seconds: float) -> list[Worker]:
        """Return those that have answered or died, after waiting for the first at most `seconds`."""


@final
class WorkerPool(Generic[T, R]):
    """The workers of one run. A worker has one task at a time; what is not under way waits in the queue."""

    def __init__(self, factory: WorkerFactory) -> None:
        self._fleet = factory
        self._members: list[Worker] = []
        self._failed_starts = 0

    def run(self, tasks: deque[Task[T]], should_stop: StopRequest) -> Iterator[TaskResult[T, R]]:
        """Run tasks as `Engine.run` says, and leave no worker behind."""
        try:
            while tasks or self._busy():
                self._spawn_worker(len(tasks))
                self._assign(tasks)
                for member in self._fleet.poll(self._members, SECONDS_BETWEEN_LOOKS):
                    yield from self._received(member, tasks)
                yield from self._overdue()
                if signal_number := should_stop():
                    raise Interrupted(f"stopped by signal {signal_number}", signal_number)
        finally:
            self._fleet.shutdown(self._members)

    def _busy(self) -> int:
        return sum(member.task is not None for member in self._members)

    def _spawn_worker(self, waiting: int) -> None:
        room = self._fleet.room()
        if room < 1 and not self._members:
            raise HiperError("there is no room for a single worker; ask for less per worker, or add machines")
        wanted = min(room, waiting + self._busy())
        while len(self._members) < wanted:
            self._members.append(self._fleet.start())

    def _assign(self, tasks: deque[Task[T]]) -> None:
        for member in self._members:
            if tasks and member.ready and member.task is None:
                task = member.task = tasks.popleft()
                member.deadline = None if task.seconds is None else time.monotonic() + task.seconds
                member.give(task.payload)

    def _received(self, member: Worker, tasks: deque[Task[T]]) -> Iterator[TaskResult[T, R]]:
        try:
            answer = member.hear()
        except WorkerDied:
            yield from self._lost(member, tasks)
            return
        member.ready, self._failed_starts = True, 0
        if answer is None:
            return
        if isinstance(answer.error, Interrupted):
            raise answer.error
        assert member.task is not None
        task, member.task = member.task, None
        yield TaskResult(task=task, value=answer.value, error=answer.error, notes=answer.notes)

    def _lost(self, member: Worker, tasks: deque[Task[T]]) -> Iterator[TaskResult[T, R]]:
        """Remove a dead worker and queue its task again, unless it is the task that workers die of."""
        self._dismiss(member)
        if member.task is None:
            self._failed_starts += not member.ready
            if self._failed_starts == TRIES:
                raise HiperError(f"{TRIES} workers died before they were ready; is memory short?")
            return
        task = member.task.died()
        if task.deaths < TRIES:
            tasks.appendleft(task)
            return
        error = WorkerDiedError(f"{TRIES} workers died of it (killed, or out of memory?)")
        yield TaskResult(task=task, value=None, error=error)

    def _overdue(self) -> Iterator[TaskResult[T, R]]:
        now = time.monotonic()
        for member in [m for m in self._members if m.task and m.deadline is not None and now > m.deadline]:
            self._dismiss(member)
            assert member.task is not None
            error = TimeLimitError(f"took longer than the {member.task.seconds:.4g} s that it was allowed")
            yield TaskResult(task=member.task, value=None, error=error)

    def _dismiss(self, member: Worker) -> None:
        self._members.remove(member)
        member.end()
