"""Charts as SVG: a few shapes and one kind of axis, so that a page needs no drawing library."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hiper.html.page import escape

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Distinct for people who see no red or no green (Okabe and Ito, 2008)."""
GRID, FAINT, INK = "#eee", "#888", "#222"


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Maps values to pixels, with round ticks.

    Attributes:
        low: The value at `start`.
        high: The value at `end`.
        start: In pixels.
        end: In pixels.
    """

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(
        cls, values: Iterable[float], start: float, end: float, *, low: float | None, high: float | None
    ) -> Axis:
        """Return an axis with some room around the values.

        Args:
            values: At least one.
            start: Where the axis begins, in pixels.
            end: Where it ends.
            low: The least possible value, below which there is no room; None where there is none.
            high: The greatest possible value, likewise.
        """
        known = list(values)
        least, most = min(known), max(known)
        room = 0.08 * (most - least) or 0.1 * abs(most) or 1.0
        return cls(
            low=least - room if low is None else max(least - room, low),
            high=most + room if high is None else min(most + room, high),
            start=start,
            end=end,
        )

    def at(self, value: float) -> float:
        """Return the pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return three to eight multiples of 1, 2 or 5 times a power of ten."""
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        first = math.ceil(self.low / step)
        return [step * number for number in range(first, math.floor(self.high / step) + 1)]


def drawing(width: float, height: float, shapes: Iterable[str], title: str) -> str:
    """Return a whole SVG picture, as a file or inside a page; `title` is for screen readers."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(title)}" width="{width:g}"'
        f' height="{height:g}" viewBox="0 0 {width:g} {height:g}" font-family="system-ui, sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(shapes)}</svg>'
    )


def text(
    x: float, y: float, words: str, *, anchor: str = "middle", colour: str = INK, turned: bool = False
) -> str:
    """Return words at a place in pixels; if `turned`, upwards along a vertical axis."""
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{turn}>{escape(words)}</text>'
    )


def line(
    points: Sequence[tuple[float, float]], *, colour: str, dashed: bool = False, width: float = 1.5
) -> str:
    """Return a line through points."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashes = ' stroke-dasharray="4 4"' if dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dashes}/>'


def dot(x: float, y: float, *, colour: str, size: float = 4) -> str:
    """Return a filled circle."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}" fill="{colour}"/>'
