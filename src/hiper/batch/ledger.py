"""The status of every job, from earlier runs and from this one."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, final

from hiper.batch.jobs import Asked
from hiper.batch.messages import RECORD, RECORD_SCHEMA, PlannedJob
from hiper.batch.results import as_json
from hiper.batch.store import Store
from hiper.engines import RemoteError
from hiper.errors import HiperError
from hiper.files import parse_json

Status = Literal["done", "reused", "failed", "waiting"]


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """The status of one job.

    Attributes:
        name: The job's.
        status: Done in this run, reused from an earlier one, failed in either, or waiting, which is not tried.
        place: Of its results; "" unless they are there.
        kind: The name of the error.
        reason: Why it failed, in one line.
        notes: Of a job done in this run; the records of earlier ones keep theirs.
    """

    name: str
    status: Status
    place: str = ""
    kind: str = ""
    reason: str = ""
    notes: tuple[str, ...] = ()


@final
class Ledger:
    """One entry for each different job. A failure is the file failed/<id>.json until the job is done."""

    def __init__(self, store: Store, asked: Iterable[Asked]) -> None:
        self._store = store
        self.asked = {each.id: each for each in asked}
        self.entries: dict[str, LedgerEntry] = {}
        self._sizes = store.sizes()
        self._redone: dict[str, str] = {}

    def count_finished(self) -> int:
        """Return how many jobs are decided."""
        return len(self.entries)

    def has_failed(self, identity: str) -> bool:
        """Return whether an earlier run recorded the job's failure."""
        return _failure(identity) in self._sizes

    def is_done(self, planned: PlannedJob) -> bool:
        """Return whether all files of the job are there, as its record says; a damaged job is one that never was."""
        record = f"{planned.place}/{RECORD}"
        if record not in self._sizes:
            return False
        damaged = self._damaged(planned, _read(self._store.read(record)))
        if damaged is not None:
            self._store.remove(record)
            del self._sizes[record]
            self._redone[planned.place] = f"done again, for {damaged} was damaged or gone"
        return damaged is None

    def _damaged(self, planned: PlannedJob, record: Mapping[str, Any]) -> str | None:
        """Return the first file that is not as long as the record says; those of earlier releases say nothing."""
        promised = record.get("bytes", self._sizes)
        if record.get("key") != planned.key or not isinstance(promised, dict):
            return f"{planned.place}/{RECORD}"
        sizes = {each: self._sizes.get(each, 0) for each in planned.files()[:-1]}
        return next((each for each, size in sizes.items() if size == 0 or size != promised.get(each)), None)

    def keep_failure(self, identity: str, key: str) -> bool:
        """Take over an earlier failure of the very same job and content, if there is one."""
        if not self.has_failed(identity):
            return False
        record = _read(self._store.read(_failure(identity)))
        if record.get("key") != key:
            return False
        self._enter(identity, "failed", kind=str(record.get("error")), reason=str(record.get("reason")))
        return True

    def done(self, identity: str, place: str, *, reused: bool, notes: tuple[str, ...] = ()) -> None:
        """Enter a job whose results are there."""
        if self.has_failed(identity):
            self._store.remove(_failure(identity))
        again = [self._redone[place]] if place in self._redone else []
        self._enter(identity, "reused" if reused else "done", place=place, notes=(*again, *notes))

    def fail(self, identity: str, error: Exception, *, key: str = "", deaths: int = 0) -> None:
        """Enter and record a job that cannot be done."""
        kind, reason, trace = _described(error)
        record = {
            "schema": RECORD_SCHEMA,
            "status": "failed",
            "key": key,
            "job": self.asked[identity].as_record(),
            "error": kind,
            "reason": reason,
            "traceback": trace,
            "workers_died": deaths,
            "failed": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self._store.write(_failure(identity), as_json(record))
        self._enter(identity, "failed", kind=kind, reason=reason)

    def wait(self, identity: str) -> None:
        """Enter a job that this run leaves alone, or did not come to."""
        self._enter(identity, "waiting")

    def _enter(self, identity: str, status: Status, **more: Any) -> None:
        self.entries[identity] = LedgerEntry(name=self.asked[identity].name, status=status, **more)


def _failure(identity: str) -> str:
    return f"failed/{identity}.json"


def _read(data: bytes) -> dict[str, Any]:
    """Return a record; empty where it is damaged, so that its job is tried again and the others go on."""
    try:
        record = parse_json(data)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _described(error: Exception) -> tuple[str, str, str | None]:
    """Return an error's name, its reason in one line, and the traceback of one that nobody foresaw."""
    if isinstance(error, HiperError):
        return type(error).__name__, str(error), None
    trace = str(error) if isinstance(error, RemoteError) else "".join(traceback.format_exception(error))
    last = trace.rstrip().splitlines()[-1]
    return "UnexpectedError", last[:300], trace
