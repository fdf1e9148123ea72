"""`hiper batch`: from a job file to a folder of results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hiper.cli.progress import progress
from hiper.cli.requests import Session
from hiper.errors import HiperError, Interrupted, OptionError
from hiper.training import duration

if TYPE_CHECKING:
    from hiper.batch import BatchReport, BatchSettings, Defaults
    from hiper.engines import EngineSettings


@dataclass(frozen=True, kw_only=True)
class BatchRequest:
    """Which jobs, where their results go, and how they are done."""

    jobs: Path
    out: str
    defaults: Defaults
    settings: BatchSettings
    engine: EngineSettings


def run_batch(session: Session, request: BatchRequest) -> None:
    """Do what is left to do; a signal stops it between two steps, and the same command goes on from there.

    HiperError, after the results are printed, when some jobs are not done.
    """
    from hiper.batch import read_jobs, run

    asked = read_jobs(request.jobs, request.defaults)
    distinct = len({each.id for each in asked})
    if distinct < len(asked):
        session.console.note(f"{len(asked) - distinct} jobs are given twice; each is done once")
    with progress(quiet=session.console.quiet) as report, session.stop.deferred():
        report("starting", 0, 0)
        try:
            done = run(
                asked,
                request.out,
                request.settings,
                engine=request.engine,
                progress=report,
                should_stop=session.stop.requested,
            )
        except Interrupted as stopped:
            raise Interrupted(
                f"{stopped}; what is finished stays: the same command goes on from there",
                stopped.signal_number,
            ) from stopped
    _tell(session, request, done)


def _tell(session: Session, request: BatchRequest, done: BatchReport) -> None:
    counts = {status: done.count(status) for status in ("done", "reused", "failed", "waiting")}
    failures = {
        identity: {"name": entry.name, "error": entry.kind, "reason": entry.reason}
        for identity, entry in done.entries.items()
        if entry.status == "failed"
    }
    noted: dict[str, list[str]] = {}
    for entry in done.entries.values():
        for note in entry.notes:
            noted.setdefault(note, []).append(entry.name)
    for note, names in noted.items():
        others = f" and {len(names) - 1} others" if len(names) > 1 else ""
        session.console.note(f"{names[0]}{others}: {note}")
    record = {
        "out": request.out,
        "jobs": len(done.entries),
        **counts,
        "seconds": round(done.seconds, 1),
        "failures": failures,
    }
    session.console.result(
        record,
        [
            f"{request.out}: {counts['done']} jobs done in {duration(done.seconds)}, {counts['reused']} were there",
            f"{request.out.rstrip('/')}/summary.html",
        ],
    )
    if not done.succeeded:
        raise HiperError(_shortfall(counts, failures))


def _shortfall(counts: dict[str, int], failures: dict[str, dict[str, str]]) -> str:
    sentences = []
    if failures:
        first = next(iter(failures.values()))
        sentences.append(
            f"{counts['failed']} jobs failed, the first {first['name']}: {first['reason']};"
            " mend them, or try them again by --retry"
        )
    if counts["waiting"]:
        sentences.append(f"{counts['waiting']} jobs were left alone; run the same command without --retry")
    return "; ".join(sentences)


def checked_limits(timeout: float | None, memory_limit: float | None) -> None:
    """OptionError for limits that nothing could keep, or that this system does not enforce."""
    from hiper.engines import can_limit_memory

    if timeout is not None and not timeout > 0:
        raise OptionError(f"--timeout is {timeout:g}; allowed are seconds above 0")
    if memory_limit is not None and not can_limit_memory():
        raise OptionError("--memory-limit needs Linux; leave it out")
