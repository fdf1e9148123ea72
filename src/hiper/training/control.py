"""Callbacks, checkpoints and the stopping of a fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from hiper.errors import Interrupted
from hiper.training.checkpoint import CheckpointFile


@dataclass(frozen=True, kw_only=True)
class ProgressEvent:
    """How far a fit has come: steps done, steps in all, mean loss since the last record, seconds so far."""

    step: int
    steps: int
    loss: float
    seconds: float


Callback = Callable[[ProgressEvent], None]
StopRequest = Callable[[], int | None]
"""Returns the number of the signal by which a job is to end, or None."""


class FitPaused(Exception):
    """A fit has saved itself at the step it was asked to pause at; it resumes from its checkpoint."""


@final
@dataclass(frozen=True, kw_only=True)
class FitControl:
    """Who follows a fit, where it is saved, and what ends it.

    Attributes:
        callback: Called with a `ProgressEvent` every few steps.
        checkpoint: Where a long fit saves itself, and whether it resumes from there.
        should_stop: Asked as often; a signal number saves and ends the fit.
        pause_at: After so many steps the fit saves itself and raises `FitPaused`.
    """

    callback: Callback | None = None
    checkpoint: CheckpointFile | None = None
    should_stop: StopRequest | None = None
    pause_at: int | None = None

    def report(self, record: ProgressEvent) -> None:
        """Pass a record on."""
        if self.callback is not None:
            self.callback(record)

    def stop_signal(self) -> int | None:
        """Return the number of the signal by which the fit is to end, or None."""
        return self.should_stop() if self.should_stop is not None else None

    def raise_if_stopped(self) -> None:
        """Raise Interrupted if the fit is to end now, with nothing to save."""
        if signal_number := self.stop_signal():
            raise Interrupted(f"stopped by signal {signal_number}", signal_number)


NO_CONTROL = FitControl()
