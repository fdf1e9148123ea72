"""Ctrl-C and SIGTERM: the first one stops and saves, the second one ends the process at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import final

from hiper.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


SAME_COMMAND = "finished work is kept; the same command continues from there"


class Stopped(BaseException):
    """Raised by a signal wherever the program is; no `except Exception` of a library holds it up."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number
        self.exit_status = 128 + signal_number


@final
class Stop:
    """Whether a signal has arrived; `catch_signals` makes one."""

    def __init__(self) -> None:
        self._received: int | None = None
        self._deferred = self._waits = False

    @contextmanager
    def deferred(self, *, once_asked: bool = False) -> Iterator[None]:
        """Let work that calls `requested` by itself stop at a point where it can be saved.

        Args:
            once_asked: Only from its first call on; until then there is nothing to save, and it is stopped at once.
        """
        self._deferred, self._waits = not once_asked, once_asked
        try:
            yield
        finally:
            self._deferred = self._waits = False

    def requested(self) -> int | None:
        """Return the number of the signal that has arrived, None so far."""
        self._deferred |= self._waits
        return self._received

    def raise_if_requested(self) -> None:
        """Raise Stopped when a signal arrived while stopping was deferred."""
        if self._received is not None:
            raise Stopped(self._received)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal; from now on the next one ends the process, also in the middle of a long call."""
        self._received = number
        for each in SIGNALS:
            if signal.getsignal(each) == self.receive:
                signal.signal(each, signal.SIG_DFL)
        if not self._deferred:
            raise Stopped(number)
        with suppress(OSError):  # a closed stderr must not keep us from saving
            # print() may be what the signal has interrupted, and cannot be entered twice
            os.write(2, b"hiper: stopping after this step; press again to stop at once, unsaved\n")


@contextmanager
def advising(advice: str) -> Iterator[None]:
    """End the message of an `Interrupted` by how to go on."""
    try:
        yield
    except Interrupted as stopped:
        raise Interrupted(f"{stopped}; {advice}", stopped.signal_number) from stopped


@contextmanager
def catch_signals() -> Iterator[Stop]:
    """Handle the signals while the block runs, but those that the caller has us ignore (nohup, `&`)."""
    stop = Stop()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, stop.receive)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
