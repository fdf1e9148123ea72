"""The outcome of one of several pieces of work, whose errors do not concern the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from hiper.errors import HiperError, Interrupted
from hiper.notes import collected_warnings

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[T]):
    """A result, or the error in its place, and the text of every `HiperWarning` on the way."""

    result: T | HiperError
    notes: tuple[str, ...]


def capture(work: Callable[[], T]) -> Outcome[T]:
    """Return what `work` returns or the HiperError it raises; Interrupted and all else is raised."""
    with collected_warnings() as notes:
        try:
            result: T | HiperError = work()
        except Interrupted:
            raise
        except HiperError as error:
            result = error
    return Outcome(result=result, notes=tuple(notes))
