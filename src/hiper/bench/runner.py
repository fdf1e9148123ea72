"""Running a suite: every arm, subject, edit and seed once, whatever interrupts it."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from hiper import files
from hiper.backbones import Backbone, load_backbone
from hiper.bench.arm_sampler import drawing_settings
from hiper.bench.arms import Arm, check_suite, parse_arms
from hiper.bench.base import Suite
from hiper.bench.records import RUN, Run, RunKey, joined
from hiper.bench.suites import SuiteSpec, open_suite
from hiper.bench.worker import BenchJob, BenchWorker
from hiper.engines import Engine, EngineSettings, Task, check_reachable, open_engine
from hiper.errors import HiperWarning
from hiper.methods import get_method
from hiper.options import check_whole, deterministic, is_deterministic
from hiper.training import StopRequest

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done and how much there is; 0 in all: not known."""

STAGE = "pictures"


@dataclass(frozen=True, kw_only=True)
class Done:
    """How many cells the command asked for, and how many of them were drawn now."""

    cells: int
    drawn: int


def run(
    suite: SuiteSpec,
    backbone: str,
    arms: Sequence[str],
    folder: Path,
    *,
    seeds: int = 2,
    limit: int | None = None,
    engine: EngineSettings | None = None,
    progress: Progress = lambda stage, done, total: None,
    should_stop: StopRequest = lambda: None,
    device: str | None = None,
    dtype: str | None = None,
    prediction_type: str | None = None,
) -> Done:
    """Draw and score what is missing. What is finished stays, and the same call resumes from there.

    Args:
        suite: What to draw.
        backbone: A model's name or path.
        arms: How, each as `parse_arm` reads it.
        folder: For the results; created if need be.
        seeds: Pictures per edit, of seeds suite.seed, suite.seed + 1, ...
        limit: Only the first so many subjects.
        engine: Its workers draw; None draws in this process.
        progress: Called whenever something is finished.
        should_stop: Returns the number of a signal to stop by.
        device: cpu, cuda or mps; None takes the fastest there is.
        dtype: Of the model's weights.
        prediction_type: Of the model, where the user states it.

    Raises:
        OptionError: Arms, suite or numbers are not allowed.
        OutputError: The folder holds another run, or is in use.
        Interrupted: `should_stop` said so.
    """
    for name, value in {"seeds": seeds, "limit": limit}.items():
        if value is not None:
            check_whole(name, value, 1)
    if engine is not None and engine.address:
        check_reachable(engine.address)
    elsewhere = None if engine is None or engine == EngineSettings() else open_engine(engine, device)
    parsed = parse_arms(arms)
    opened = open_suite(suite)
    check_suite(parsed, opened)
    progress(f"loading {backbone}", 0, 0)
    model = load_backbone(backbone, device=device, dtype=dtype, prediction_type=prediction_type)
    _check_arms(parsed, model)
    files.make_folder(folder)
    job = BenchJob(
        suite=suite,
        backbone=backbone,
        arms=tuple(arm.text for arm in parsed),
        folder=folder,
        seeds=seeds,
        device=device,
        dtype=dtype,
        prediction_type=prediction_type,
        deterministic=is_deterministic(),
    )
    with files.lock(folder / RUN):
        wanted = _plan(job, parsed, opened, model, limit)
        whole = joined(folder, wanted)
        whole.save(folder)
        cells = len(parsed) * seeds * sum(map(len, wanted.subjects.values()))

        def report(done: int) -> None:
            progress(STAGE, done, cells)

        report(0)
        subjects = list(wanted.subjects)
        if elsewhere is None:
            worker, drawn = BenchWorker(job, whole, opened, model, should_stop), 0
            counts = (count for subject in subjects for count in worker.draw(subject))
            for number, count in enumerate(counts, start=1):
                drawn += count
                report(number * seeds)
        else:
            del model
            drawn = _run_elsewhere(elsewhere, job, whole, subjects, report, should_stop)
    return Done(cells=cells, drawn=drawn)


def _run_elsewhere(
    engine: Engine,
    job: BenchJob,
    whole: Run,
    subjects: Sequence[str],
    report: Callable[[int], None],
    should_stop: StopRequest,
) -> int:
    """Let workers draw, a subject at a time; a subject whose worker dies goes on in another one."""
    drawn = finished = 0
    tasks = deque(Task(payload=subject) for subject in subjects)
    for result in engine.run(tasks, partial(_drawer, job, whole), should_stop):
        for note in result.notes:
            warnings.warn(note, HiperWarning, stacklevel=3)
        drawn += result.unwrapped()
        finished += len(job.arms) * job.seeds * len(whole.subjects[result.task.payload])
        report(finished)
    return drawn


def _drawer(job: BenchJob, whole: Run, should_stop: StopRequest) -> Callable[[str], int]:
    """Return a worker's work: draw one subject, by a model that is loaded when the first one comes."""
    worker = cache(partial(BenchWorker.load, job, whole, should_stop))

    def draw(subject: str) -> int:
        with deterministic(job.deterministic):
            return sum(worker().draw(subject))

    return draw


def _check_arms(arms: Sequence[Arm], backbone: Backbone) -> None:
    """Refuse what the model cannot do before an hour is spent on the arms that it can."""
    for arm in arms:
        get_method(arm.method).check(backbone)
        drawing_settings(arm, backbone)


def _plan(job: BenchJob, arms: Sequence[Arm], suite: Suite, backbone: Backbone, limit: int | None) -> Run:
    names = list(suite.subjects())[:limit]
    key = backbone.model_key()
    return Run(
        identity=RunKey(
            suite=dict(suite.identity()),
            backbone=backbone.id,
            weights_sha256=str(key["backbone"]),
            device=backbone.device.type,
            dtype=str(backbone.dtype).removeprefix("torch."),
            seed=job.suite.seed,
            model=key,
        ),
        metrics=dict(suite.metrics()),
        arms={arm.text: arm.options for arm in arms},
        slugs={arm.text: arm.slug for arm in arms},
        subjects={name: [case.edit for case in suite.cases(name)] for name in names},
        seeds=job.seeds,
    )
