"""The report of a sweep: every value's figures over the cells that all values of its option share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hiper.bench.base import Metric
from hiper.bench.records import CellResult
from hiper.bench.report import CEILING, BenchReport, Key, build_report, common
from hiper.bench.statistics import INTERVALS, IntervalEstimate, difference, mean
from hiper.bench.sweeps import Sweep, base_arm, floor_arm
from hiper.errors import OptionError
from hiper.options import suggestion

AXES: Sequence[tuple[str, str]] = (
    ("edit_success", "colour_distance"),
    ("clip_text", "dino"),
    ("clip_text", "clip_image"),
)
"""Metrics of edit success and of identity that suites of this package have; the first pair that is there counts."""

ALSO = ("source_leak", "picture_distance")
"""Shown as well where a suite has them: both tell of a source that comes through."""

BASE_LABEL, FLOOR_LABEL, CEILING_LABEL = "base", "prompt alone", "true answer"


@dataclass(frozen=True, kw_only=True)
class Axes:
    """The metrics of a sweep.

    Attributes:
        success: Whether an edit succeeds.
        identity: Whether the identity survives.
        shown: All that are shown.
    """

    success: str
    identity: str
    shown: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One arm: means, and paired differences from the base (empty for the base itself), by metric."""

    label: str
    arm: str
    means: Mapping[str, IntervalEstimate | None]
    differences: Mapping[str, IntervalEstimate | None]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One option, its figures over the same cells; `ceiling` is None where the run has none."""

    option: str
    points: Sequence[Point]
    base: Point
    floor: Point
    ceiling: Point | None
    subjects: int
    cells: int


@dataclass(frozen=True, kw_only=True)
class SweepReport:
    """All curves of a run."""

    report: BenchReport
    base: str
    axes: Axes
    curves: Sequence[Curve]

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """The metrics that are shown."""
        return {name: self.report.run.metrics[name] for name in self.axes.shown}

    def as_record(self) -> dict[str, object]:
        """Return all of it, ready for JSON."""
        return {
            "identity": asdict(self.report.run.identity),
            "base": self.base,
            "axes": asdict(self.axes),
            "intervals": INTERVALS,
            "missing": self.report.missing,
            "curves": [asdict(curve) for curve in self.curves],
        }


def build_sweep_report(folder: Path, sweeps: Sequence[Sweep], base: str, axes: Axes) -> SweepReport:
    """Read the folder of a run of `sweep_arms`.

    Args:
        folder: Of the run.
        sweeps: What was swept over.
        base: The base arm.
        axes: The metrics to show.

    Raises:
        OptionError: The folder holds no such run, or a damaged one.
    """
    arm = base_arm(base).text
    report = build_report(folder, arm)
    curves = [_curve(report, sweep, arm, floor_arm(base), axes) for sweep in sweeps]
    return SweepReport(report=report, base=arm, axes=axes, curves=curves)


def choose_axes(metrics: Mapping[str, Metric], success: str | None, identity: str | None) -> Axes:
    """Return the axes asked for, else the suite's usual ones.

    Args:
        metrics: Of the suite.
        success: Of edits; None for the usual one.
        identity: Of subjects; None for the usual one.

    Raises:
        OptionError: The suite has no such metric, or no usual ones.
    """
    for name in (success, identity):
        if name is not None and name not in metrics:
            known = ", ".join(metrics) or "none"
            raise OptionError(f"no metric {name!r}{suggestion(name, metrics)}; this suite has {known}")
    usual = next((pair for pair in AXES if set(pair) <= set(metrics)), (None, None))
    first, second = success or usual[0], identity or usual[1]
    if first is None or second is None:
        raise OptionError(
            f"which metrics say that the edit succeeds and the identity survives? Name them by --success and"
            f" --identity; this suite has {', '.join(metrics) or 'none'}"
        )
    return Axes(
        success=first,
        identity=second,
        shown=list(dict.fromkeys([first, second, *(name for name in ALSO if name in metrics)])),
    )


def _curve(report: BenchReport, sweep: Sweep, base: str, floor: str, axes: Axes) -> Curve:
    ceiling = CEILING if CEILING in report.cells else None
    arms = [*sweep.arms.values(), base, floor, *([ceiling] if ceiling else [])]
    keys = set.intersection(*(set(report.cells[arm]) for arm in arms))
    cells = {arm: {key: cell for key, cell in report.cells[arm].items() if key in keys} for arm in arms}

    def point(label: str, arm: str) -> Point:
        return _point(label, arm, cells[arm], cells[base], axes)

    return Curve(
        option=sweep.option,
        points=[point(value, arm) for value, arm in sweep.arms.items()],
        base=point(BASE_LABEL, base),
        floor=point(FLOOR_LABEL, floor),
        ceiling=point(CEILING_LABEL, ceiling) if ceiling else None,
        subjects=len({subject for subject, _, _ in keys}),
        cells=len(keys),
    )


def _point(
    label: str, arm: str, cells: Mapping[Key, CellResult], base: Mapping[Key, CellResult], axes: Axes
) -> Point:
    means = {name: mean(common([cells], name)) for name in axes.shown}
    differences = {name: difference(common([cells, base], name)) for name in axes.shown}
    return Point(label=label, arm=arm, means=means, differences=differences if cells is not base else {})
