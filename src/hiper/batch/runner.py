"""A batch from its jobs to its summary: what is done is skipped, what fails is recorded, the rest goes on."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import final

from hiper.backbones import EMBEDDED
from hiper.batch.jobs import Asked, Job, Refused
from hiper.batch.ledger import Ledger, LedgerEntry
from hiper.batch.messages import Describe, Group, JobResult, ModelFacts, ModelSpec, PlannedJob, plan
from hiper.batch.store import open_store
from hiper.batch.summary import write_summary
from hiper.batch.worker import BatchWorker
from hiper.engines import EngineSettings, Task, TaskResult, open_engine
from hiper.errors import ImageError
from hiper.methods import get_method, shared_by
from hiper.training import StopRequest

NOISE_LEVELS = 4
"""In one call of the denoiser, by default: subjects are added up to here, which costs no more memory
than one subject of the default preset."""

STAGE = "jobs"

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done and how much there is; 0 in all: not known."""

Order = Describe | Group
Answer = ModelFacts | list[JobResult]


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """How a batch is done.

    Attributes:
        retry: Try those that failed before, and no others.
        together: Subjects fitted at a time; None for as many as make up `NOISE_LEVELS`.
        seconds: That a job may take; its worker then gets a process of its own.
        trusted: The one model that may be downloaded; others that a job names must be there.
        device: cpu, cuda or mps; None takes the fastest there is.
        dtype: Of the models' weights; None takes the default.
        deterministic: The same bits every time on an accelerator too; see `hiper.options.determinism`.
    """

    retry: bool = False
    together: int | None = None
    seconds: float | None = None
    trusted: str = "critters"
    device: str | None = None
    dtype: str | None = None
    deterministic: bool = False


@dataclass(frozen=True, kw_only=True)
class BatchReport:
    """The entry of each job, by its id, and the seconds that this run took."""

    entries: dict[str, LedgerEntry]
    seconds: float

    def count(self, status: str) -> int:
        """Return how many jobs have that status."""
        return sum(entry.status == status for entry in self.entries.values())

    @property
    def succeeded(self) -> bool:
        """Whether the results of all jobs are there."""
        return self.count("done") + self.count("reused") == len(self.entries)


def run(
    asked: Iterable[Asked],
    out: str,
    settings: BatchSettings,
    *,
    engine: EngineSettings | None = None,
    progress: Progress = lambda stage, done, total: None,
    should_stop: StopRequest = lambda: None,
) -> BatchReport:
    """Do all jobs that are not done. What is finished stays, and the same call resumes from there.

    Args:
        asked: The jobs.
        out: A folder, or a store's URL, for the results and a summary.
        settings: How.
        engine: Which workers do them.
        progress: Called whenever something is finished.
        should_stop: Returns the number of a signal to stop by.

    Raises:
        OutputError: `out` cannot be written to, or is in use.
        BackboneError: No model can be loaded.
        Interrupted: `should_stop` said so.
    """
    begun = time.monotonic()
    store = open_store(out)
    engine = engine or EngineSettings()
    if settings.seconds is not None:
        engine = replace(engine, isolated=True)
    with store.locked():
        ledger = Ledger(store, asked)
        batch = _Batch(ledger, settings)
        tasks: deque[Task[Order]] = deque(batch.begin())
        work = partial(BatchWorker, store.place)
        try:
            for result in open_engine(engine, settings.device).run(tasks, work, should_stop):
                tasks.extend(batch.handle(result))
                progress(STAGE, ledger.count_finished(), len(ledger.asked))
            batch.end()
        finally:
            report = BatchReport(entries=batch.all_entries(), seconds=time.monotonic() - begun)
            if ledger.count_finished():
                write_summary(store, report.entries, report.seconds)
    return report


