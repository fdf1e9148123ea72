"""`hiper sweep`: draw what is missing, then write the figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hiper.cli.bench_job import BenchRequest, draw_missing
from hiper.cli.progress import progress
from hiper.cli.requests import Hardware, Session
from hiper.errors import OptionError

if TYPE_CHECKING:
    from hiper.bench import Axes, Sweep


@dataclass(frozen=True, kw_only=True)
class SweepRequest:
    """What is swept over. over, preset: sweeps as text, and the name of a list of them; axes: None for the usual."""

    over: Sequence[str]
    preset: str | None
    base: str
    success: str | None
    identity: str | None


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A sweep whose words have been checked, before any model is loaded."""

    base: str
    sweeps: Sequence[Sweep]
    arms: Sequence[str]
    axes: Axes


def run_sweep(
    session: Session, request: SweepRequest, bench: BenchRequest, hardware: Hardware, out: Path
) -> None:
    """Run every arm of the sweeps into `out` and write the report below it; the same command goes on after a kill."""
    plan = _plan(session, request, bench)
    with progress(quiet=session.console.quiet) as report:
        done = draw_missing(session, replace(bench, arms=plan.arms), hardware, out, report)
    from hiper.bench import build_sweep_report, write_sweep

    found = build_sweep_report(out, plan.sweeps, plan.base, plan.axes)
    files = write_sweep(found, out / "sweep")
    for note in found.report.notes:
        session.console.note(note)
    record = {"folder": str(out), "cells": done.cells, "drawn": done.drawn, **found.as_record()}
    lines = [f"{out}: {done.drawn} pictures drawn, {done.cells - done.drawn} were there", *map(str, files)]
    session.console.result({**record, "files": [str(path) for path in files]}, lines)


def _plan(session: Session, request: SweepRequest, bench: BenchRequest) -> _Plan:
    if request.over and request.preset is not None:
        raise OptionError("--over and --preset both say what is swept over; give one of them")
    from hiper.bench import (
        SOURCE_CAPTION,
        SuiteSpec,
        base_arm,
        choose_axes,
        open_suite,
        parse_sweeps,
        preset,
        sweep_arms,
    )

    base = base_arm(request.base).text
    sweeps = parse_sweeps(request.over if request.preset is None else preset(request.preset), base)
    suite = open_suite(SuiteSpec(name=bench.suite, split=bench.split, seed=bench.seed))
    cases = suite.cases(suite.subjects()[0])
    if request.preset is not None and not cases[0].other_captions:
        session.console.note(f"this suite knows no other captions, so {SOURCE_CAPTION} is not swept over")
        sweeps = [sweep for sweep in sweeps if sweep.option != SOURCE_CAPTION]
    has_truth = all(case.truth is not None for case in cases)
    return _Plan(
        base=base,
        sweeps=sweeps,
        arms=sweep_arms(sweeps, base, ceiling=has_truth),
        axes=choose_axes(suite.metrics(), request.success, request.identity),
    )
