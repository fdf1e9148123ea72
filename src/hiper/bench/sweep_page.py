"""The files of a sweep: a figure per option, the trade-off, one page with all of it, and the numbers as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from hiper.bench.report_tables import ARROWS, facts, shown_estimate
from hiper.bench.statistics import INTERVALS
from hiper.bench.sweep_figures import option_figure, trade_off_figure
from hiper.bench.sweep_report import Curve, Point, SweepReport
from hiper.files import atomic_write, make_folder, safe_slug
from hiper.html import document, escape, table

PAGE, RECORD, TRADE_OFF = "sweep.html", "sweep.json", "trade-off.svg"

_LEGEND = (
    f"Means with {INTERVALS}; differences from the base are paired (same subject, edit and seed)."
    " Each option is compared over the cells that all of its values have."
)


def write_sweep(report: SweepReport, out: Path) -> list[Path]:
    """Write all files, replacing those of an earlier report.

    Args:
        report: The sweep.
        out: The folder.

    Returns:
        The files.

    Raises:
        OutputError: A file cannot be written.
    """
    make_folder(out, within=out.parent)
    record = json.dumps(report.as_record(), indent=1, ensure_ascii=False, allow_nan=False)
    texts = {
        PAGE: page(report),
        RECORD: f"{record}\n",
        TRADE_OFF: trade_off_figure(report),
        **{f"{safe_slug(curve.option)}.svg": option_figure(report.metrics, curve) for curve in report.curves},
    }
    for name, text in texts.items():
        atomic_write(out / name, text.encode(errors="backslashreplace"), overwrite=True)
    return [out / name for name in texts]


def page(report: SweepReport) -> str:
    """Return a self-contained page."""
    base = {"base": report.base, **facts(report.report)}
    parts = [
        "<ul>",
        *(f"<li>{escape(name)}: {escape(value)}</li>" for name, value in base.items()),
        *(f'<li class="note">{escape(note)}</li>' for note in report.report.notes),
        f"</ul><h2>Identity against edit success</h2>{trade_off_figure(report)}<p>{_LEGEND}</p>",
        *(part for curve in report.curves for part in _section(report, curve)),
    ]
    return document("Ablation", parts)


def curve_table(report: SweepReport, curve: Curve) -> list[list[str]]:
    """Return one line per value, the baselines last; the first row is the head."""
    metrics = report.metrics
    named = [f"{name} {ARROWS[metric.better]}" for name, metric in metrics.items()]
    head = [curve.option, *named, *(f"{name}, less the base" for name in metrics)]
    baselines = [point for point in (curve.base, curve.floor, curve.ceiling) if point is not None]
    return [head, *(_line(point, list(metrics)) for point in (*curve.points, *baselines))]


def _section(report: SweepReport, curve: Curve) -> Iterator[str]:
    yield f"<h2>{escape(curve.option)}</h2><p>{curve.subjects} subjects, {curve.cells} pictures per value.</p>"
    yield option_figure(report.metrics, curve)
    yield table(curve_table(report, curve))


def _line(point: Point, metrics: Sequence[str]) -> list[str]:
    means = [shown_estimate(point.means[name], ".3g") for name in metrics]
    return [point.label, *means, *(shown_estimate(point.differences.get(name), "+.3g") for name in metrics)]
