"""Sessions of the page: the job of each, one at a time on one model, and its files."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, final

from hiper.errors import UserError
from hiper.web.jobs import BackgroundJob, JobQueue

T = TypeVar("T")
MOST = 64
"""Jobs at a time; more are refused."""
_REMEMBERED = 1000
"""The last ended sessions, whose jobs may still be about to start."""


@final
class Sessions:
    """Sessions by the name that the browser's tab has chosen, which is never part of a path."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._line = JobQueue()
        self._jobs: dict[str, BackgroundJob[Any]] = {}
        self._asked: dict[str, threading.Event] = {}
        self._gone: deque[str] = deque(maxlen=_REMEMBERED)
        self._folders: dict[str, Path] = {}

    def ask(self, session: str) -> None:
        """Note that a session asks for a job; from now on `stop` stops it, though it may take long to `start`."""
        if session in self._gone:  # a connection was lost, and is there again
            self._gone.remove(session)
        self.stop(session)
        self._asked[session] = threading.Event()

    def start(self, session: str, work: Callable[[BackgroundJob[T]], T]) -> BackgroundJob[T]:
        """Start a job as soon as the model is free; an earlier one of the same session is stopped.

        One that was stopped since `ask`, or whose session has ended, ends at once.

        Raises:
            UserError: `MOST` jobs are there already.
        """
        stop = self._asked.pop(session, None) or threading.Event()
        self.stop(session)
        if session in self._gone:
            stop.set()
        if sum(not job.wait(0) for job in list(self._jobs.values())) >= MOST:
            raise UserError(f"{MOST} jobs wait for the model already; try again when some of them are done")
        job = BackgroundJob(work, self._line, stop)
        self._jobs[session] = job
        return job

    def stop(self, session: str) -> BackgroundJob[Any] | None:
        """Ask the session's job to stop, also one that is about to start; return it, or None."""
        if session in self._asked:
            self._asked[session].set()
        job = self._jobs.pop(session, None)
        if job is not None:
            job.stop()
        return job

    def forget(self, session: str) -> None:
        """Stop the job of a session that has ended, and remove its files."""
        self._gone.append(session)
        job = self.stop(session)
        self._asked.pop(session, None)
        if job is not None:
            job.wait()
        folder = self._folders.pop(session, None)
        if folder is not None:
            shutil.rmtree(folder)

    def close(self) -> None:
        """Stop everybody's job and wait for the ends."""
        for job in [self.stop(session) for session in list(self._jobs)]:
            if job is not None:
                job.wait()

    def new_folder(self, session: str) -> Path:
        """Return a new folder inside the session's own; neither name can be guessed."""
        if session not in self._folders:
            self._folders[session] = Path(tempfile.mkdtemp(dir=self._scratch))
        return Path(tempfile.mkdtemp(dir=self._folders[session]))
