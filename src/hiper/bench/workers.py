"""A run in several processes: each loads a model of its own and takes one subject after the other."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from hiper.bench.records import Run
from hiper.bench.work import Job, Workshop
from hiper.errors import HiperError, HiperWarning, Interrupted
from hiper.fitting import StopRequest

_SECONDS_BETWEEN_LOOKS = 0.2


@dataclass(frozen=True, kw_only=True)
class _Settled:
    """What a worker reports of one subject: pictures drawn, and what the user should know."""

    drawn: int
    notes: tuple[str, ...]


def run_in_processes(
    job: Job,
    run: Run,
    subjects: Sequence[str],
    jobs: int,
    report: Callable[[int], None],
    should_stop: StopRequest,
) -> int:
    """Draw the subjects in `jobs` processes and return the number of cells drawn.

    HiperError when a process dies, Interrupted after `should_stop`, and whatever a process raises.
    """
    context = multiprocessing.get_context("spawn")
    stop, settled = context.Value("i", 0), context.Value("i", 0)
    threads = max(1, torch.get_num_threads() // jobs)
    with ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_begin, initargs=(job, run, threads, stop, settled)
    ) as pool:
        with _interrupts_blocked():
            futures = [pool.submit(_draw, subject) for subject in subjects]
        try:
            _watch(futures, stop, lambda: report(settled.value), should_stop)
        except BrokenProcessPool as error:
            raise _death(should_stop) from error
        finally:
            stop.value = stop.value or signal.SIGINT  # lets the others end soon, whatever went wrong
            pool.shutdown(cancel_futures=True)
    return sum(future.result().drawn for future in futures)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes started meanwhile never see a Ctrl-C, which reaches all of a terminal's: `stop` tells them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watch(
    futures: Sequence[Future[_Settled]], stop: Any, report: Callable[[], None], should_stop: StopRequest
) -> None:
    """Wait for all, or for the first to fail; raise what it raised."""
    pending = set(futures)
    while pending:
        done, pending = wait(pending, _SECONDS_BETWEEN_LOOKS, FIRST_EXCEPTION)
        stop.value = should_stop() or 0
        report()
        for future in done:
            for note in future.result().notes:
                warnings.warn(note, HiperWarning, stacklevel=3)


def _death(should_stop: StopRequest) -> HiperError:
    """Who stops a whole group of processes at once does not wonder that they have died."""
    if signal_number := should_stop():
        return Interrupted(f"stopped by signal {signal_number}", signal_number)
    return HiperError(
        "a process of this run died (killed, or out of memory?); what it finished stays:"
        " the same command goes on from there, with fewer --jobs if memory was short"
    )


class _Worker:
    """What one process keeps from subject to subject; the model is loaded when the first one comes."""

    job: Job
    run: Run
    stop: Any
    settled: Any
    workshop: Workshop | None = None


def _begin(job: Job, run: Run, threads: int, stop: Any, settled: Any) -> None:
    """Nobody draws on for a parent that is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.disable()
    torch.set_num_threads(threads)
    _Worker.job, _Worker.run, _Worker.stop, _Worker.settled = job, run, stop, settled


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _draw(subject: str) -> _Settled:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", HiperWarning)
        if _Worker.workshop is None:
            _Worker.workshop = Workshop.load(_Worker.job, _Worker.run, lambda: _Worker.stop.value or None)
        drawn = _Worker.workshop.draw(subject, _count)
    return _Settled(drawn=drawn, notes=tuple(dict.fromkeys(str(each.message) for each in caught)))


def _count(cells: int) -> None:
    with _Worker.settled.get_lock():
        _Worker.settled.value += cells
