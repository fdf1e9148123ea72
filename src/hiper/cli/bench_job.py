"""`hiper bench run` and `hiper bench report`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hiper.cli.progress import Report, progress
from hiper.cli.requests import Hardware, Session
from hiper.engines import EngineSettings
from hiper.errors import Interrupted

if TYPE_CHECKING:
    from hiper.bench import Done


@dataclass(frozen=True, kw_only=True)
class BenchRequest:
    """Which arms are to be compared on which suite, and how much of it."""

    suite: str
    split: str | None
    seed: int
    arms: Sequence[str]
    backbone: str
    seeds: int
    limit: int | None
    engine: EngineSettings


def run_bench(session: Session, request: BenchRequest, hardware: Hardware, out: Path) -> None:
    """Draw what is missing and tell how much it was."""
    with progress(quiet=session.console.quiet) as report:
        report("starting", 0, 0)
        done = draw_missing(session, request, hardware, out, report)
    record = {"folder": str(out), "cells": done.cells, "drawn": done.drawn}
    reused = done.cells - done.drawn
    session.console.result(record, [f"{out}: {done.drawn} pictures drawn, {reused} were there"])


def draw_missing(
    session: Session, request: BenchRequest, hardware: Hardware, out: Path, report: Report
) -> Done:
    """Draw what is missing; a signal stops it between two steps, and the same command goes on from there."""
    with session.stop.deferred():
        from hiper.bench import SuiteSpec, run

        try:
            return run(
                SuiteSpec(name=request.suite, split=request.split, seed=request.seed),
                request.backbone,
                request.arms,
                out,
                seeds=request.seeds,
                limit=request.limit,
                engine=request.engine,
                progress=report,
                should_stop=session.stop.requested,
                device=hardware.device,
                dtype=hardware.dtype,
                prediction_type=hardware.prediction_type,
            )
        except Interrupted as stopped:
            raise Interrupted(
                f"{stopped}; what is finished stays: the same command goes on from there",
                stopped.signal_number,
            ) from stopped


def report_bench(
    session: Session, folder: Path, reference: str | None, out: Path, *, overwrite: bool
) -> None:
    """Write the report and print its tables."""
    from hiper.bench import build_report, write_report

    report = build_report(folder, reference)
    for note in report.notes:
        session.console.note(note)
    written = write_report(report, folder, out, overwrite=overwrite)
    record = {**report.as_record(), "files": [str(path) for path in written.files]}
    session.console.result(record, [*written.summary, *map(str, written.files)])
