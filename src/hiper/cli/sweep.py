"""`hiper sweep`: draw what is missing, then write the figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from typer import Option

from hiper.cli.bench import BenchRequest, Seeds, draw_missing
from hiper.cli.options import Device, EngineOptions
from hiper.cli.session import Session
from hiper.errors import OptionError

if TYPE_CHECKING:
    from hiper.bench import Axes, Sweep


@dataclass(frozen=True, kw_only=True)
class SweepRequest(BenchRequest):
    """What is swept over: options and their values, or the name of a list of sweeps."""

    seeds: Seeds = 1
    over: Annotated[
        list[str],
        Option(
            metavar="OPTION=VALUES",
            help="Option and values to try, such as tail=1,2,5; repeatable.",
        ),
    ] = field(default_factory=list)
    preset: Annotated[
        str | None, Option(help="paper: the options of the paper's ablation, instead of --over.")
    ] = None
    base: Annotated[
        str,
        Option(metavar="ARM", help="The other options: METHOD, METHOD:PRESET or METHOD:PRESET,option=value."),
    ] = "hiper"
    success: Annotated[
        str | None,
        Option(metavar="METRIC", help="Metric of edit success; default: the suite's."),
    ] = None
    identity: Annotated[
        str | None, Option(metavar="METRIC", help="Metric of identity; default: the suite's.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A sweep whose words have been checked, before any model is loaded."""

    base: str
    sweeps: Sequence[Sweep]
    arms: Sequence[str]
    axes: Axes


def sweep(session: Session, request: SweepRequest, hardware: Device) -> None:
    """Vary one option at a time and plot its effect."""
    plan, out = _plan(session, request), request.out
    with session.progress() as report:
        done = draw_missing(session, request, plan.arms, EngineOptions(), hardware, report)
    from hiper.bench import build_sweep_report, write_sweep

    found = build_sweep_report(out, plan.sweeps, plan.base, plan.axes)
    files = write_sweep(found, out / "sweep")
    session.console.note(*found.report.notes)
    record = {"folder": str(out), "cells": done.cells, "drawn": done.drawn, **found.as_record()}
    lines = [f"{out}: {done.drawn} pictures drawn, {done.cells - done.drawn} were there", *map(str, files)]
    session.console.result({**record, "files": [str(path) for path in files]}, lines)


def _plan(session: Session, request: SweepRequest) -> _Plan:
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
    suite = open_suite(SuiteSpec(name=request.suite, split=request.split, seed=request.seed))
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
