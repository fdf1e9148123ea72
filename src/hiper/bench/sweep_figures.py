"""The figures of a sweep: one per option, and identity against edit success over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from hiper.bench.base import Metric
from hiper.bench.statistics import IntervalEstimate
from hiper.bench.sweep_report import CEILING_LABEL, Curve, Point, SweepReport
from hiper.html import COLOURS, FAINT, GRID, INK, Axis, dot, drawing, line, text

PANEL, HEIGHT = 330.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 55.0, 15.0, 40.0, 45.0
"""Pixels of one panel, and of its margins."""
WIDE, TALL, LEGEND = 560.0, 420.0, 190.0
"""Pixels of the plot of the trade-off, and of what stands beside it."""


def option_figure(metrics: Mapping[str, Metric], curve: Curve) -> str:
    """Return one panel per metric: means and their 95 % intervals; floor and ceiling as dashed lines."""
    panels = (
        shape
        for number, (name, metric) in enumerate(metrics.items())
        for shape in _panel(curve, name, metric, number * PANEL)
    )
    return drawing(PANEL * len(metrics), HEIGHT, panels, f"Figures by {curve.option}")


def trade_off_figure(report: SweepReport) -> str:
    """Return identity (vertical) against edit success: one line per option, in the order of its values."""
    x_name, y_name = report.axes.success, report.axes.identity
    title, size = "Identity against edit success", (LEFT + WIDE + LEGEND, TOP + TALL + BOTTOM)
    points = [
        point
        for curve in report.curves
        for point in (*curve.points, curve.base, curve.floor, curve.ceiling)
        if point is not None
    ]
    xs = [x for point in points if (x := _value(point, x_name)) is not None]
    ys = [y for point in points if (y := _value(point, y_name)) is not None]
    if not xs or not ys:
        return drawing(*size, [text(size[0] / 2, size[1] / 2, "nothing was scored", colour=FAINT)], title)
    across = _towards(_axis(xs, LEFT, LEFT + WIDE, report.metrics[x_name]), report.metrics[x_name])
    up = _towards(_axis(ys, TOP + TALL, TOP, report.metrics[y_name]), report.metrics[y_name])
    shapes = [
        *_frame(report, across, up),
        *(shape for i, curve in enumerate(report.curves) for shape in _path(report, curve, i, across, up)),
        *_baselines(report, across, up),
    ]
    return drawing(*size, shapes, title)


def _panel(curve: Curve, name: str, metric: Metric, left: float) -> Iterator[str]:
    lines = {point.label: point for point in (curve.floor, curve.ceiling) if point is not None}
    found = [(point.label, point.means[name]) for point in curve.points]
    ends = [end for _, each in found if each for end in (each.value, each.low, each.high) if end is not None]
    levels = {label: value for label, point in lines.items() if (value := _value(point, name)) is not None}
    start, end = left + LEFT, left + PANEL - RIGHT
    yield text((start + end) / 2, 18, f"{name} ({metric.better} is better)")
    if not ends:
        yield text((start + end) / 2, HEIGHT / 2, "nothing was scored", colour=FAINT)
        return
    up = _axis([*ends, *levels.values()], HEIGHT - BOTTOM, TOP, metric)
    yield from _ticks_upwards(up, start, end)
    for label, value in levels.items():
        y = up.at(value)
        yield line([(start, y), (end, y)], colour=FAINT, dashed=True, width=1)
        left_end = label == CEILING_LABEL  # so that two lines in one place can both be read
        at, anchor = (start + 4, "start") if left_end else (end - 2, "end")
        yield text(at, y - 4, label, anchor=anchor, colour=FAINT)
    places = [start + (number + 0.5) * (end - start) / len(found) for number in range(len(found))]
    yield line(
        [(x, up.at(each.value)) for x, (_, each) in zip(places, found, strict=True) if each],
        colour=COLOURS[0],
    )
    for x, (label, each) in zip(places, found, strict=True):
        yield text(x, HEIGHT - BOTTOM + 18, label)
        yield from _whisker(x, up, each)
    yield text((start + end) / 2, HEIGHT - 8, curve.option, colour=FAINT)


def _whisker(x: float, up: Axis, found: IntervalEstimate | None) -> Iterator[str]:
    if found is None:
        return
    if found.low is not None and found.high is not None:
        yield line([(x, up.at(found.low)), (x, up.at(found.high))], colour=COLOURS[0])
    yield dot(x, up.at(found.value), colour=COLOURS[0])


def _path(report: SweepReport, curve: Curve, number: int, across: Axis, up: Axis) -> Iterator[str]:
    colour = COLOURS[number % len(COLOURS)]
    places = [(point.label, place) for point in curve.points if (place := _place(report, point, across, up))]
    yield line([place for _, place in places], colour=colour)
    aside, anchor = (7, "start") if number % 2 == 0 else (-7, "end")  # curves often meet in one place
    for label, (x, y) in places:
        yield dot(x, y, colour=colour)
        yield text(x + aside, y - 4, label, anchor=anchor, colour=colour)
    y = TOP + 16 * (number + 1)
    yield dot(LEFT + WIDE + 20, y - 4, colour=colour)
    yield text(LEFT + WIDE + 30, y, f"{curve.option} (n = {curve.subjects})", anchor="start")


def _baselines(report: SweepReport, across: Axis, up: Axis) -> Iterator[str]:
    curve = max(report.curves, key=lambda each: each.cells)
    for point in (curve.floor, curve.ceiling, curve.base):
        place = _place(report, point, across, up) if point is not None else None
        if point is not None and place is not None:
            yield dot(*place, colour=INK, size=5 if point is curve.base else 3)
            yield text(place[0] - 7, place[1] + 12, point.label, anchor="end")


def _frame(report: SweepReport, across: Axis, up: Axis) -> Iterator[str]:
    x, y = report.axes.success, report.axes.identity
    yield text(LEFT, 18, "better is up and to the right", anchor="start", colour=FAINT)
    yield from _ticks_upwards(up, LEFT, LEFT + WIDE)
    for tick in across.ticks():
        yield line([(across.at(tick), TOP), (across.at(tick), TOP + TALL)], colour=GRID, width=1)
        yield text(across.at(tick), TOP + TALL + 16, f"{tick:z.4g}")
    yield text(LEFT + WIDE / 2, TOP + TALL + 36, f"{x} ({report.metrics[x].unit})")
    yield text(12, TOP + TALL / 2, f"{y} ({report.metrics[y].unit})", turned=True)


def _ticks_upwards(up: Axis, start: float, end: float) -> Iterator[str]:
    for tick in up.ticks():
        yield line([(start, up.at(tick)), (end, up.at(tick))], colour=GRID, width=1)
        yield text(start - 5, up.at(tick) + 4, f"{tick:z.4g}", anchor="end")


def _axis(values: Iterable[float], start: float, end: float, metric: Metric) -> Axis:
    return Axis.over(values, start, end, low=metric.low, high=metric.high)


def _towards(axis: Axis, metric: Metric) -> Axis:
    """Reverse an axis where lower is better, so that better is always up or to the right."""
    if metric.better == "higher":
        return axis
    return Axis(low=axis.low, high=axis.high, start=axis.end, end=axis.start)


def _value(point: Point, metric: str) -> float | None:
    found = point.means[metric]
    return None if found is None else found.value


def _place(report: SweepReport, point: Point, across: Axis, up: Axis) -> tuple[float, float] | None:
    x, y = _value(point, report.axes.success), _value(point, report.axes.identity)
    return None if x is None or y is None else (across.at(x), up.at(y))