@final
class _Batch:
    """Turns jobs into orders for workers, and their answers into entries."""

    def __init__(self, ledger: Ledger, settings: BatchSettings) -> None:
        self._ledger, self._settings = ledger, settings
        self._by_model: dict[ModelSpec, list[str]] = defaultdict(list)
        self._by_place: dict[str, list[str]] = defaultdict(list)
        self._unloaded: dict[ModelSpec, Exception] = {}

    def begin(self) -> list[Task[Order]]:
        """Record what is no job, and ask for every model what it is."""
        for identity, asked in self._ledger.asked.items():
            if isinstance(asked, Refused):
                self._ledger.fail(identity, asked.reason)
            else:
                self._by_model[self._model(asked)].append(identity)
        return [Task(payload=Describe(model=model)) for model in self._by_model]

    def _model(self, job: Job) -> ModelSpec:
        """Prefer a folder or file to a model of that name: beside the job file, or in the working folder."""
        trusted = job.backbone == self._settings.trusted
        path = Path.cwd() / job.backbone if trusted else job.place / job.backbone
        return ModelSpec(
            name=str(path) if job.backbone not in EMBEDDED and path.exists() else job.backbone,
            device=self._settings.device,
            dtype=self._settings.dtype,
            may_download=trusted,
            deterministic=self._settings.deterministic,
            prediction_type=job.prediction_type,
        )

    def handle(self, result: TaskResult[Order, Answer]) -> list[Task[Order]]:
        """Enter the result of an order, and return what is to be done next."""
        order = result.task.payload
        if isinstance(order, Describe):
            return self._described(order.model, result)
        if result.error is not None:
            return self._undone(order, result.error, result.task.deaths)
        assert isinstance(result.value, list)
        jobs = {job.place: job for job in order.jobs}
        for outcome in result.value:
            self._judge(jobs[outcome.place], outcome)
        return []

    def _described(self, model: ModelSpec, result: TaskResult[Order, Answer]) -> list[Task[Order]]:
        if result.error is not None:
            self._unloaded[model] = result.error
            return []
        assert isinstance(result.value, ModelFacts)
        classes: dict[Hashable, list[PlannedJob]] = defaultdict(list)
        for planned in self._pending(self._by_model[model], result.value):
            classes[_alike(planned.job)].append(planned)
        return [
            task
            for jobs in classes.values()
            for task in self._groups(model, result.value, sorted(jobs, key=lambda job: job.place))
        ]

    def _pending(self, identities: Sequence[str], facts: ModelFacts) -> list[PlannedJob]:
        """Return what is to be done, each place once; enter the others."""
        pending = {}
        for identity in identities:
            planned = self._planned(identity, facts)
            if planned is not None:
                self._by_place[planned.place].append(identity)
                pending[planned.place] = planned
        return list(pending.values())

    def _planned(self, identity: str, facts: ModelFacts) -> PlannedJob | None:
        job, ledger, retry = self._ledger.asked[identity], self._ledger, self._settings.retry
        assert isinstance(job, Job)
        try:
            planned = plan(job, facts)
        except ImageError as error:
            ledger.fail(identity, error)
            return None
        if ledger.is_done(planned):
            ledger.done(identity, planned.place, reused=True)
            return None
        if retry and not ledger.has_failed(identity):
            ledger.wait(identity)
            return None
        return None if not retry and ledger.keep_failure(identity, planned.key) else planned

    def _groups(self, model: ModelSpec, facts: ModelFacts, jobs: Sequence[PlannedJob]) -> list[Task[Order]]:
        slots = self._slots(jobs[0].job)
        return [
            self._task(Group(model=model, facts=facts, jobs=tuple(jobs[i : i + slots]), slots=slots))
            for i in range(0, len(jobs), slots)
        ]

    def _task(self, group: Group) -> Task[Order]:
        """Allow a group the time of `slots` subjects, which a call costs however many of them there are."""
        seconds = self._settings.seconds
        return Task(payload=group, seconds=None if seconds is None else seconds * group.slots)

    def _slots(self, job: Job) -> int:
        method = get_method(job.method)
        if not method.fits_together:
            return 1
        return self._settings.together or max(1, NOISE_LEVELS // job.resolved_options().batch)

    def _undone(self, group: Group, error: Exception, deaths: int) -> list[Task[Order]]:
        """Try each job of a failed group again, alone: the failure may be of any of them."""
        if len(group.jobs) > 1:
            return [self._task(replace(group, jobs=(job,))) for job in group.jobs]
        for identity in self._by_place[group.jobs[0].place]:
            self._ledger.fail(identity, error, key=group.jobs[0].key, deaths=deaths)
        return []

    def _judge(self, planned: PlannedJob, outcome: JobResult) -> None:
        for identity in self._by_place[planned.place]:
            if outcome.error is None:
                self._ledger.done(identity, planned.place, reused=False, notes=outcome.notes)
            else:
                self._ledger.fail(identity, outcome.error, key=planned.key)

    def end(self) -> None:
        """Record the jobs whose model could not be loaded; if none could, that is the whole batch's error."""
        if len(self._unloaded) == len(self._by_model) > 0:
            raise next(iter(self._unloaded.values()))
        for model, error in self._unloaded.items():
            for identity in self._by_model[model]:
                self._ledger.fail(identity, error)

    def all_entries(self) -> dict[str, LedgerEntry]:
        """Return an entry for every job, in the order they were asked for; waiting are those not come to."""
        for identity in self._ledger.asked:
            if identity not in self._ledger.entries:
                self._ledger.wait(identity)
        return {identity: self._ledger.entries[identity] for identity in self._ledger.asked}


def _alike(job: Job) -> Hashable:
    """Return what jobs must agree in to be fitted together."""
    method = get_method(job.method)
    shared = shared_by(job.resolved_options()) if method.fits_together else None
    return job.method, shared
