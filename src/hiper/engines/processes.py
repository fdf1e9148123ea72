"""The engine of one machine: worker processes, each with its share of the threads; one that dies is replaced."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, final

import torch

from hiper.engines.base import Answer, Engine, MakeWork, R, T, Task, TaskResult, perform_remotely
from hiper.engines.devices import VARIABLE
from hiper.engines.pool import Worker, WorkerDied, WorkerFactory, WorkerPool
from hiper.engines.worker import prepare
from hiper.training import StopRequest

_SECONDS_TO_END = 10.0
_CAN_MASK = hasattr(signal, "pthread_sigmask")


@final
class Processes(Engine):
    """Runs tasks by processes of this machine.

    Args:
        workers: Processes at a time.
        memory_limit: GiB of each.
        devices: The GPU that each sees; () for all.
    """

    def __init__(
        self, workers: int, *, memory_limit: float | None = None, devices: Sequence[str] = ()
    ) -> None:
        self._workers, self._memory_limit, self._devices = workers, memory_limit, devices

    def run(
        self, tasks: deque[Task[T]], make_work: MakeWork[T, R], should_stop: StopRequest
    ) -> Iterator[TaskResult[T, R]]:
        factory = _ProcessWorkerFactory(
            self._workers, make_work, self._memory_limit, should_stop, self._devices
        )
        yield from WorkerPool[T, R](factory).run(tasks, should_stop)


class _ProcessWorkerFactory(WorkerFactory):
    """Processes started afresh; a shared number tells all of them to stop."""

    def __init__(
        self,
        workers: int,
        make_work: MakeWork[Any, Any],
        memory_limit: float | None,
        should_stop: StopRequest,
        devices: Sequence[str],
    ) -> None:
        self._should_stop = should_stop
        self._free = list(devices)
        self._context = multiprocessing.get_context("spawn")
        self._stop = self._context.Value("i", 0)
        self._workers = workers
        threads = max(1, torch.get_num_threads() // workers)
        self._arguments = (make_work, self._stop, threads, memory_limit)

    def room(self) -> int:
        return self._workers

    def start(self) -> _Process:
        ours, theirs = self._context.Pipe()
        device = self._free.pop(0) if self._free else None
        arguments = (theirs, device, *self._arguments)
        process = self._context.Process(target=_serve, args=arguments, daemon=True)
        with _interrupts_blocked():
            process.start()
        theirs.close()
        return _Process(process, ours, lambda: self._free.extend([device] if device is not None else []))

    def poll(self, members: Sequence[Worker], seconds: float) -> list[Worker]:
        processes = [member for member in members if isinstance(member, _Process)]
        ready = wait([each.connection for each in processes], seconds)
        return [each for each in processes if each.connection in ready]

    def shutdown(self, members: Sequence[Worker]) -> None:
        self._stop.value = self._should_stop() or signal.SIGINT
        processes = [member for member in members if isinstance(member, _Process)]
        for process in processes:
            process.connection.close()  # who waits for a task reads the end of them
        for process in processes:
            process.join(_SECONDS_TO_END)
            process.end()


class _Process(Worker):
    def __init__(self, process: SpawnProcess, connection: Connection, on_end: Callable[[], None]) -> None:
        super().__init__()
        self._process, self.connection, self._on_end = process, connection, on_end

    def give(self, payload: Any) -> None:
        with suppress(BrokenPipeError):  # it has just died, as `hear` will tell
            self.connection.send(payload)

    def hear(self) -> Answer[Any] | None:
        try:
            answer: Answer[Any] | None = self.connection.recv()
        except (EOFError, OSError) as error:
            raise WorkerDied from error
        return answer

    def join(self, seconds: float) -> None:
        self._process.join(seconds)

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()
        self._on_end()  # whoever comes in its place takes its device


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes started meanwhile never see a Ctrl-C, which reaches all of a terminal's: `stop` tells them.

    Windows masks no signals; there each worker ignores it.
    """
    if not _CAN_MASK:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(
    connection: Connection,
    device: str | None,
    make_work: MakeWork[Any, Any],
    stop: Any,
    threads: int,
    memory_limit: float | None,
) -> None:
    """Work until there are no more tasks."""
    if not _CAN_MASK:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if device is not None:  # before anything asks for a GPU
        os.environ[VARIABLE] = device
    threading.Thread(target=_end_with_parent, daemon=True).start()
    prepare(threads, memory_limit)
    work = make_work(lambda: stop.value or None)
    with suppress(EOFError, BrokenPipeError):  # the run is over
        connection.send(None)
        while True:
            connection.send(perform_remotely(work, connection.recv()))


def _end_with_parent() -> None:
    """End this process when its parent is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
