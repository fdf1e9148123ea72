"""The engine without processes: one worker, which is this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import final

from hiper.engines.base import Engine, MakeWork, R, T, Task, TaskResult, perform
from hiper.errors import Interrupted, OptionError
from hiper.training import StopRequest


@final
class InProcessEngine(Engine):
    """Does one task after the other; it cannot end one that takes too long."""

    def run(
        self, tasks: deque[Task[T]], make_work: MakeWork[T, R], should_stop: StopRequest
    ) -> Iterator[TaskResult[T, R]]:
        work = make_work(should_stop)
        while tasks:
            task = tasks.popleft()
            if task.seconds is not None:
                raise OptionError("a time limit needs workers in processes of their own")
            answer = perform(work, task.payload)
            if isinstance(answer.error, Interrupted):
                raise answer.error
            yield TaskResult(task=task, value=answer.value, error=answer.error, notes=answer.notes)
            if signal_number := should_stop():
                raise Interrupted(f"stopped by signal {signal_number}", signal_number)
