"""The command line in processes of their own, which can be killed, starved and cut off.

They are forked from a server that has the libraries loaded, for loading them takes seconds each time.
"""

from __future__ import annotations

import multiprocessing
import os
import pty
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

SECONDS = 180.0
"""After which a test gives up waiting."""

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["hiper.artifacts.cache", "hiper.cli.app", "hiper.inference.editing", "hiper.methods.hiper", "tests.tiny"]
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a command ended; the status is negative after a signal that killed it."""

    status: int
    out: str
    err: str

    def refusal(self, *words: str) -> str:
        """The one line by which a user's mistake is refused."""
        assert self.status == 2, self
        assert self.out == ""
        assert self.err.startswith("hiper: ")
        assert self.err.count("\n") == 1, self.err
        for word in words:
            assert word in self.err
        return self.err


class Running:
    """A command under way; its output goes to two files."""

    def __init__(self, process: ForkServerProcess, out: Path, err: Path) -> None:
        self._process, self._out, self._err = process, out, err

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for something to happen while the command still runs."""
        end = time.monotonic() + SECONDS
        while not condition():
            assert self._process.is_alive(), self.wait()
            assert time.monotonic() < end
            time.sleep(0.005)

    def wait_for_error(self, text: str) -> None:
        self.wait_until(lambda: self._err.exists() and text in self._err.read_text())

    def wait(self) -> Outcome:
        self._process.join(SECONDS)
        assert self._process.exitcode is not None, "still running"
        out, err = (path.read_text() if path.is_file() else "" for path in (self._out, self._err))
        return Outcome(status=self._process.exitcode, out=out, err=err)


def start(
    folder: Path,
    *arguments: str | Path,
    environment: Mapping[str, str] | None = None,
    out: Path | None = None,
    err: Path | None = None,
) -> Running:
    """Start `hiper` with a cache in `folder`; its output goes to files there, or to `out` and `err`."""
    number = sum(1 for _ in folder.glob("*.out"))
    files = (out or folder / f"{number}.out", err or folder / f"{number}.err")
    variables = {"HIPER_CACHE": str(folder / "cache"), **(environment or {})}
    words = [str(argument) for argument in arguments]
    process = _CONTEXT.Process(target=_command, args=(words, variables, files))
    process.start()
    return Running(process, *files)


def forked(function: Callable[..., None], *arguments: object) -> int | None:
    """Run a function in a process that has the libraries loaded, and return its exit status."""
    process = _CONTEXT.Process(target=function, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def run(folder: Path, *arguments: str | Path) -> Outcome:
    """Run `hiper` to its end."""
    return start(folder, *arguments).wait()


@contextmanager
def terminal() -> Iterator[tuple[Path, list[bytes]]]:
    """Yield the device of a terminal, and what is shown on it so far."""
    ours, theirs = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        with suppress(OSError):  # nobody holds the other end any more
            while data := os.read(ours, 65536):
                shown.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield Path(os.ttyname(theirs)), shown
    finally:
        os.close(theirs)
        reader.join()
        os.close(ours)


def _command(arguments: list[str], variables: dict[str, str], files: tuple[Path, Path]) -> None:
    import torch

    from hiper.cli import main

    os.environ.update(variables)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background has it ignored
    for stream, path in zip((1, 2), files, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115  # as the interpreter does at its start
    torch.set_num_threads(1)
    sys.exit(main(arguments))
