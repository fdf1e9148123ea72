"""The course of a fit as an inline SVG, drawn without a library and readable without a script."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from hiper.training import ProgressEvent

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 60, 12, 12, 34
_WINDOW = 0.05
"""Share of all records that the smooth line averages over."""


def loss_curve(records: Sequence[ProgressEvent]) -> str:
    """Return an <svg> of the losses of two or more records, faint, and of their moving mean."""
    losses = [record.loss for record in records]
    steps = [record.step for record in records]
    low, high = min(losses), max(losses)
    smooth = _moving_mean(losses, max(1, round(_WINDOW * len(losses))))
    label = f"Loss from step {steps[0]} to {steps[-1]}: {smooth[0]:z.3g} to {smooth[-1]:z.3g}"
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" aria-label="{label}">',
        f'<rect x="{LEFT}" y="{TOP}" width="{_inner()[0]}" height="{_inner()[1]}" fill="none" stroke="#ccc"/>',
        _line(steps, losses, low, high, "#9bb", 0.7),
        _line(steps, smooth, low, high, "#a30", 2),
        *(
            _label(LEFT - 6, y, f"{value:z.3g}", "end")
            for y, value in ((TOP + 10, high), (HEIGHT - BOTTOM, low))
        ),
        _label(LEFT, HEIGHT - BOTTOM + 18, f"step {steps[0]}", "start"),
        _label(WIDTH - RIGHT, HEIGHT - BOTTOM + 18, f"step {steps[-1]}", "end"),
        "</svg>",
    ]
    return "\n".join(parts)


def _moving_mean(values: Sequence[float], window: int) -> list[float]:
    return [fmean(values[max(0, i - window) : i + window + 1]) for i in range(len(values))]


def _inner() -> tuple[int, int]:
    return WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM


def _line(
    steps: Sequence[int], values: Sequence[float], low: float, high: float, colour: str, width: float
) -> str:
    across, down = _inner()
    length, height = steps[-1] - steps[0], high - low or 1.0
    points = " ".join(
        f"{LEFT + across * (step - steps[0]) / length:.1f},{TOP + down * (high - value) / height:.1f}"
        for step, value in zip(steps, values, strict=True)
    )
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" font-size="12" text-anchor="{anchor}">{text}</text>'
