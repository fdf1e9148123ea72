"""The engine of a cluster: Ray actors, one per GPU or per so many cores, each holding a model."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from functools import cache, partial
from importlib import import_module
from typing import Any, final

from hiper.engines.base import Answer, Engine, MakeWork, R, T, Task, TaskResult, Work, perform_remotely
from hiper.engines.pool import Worker, WorkerDied, WorkerFactory, WorkerPool
from hiper.engines.reachable import check_reachable
from hiper.engines.worker import environment, prepare
from hiper.errors import HiperError, OptionError
from hiper.training import StopRequest

_OBJECT_STORE_BYTES = 100 * 2**20  # tasks and answers are a few KB
_PATIENCE = {"RAY_gcs_server_port_wait_time_s": "1", "RAY_py_gcs_connect_timeout_s": "20"}
"""Tries, and seconds of each, to reach a head that answers and then does not: Ray's own are 20 of 30."""
_LONGEST = 300
"""Characters of Ray's own explanation; the interesting ones may stand in its third line."""


@final
class RayEngine(Engine):
    """Runs tasks by Ray actors.

    Args:
        address: Of a running cluster; None starts one on this machine for the time of the run.
        cores_per_worker: Of a worker without a GPU, and its threads.
        memory_limit: GiB of a worker.
        gpus: One worker per GPU, where there are any.
    """

    def __init__(
        self, *, address: str | None, cores_per_worker: int, memory_limit: float | None, gpus: bool
    ) -> None:
        self._address, self._cores, self._memory_limit = address, cores_per_worker, memory_limit
        self._gpus = gpus

    def run(
        self, tasks: deque[Task[T]], make_work: MakeWork[T, R], should_stop: StopRequest
    ) -> Iterator[TaskResult[T, R]]:
        with _cluster(self._address) as ray:
            factory = _RayWorkerFactory(
                ray, partial(make_work, _never), self._cores, self._memory_limit, gpus=self._gpus
            )
            yield from WorkerPool[T, R](factory).run(tasks, should_stop)


@contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """Yield the module `ray`, connected; a cluster started here ends with the block.

    While it is up, what Ray prints on stdout goes to stderr: stdout is for results.
    """
    if address:
        check_reachable(address)
    with environment(_variables(own=address is None)), redirect_stdout(sys.stderr):
        import ray

        _forget_tokens()
        try:
            with _signals_kept():
                _connect(ray, address)
            yield ray
        finally:
            ray.shutdown()


def _forget_tokens() -> None:
    """Let Ray read the environment anew: it remembers the token, and whether there is one, of the first cluster."""
    raylet: Any = import_module("ray._raylet")
    with suppress(AttributeError):  # of releases without tokens, or that keep them elsewhere
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray answers SIGTERM by leaving at once, where others have results to finish."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _connect(ray: Any, address: str | None) -> None:
    own = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else own),
        )
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:_LONGEST]
        if address:  # other versions than ours, a client without its extra, a cluster that is no more
            raise OptionError(f"Ray at {address!r} cannot be used: {reason}") from error
        raise HiperError(f"a local Ray cannot be used: {reason}") from error


def _variables(*, own: bool) -> dict[str, str]:
    """Return Ray's environment variables: no usage reports; a cluster of our own listens here alone, to us alone."""
    always = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    if not own:
        return {**{name: os.environ.get(name, value) for name, value in _PATIENCE.items()}, **always}
    return {
        **always,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": _token(),
    }


@cache
def _token() -> str:
    """One for this process, for Ray remembers the first that it has seen."""
    return secrets.token_hex(32)


def _never() -> None:
    """Workers of a cluster are ended, not asked."""


class _RayWorkerFactory(WorkerFactory):
    def __init__(
        self, ray: Any, make_work: Any, cores: int, memory_limit: float | None, *, gpus: bool
    ) -> None:
        self._ray = ray
        self._cores = cores
        self._gpus = gpus and ray.cluster_resources().get("GPU", 0) >= 1
        requires = {"num_gpus": 1, "num_cpus": 1} if self._gpus else {"num_cpus": cores}
        self._actor = ray.remote(max_restarts=0, **requires)(_Worker)
        self._arguments = (make_work, cores, memory_limit)

    def room(self) -> int:
        there = self._ray.cluster_resources()
        return int(there.get("GPU", 0)) if self._gpus else int(there.get("CPU", 0) // self._cores)

    def start(self) -> _Actor:
        return _Actor(self._ray, self._actor.remote(*self._arguments))

    def poll(self, members: Sequence[Worker], seconds: float) -> list[Worker]:
        pending = {m.pending: m for m in members if isinstance(m, _Actor) and m.pending is not None}
        if not pending:
            return []
        ready, _ = self._ray.wait(list(pending), num_returns=1, timeout=seconds)
        return [pending[each] for each in ready]

    def shutdown(self, members: Sequence[Worker]) -> None:
        for member in members:
            member.end()


class _Actor(Worker):
    """An actor, seen from the driver; `pending` will be its next answer."""

    def __init__(self, ray: Any, handle: Any) -> None:
        super().__init__()
        self._ray, self._handle = ray, handle
        self.pending: Any = handle.ready.remote()

    def give(self, payload: Any) -> None:
        self.pending = self._handle.perform.remote(payload)

    def hear(self) -> Answer[Any] | None:
        pending, self.pending = self.pending, None
        try:
            answer: Answer[Any] | None = self._ray.get(pending)
        except self._ray.exceptions.RayError as error:  # it, its node, or what it was to be made of is lost
            raise WorkerDied from error
        return answer

    def end(self) -> None:
        self._ray.kill(self._handle)


class _Worker:
    """The actor itself."""

    def __init__(
        self, make_work: Callable[[], Work[Any, Any]], threads: int, memory_limit: float | None
    ) -> None:
        prepare(threads, memory_limit)
        self._work = make_work()

    def ready(self) -> None:
        """Answer, once all the above is done."""

    def perform(self, payload: Any) -> Answer[Any]:
        """Do one task."""
        return perform_remotely(self._work, payload)
