"""`hiper batch`: from a job file to a folder of results."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from hiper.cli.arguments import LARGEST_SEED, method_options
from hiper.cli.options import (
    BackboneName,
    Device,
    EngineOptions,
    Images,
    MethodName,
    MethodOption,
    Preset,
    Talking,
)
from hiper.cli.session import Deterministic, Session
from hiper.cli.stopping import SAME_COMMAND, advising
from hiper.errors import HiperError, OptionError
from hiper.training import duration

if TYPE_CHECKING:
    from hiper.batch import BatchReport


@dataclass(frozen=True, kw_only=True)
class BatchRequest:
    """Which jobs, where their results go, and how they are done."""

    jobs: Annotated[
        Path, Argument(metavar="JOBS", help="A .jsonl or .csv file, or a folder of pictures with captions.")
    ]
    out: Annotated[
        str, Option(metavar="DIR", help="Output folder or fsspec URL; finished jobs there are skipped.")
    ]
    sentence: Annotated[
        list[str],
        Option("--prompt", "--sentence", metavar="TEXT", help="Prompt for jobs without one; repeatable."),
    ] = field(default_factory=list)
    images: Images = 1
    seed: Annotated[
        int, Option(min=0, max=LARGEST_SEED, help="Seed of the first picture; each further one adds 1.")
    ] = 0
    backbone: BackboneName = "critters"
    method: MethodName = "hiper"
    preset: Preset = "auto"
    option: MethodOption = None
    retry: Annotated[bool, Option(help="Run only the jobs that failed before.")] = False
    together: Annotated[
        int | None,
        Option(min=1, max=1024, help="Subjects fitted in one call of the model; default: by preset."),
    ] = None
    workers: Annotated[int, Option(min=1, max=256, help="Number of worker processes.")] = 1
    timeout: Annotated[
        float | None, Option(metavar="SECONDS", help="Time limit of one job; default: none.")
    ] = None
    memory_limit: Annotated[
        float | None,
        Option(metavar="GIB", help="Memory limit of a worker, its model included; default: none."),
    ] = None
    deterministic: Deterministic = False

    def __post_init__(self) -> None:
        """Raise OptionError for limits that nothing could keep, or that this system does not enforce."""
        from hiper.engines import can_limit_memory

        if self.timeout is not None and not self.timeout > 0:
            raise OptionError(f"--timeout is {self.timeout:g}; allowed are seconds above 0")
        if self.memory_limit is not None and not can_limit_memory():
            raise OptionError("--memory-limit needs Linux; leave it out")


def batch(session: Talking, request: BatchRequest, engine: EngineOptions, hardware: Device) -> None:
    """Fit and edit many subjects; resumes when interrupted."""
    from hiper.batch import BatchSettings, Defaults, read_jobs, run

    defaults = Defaults(
        sentences=tuple(dict.fromkeys(request.sentence)),
        seeds=tuple(range(request.seed, request.seed + request.images)),
        backbone=request.backbone,
        prediction_type=hardware.prediction_type,
        method=request.method,
        preset=request.preset,
        options=method_options(request.option),
    )
    settings = BatchSettings(
        retry=request.retry,
        together=request.together,
        seconds=request.timeout,
        trusted=request.backbone,
        device=hardware.device,
        dtype=hardware.dtype,
        deterministic=request.deterministic,
    )
    asked = read_jobs(request.jobs, defaults)
    distinct = len({each.id for each in asked})
    if distinct < len(asked):
        session.console.note(f"{len(asked) - distinct} jobs are given twice; each is done once")
    with session.progress() as report, session.stop.deferred(), advising(SAME_COMMAND):
        report("starting", 0, 0)
        done = run(
            asked,
            request.out,
            settings,
            engine=engine.settings(request.workers, hardware.device, request.memory_limit),
            progress=report,
            should_stop=session.stop.requested,
        )
    _tell(session, request.out, done)


def _tell(session: Session, out: str, done: BatchReport) -> None:
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
        "out": out,
        "jobs": len(done.entries),
        **counts,
        "seconds": round(done.seconds, 1),
        "failures": failures,
    }
    session.console.result(
        record,
        [
            f"{out}: {counts['done']} jobs done in {duration(done.seconds)}, {counts['reused']} were there",
            f"{out.rstrip('/')}/summary.html",
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
