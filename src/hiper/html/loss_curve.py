"""The loss history of a fit as an inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from hiper.html.svg import Axis, drawing, line, text
from hiper.training import ProgressEvent

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 60, WIDTH - 12, 12, HEIGHT - 34
_WINDOW = 0.05
"""Share of all records that the smooth line averages over."""


def loss_curve(records: Sequence[ProgressEvent]) -> str:
    """Return an <svg> of the losses of two or more records, faint, and of their moving mean."""
    losses = [record.loss for record in records]
    first, last = records[0].step, records[-1].step
    low, high = min(losses), max(losses)
    window = max(1, round(_WINDOW * len(losses)))
    smooth = [fmean(losses[max(0, i - window) : i + window + 1]) for i in range(len(losses))]
    across = Axis(low=first, high=last, start=LEFT, end=RIGHT)
    up = Axis(low=high - (high - low or 1.0), high=high, start=BOTTOM, end=TOP)

    def curve(values: Sequence[float], colour: str, width: float) -> str:
        points = [
            (across.at(record.step), up.at(value)) for record, value in zip(records, values, strict=True)
        ]
        return line(points, colour=colour, width=width)

    frame = [(LEFT, TOP), (RIGHT, TOP), (RIGHT, BOTTOM), (LEFT, BOTTOM), (LEFT, TOP)]
    shapes = [
        line(frame, colour="#ccc", width=1),
        curve(losses, "#9bb", 0.7),
        curve(smooth, "#a30", 2),
        text(LEFT - 6, TOP + 10, f"{high:z.3g}", anchor="end"),
        text(LEFT - 6, BOTTOM, f"{low:z.3g}", anchor="end"),
        text(LEFT, BOTTOM + 18, f"step {first}", anchor="start"),
        text(RIGHT, BOTTOM + 18, f"step {last}", anchor="end"),
    ]
    title = f"Loss from step {first} to {last}: {smooth[0]:z.3g} to {smooth[-1]:z.3g}"
    return drawing(WIDTH, HEIGHT, shapes, title)
