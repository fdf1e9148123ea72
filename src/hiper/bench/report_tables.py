"""The tables of a report, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hiper.bench.base import Metric
from hiper.bench.report import CEILING, FLOOR, ArmRow, BenchReport
from hiper.bench.statistics import INTERVALS, IntervalEstimate, Summary
from hiper.files import visible

ARROWS = {"higher": "↑", "lower": "↓"}
EMPTY = "–"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A titled table of plain text; the first row is its head."""

    title: str
    text: str
    rows: Sequence[Sequence[str]]


def tables(report: BenchReport) -> list[Table]:
    """Return all tables of a report; those that would be empty are left out."""
    metrics = report.run.metrics
    both = [_arms(report), _edits(report)]
    if report.reference is not None:
        text = f"Over the cells that both arms have (same subject, edit and seed), with {INTERVALS}."
        both.append(_compared(report, "difference", f"Difference from {report.reference}", text, "+.3g"))
    if {FLOOR, CEILING} <= set(report.run.arms):
        text = f"Percent of the way from the arm {FLOOR} to the arm {CEILING}, with 95 % intervals as above."
        both.append(_compared(report, "gap_closed", "Gap closed", text, ".0f"))
    both.append(_legend(metrics))
    return [table for table in both if len(table.rows) > 1]


def facts(report: BenchReport) -> dict[str, str]:
    """Return the suite, the model and the size of a run, for the head of a report."""
    identity = report.run.identity
    there = report.expected - report.missing
    return {
        "suite": ", ".join(f"{name} {value}" for name, value in identity.suite.items()),
        "model": f"{identity.backbone} ({identity.device}, {identity.dtype})",
        "weights": identity.weights_sha256[:16],
        "subjects": str(len(report.run.subjects)),
        "pictures per edit": f"{report.run.seeds}, from seed {identity.seed}",
        "cells": f"{there} of {report.expected}",
    }


def markdown(report: BenchReport) -> str:
    """Return the report as Markdown."""
    lines = ["# Benchmark", ""]
    lines += [f"- {name}: {_inert(value)}" for name, value in facts(report).items()]
    lines += [f"- **note**: {_inert(note)}" for note in report.notes]
    for table in tables(report):
        lines += ["", f"## {_inert(table.title)}", "", _inert(table.text), ""]
        lines += table_lines([[_inert(cell) for cell in row] for row in table.rows])
    return "\n".join(lines) + "\n"


def table_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table as lines of Markdown; the first row is its head."""
    head, *rest = rows
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rest)]


def summary_csv(report: BenchReport) -> str:
    """Return one line per arm, kind of edit ("" for all) and metric."""
    compared = {(each.arm, each.metric): each for each in report.comparisons}
    intervals = [f"{what}{end}" for what in ("difference", "gap_closed") for end in ("", "_low", "_high")]
    lines: list[list[object]] = [["arm", "edit", "metric", "n", "mean", "deviation", *intervals]]
    for row in (*report.rows, *report.rows_by_edit):
        for metric, score in row.scores.items():
            both = compared[row.arm, metric]
            ends = [_ends(both.difference), _ends(both.gap_closed)] if row.edit is None else [_ends(None)] * 2
            start = [row.arm, row.edit or "", metric, score.count, score.mean, score.deviation]
            lines.append([*start, *ends[0], *ends[1]])
    return _csv(lines)


def cells_csv(report: BenchReport) -> str:
    """Return one line per cell."""
    metrics = list(report.run.metrics)
    costs = ("fit_seconds", "edit_seconds", "artifact_bytes")
    lines: list[list[object]] = [["arm", "subject", "edit", "seed", *metrics, *costs]]
    for arm, cells in report.cells.items():
        for (subject, edit, seed), cell in cells.items():
            scores = [cell.scores.get(metric) for metric in metrics]
            lines.append([arm, subject, edit, seed, *scores, *(getattr(cell, cost) for cost in costs)])
    return _csv(lines)


def _arms(report: BenchReport) -> Table:
    head = ["arm", *_heads(report.run.metrics), "fit, s", "a fit serves", "edit, s", "file, bytes"]
    rows = [
        [
            row.arm,
            *_scores(row),
            _mean(row.fit_seconds),
            _served(row),
            _mean(row.edit_seconds),
            _mean(row.artifact_bytes, ".0f"),
        ]
        for row in report.rows
    ]
    text = "Mean ± standard deviation (number of cells). Seconds of a fit, of an edit per picture."
    return Table(title="Arms", text=text, rows=[head, *rows])


def _served(row: ArmRow) -> str:
    if row.fit_seconds.mean is None:
        return EMPTY
    return "one sentence" if row.per_sentence else "all sentences"


def _edits(report: BenchReport) -> Table:
    head = ["edit", "arm", *_heads(report.run.metrics), "cells"]
    rows = [[str(row.edit), row.arm, *_scores(row), str(row.cells)] for row in report.rows_by_edit]
    return Table(title="By kind of edit", text="As above.", rows=[head, *rows])


def _compared(report: BenchReport, figure: str, title: str, text: str, form: str) -> Table:
    """Return a table of one figure of the comparisons."""
    found = {(each.arm, each.metric): getattr(each, figure) for each in report.comparisons}
    rows = [
        [arm, *(shown_estimate(found[arm, metric], form) for metric in report.run.metrics)]
        for arm in report.run.arms
        if report.run.metrics and (figure, arm) != ("difference", report.reference)
    ]
    return Table(title=title, text=text, rows=[["arm", *_heads(report.run.metrics)], *rows])


def _legend(metrics: Mapping[str, Metric]) -> Table:
    rows = [[name, each.text, f"{each.better} is better", each.unit] for name, each in metrics.items()]
    return Table(title="Metrics", text="", rows=[["name", "says", "direction", "unit"], *rows])


def _heads(metrics: Mapping[str, Metric]) -> list[str]:
    return [f"{name} {ARROWS[metric.better]}" for name, metric in metrics.items()]


def _scores(row: ArmRow) -> list[str]:
    return [_mean(score, deviation=True) for score in row.scores.values()]


def _mean(summary: Summary, form: str = ".3g", *, deviation: bool = False) -> str:
    if summary.mean is None:
        return EMPTY
    if not deviation:
        return shown_number(summary.mean, form)
    spread = EMPTY if summary.deviation is None else shown_number(summary.deviation, form)
    return f"{shown_number(summary.mean, form)} ± {spread} ({summary.count})"


def shown_estimate(estimate: IntervalEstimate | None, form: str) -> str:
    """Return a figure and its interval in a format such as ".3g"."""
    if estimate is None:
        return EMPTY
    if estimate.low is None or estimate.high is None:
        return shown_number(estimate.value, form)
    value, low, high = (shown_number(each, form) for each in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def shown_number(value: float, form: str) -> str:
    """Return a number in a format such as "+.3g", without a minus before what it rounds to zero."""
    signs = len(form) - len(form.lstrip("+"))
    return format(float(value), f"{form[:signs]}z{form[signs:]}")


def _ends(estimate: IntervalEstimate | None) -> list[float | None]:
    return [None] * 3 if estimate is None else [estimate.value, estimate.low, estimate.high]


def _csv(lines: Iterable[Sequence[object]]) -> str:
    out = io.StringIO()
    rows = ([cell + 0.0 if isinstance(cell, float) else cell for cell in line] for line in lines)  # no -0.0
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def _inert(text: str) -> str:
    """Escape a stranger's text, which becomes neither a tag nor a column."""
    return re.sub(r"[\\`*_|<>\[\]#&]", lambda match: f"\\{match[0]}", " ".join(visible(text).split()))
