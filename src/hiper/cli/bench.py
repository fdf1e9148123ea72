"""`hiper bench run` and `hiper bench report`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from hiper.cli.options import BackboneName, Device, EngineOptions, Hardware, Overwrite, Talking
from hiper.cli.progress import Report
from hiper.cli.session import Session
from hiper.cli.stopping import SAME_COMMAND, advising

if TYPE_CHECKING:
    from hiper.bench import Done

Seeds = Annotated[int, Option(min=1, max=1000, help="Pictures per edit.")]


@dataclass(frozen=True, kw_only=True)
class BenchRequest:
    """Which suite, how much of it, and where the run is kept."""

    suite: Annotated[
        str, Argument(metavar="SUITE", help="critters, or a .toml file of your own photographs.")
    ]
    out: Annotated[Path, Option(metavar="DIR", help="Folder of the run; finished pictures there are kept.")]
    backbone: BackboneName = "critters"
    split: Annotated[str | None, Option(help="Split of the suite, tuning or test; default: test.")] = None
    seed: Annotated[int, Option(min=0, max=10**8, help="Seed of the subjects and of the first picture.")] = 0
    seeds: Seeds = 2
    limit: Annotated[int | None, Option(min=1, help="Use only the first N subjects; default: all.")] = None
    jobs: Annotated[int, Option(min=1, max=256, help="Number of worker processes.")] = 1


def run(
    session: Session,
    request: BenchRequest,
    engine: EngineOptions,
    hardware: Device,
    *,
    methods: Annotated[
        list[str],
        Option(
            "--methods",
            metavar="ARM",
            help="METHOD, METHOD:PRESET, METHOD:PRESET,option=value or a baseline (none, truth,"
            " spelled-out, source, other-tail, random-tail); repeatable.",
        ),
    ],
) -> None:
    """Draw and score every method, subject and edit that is missing."""
    with session.progress() as report:
        report("starting", 0, 0)
        done = draw_missing(session, request, methods, engine, hardware, report)
    record = {"folder": str(request.out), "cells": done.cells, "drawn": done.drawn}
    reused = done.cells - done.drawn
    session.console.result(record, [f"{request.out}: {done.drawn} pictures drawn, {reused} were there"])


def draw_missing(
    session: Session,
    request: BenchRequest,
    arms: Sequence[str],
    engine: EngineOptions,
    hardware: Hardware,
    report: Report,
) -> Done:
    """Draw what is missing; a signal stops it between two steps, and the same command continues from there."""
    from hiper.bench import SuiteSpec, run

    with session.stop.deferred(), advising(SAME_COMMAND):
        return run(
            SuiteSpec(name=request.suite, split=request.split, seed=request.seed),
            request.backbone,
            arms,
            request.out,
            seeds=request.seeds,
            limit=request.limit,
            engine=engine.settings(request.jobs, hardware.device),
            progress=report,
            should_stop=session.stop.requested,
            device=hardware.device,
            dtype=hardware.dtype,
            prediction_type=hardware.prediction_type,
        )


def report(
    session: Talking,
    folder: Annotated[Path, Argument(metavar="DIR", help="Folder written by `hiper bench run`.")],
    reference: Annotated[
        str | None, Option(metavar="ARM", help="Method to compare with; default: the first hiper.")
    ] = None,
    out: Annotated[
        Path | None, Option(metavar="DIR", help="Output folder; default: DIR/report, overwritten.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write tables and a page of pictures."""
    from hiper.bench import build_report, write_report

    report = build_report(folder, reference)
    session.console.note(*report.notes)
    written = write_report(report, folder, out or folder / "report", overwrite=overwrite or out is None)
    record = {**report.as_record(), "files": [str(path) for path in written.files]}
    session.console.result(record, [*written.summary, *map(str, written.files)])
