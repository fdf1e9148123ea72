"""Means, paired differences and the share of a gap that is closed, with intervals over subjects.

Pictures of one subject resemble each other, so an interval is computed from one number per subject: how far it moves
the figure, the influence value (Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 2.7.2). The
interval is Student's, or, at an end where that reaches further, the one with the skewness of t removed (Hall, On the
removal of skewness by transformation, Journal of the Royal Statistical Society B 54, 1992).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
FEWEST = 10
"""Subjects below which there is no interval: none that was tried covers 90 % of skewed scores there."""
INTERVALS = "95 % intervals over subjects (Student's, widened for skewness; none under 10 subjects, or where all agree)"
"""How intervals are computed, in words for reports."""
_ROUNDING = 1e-12

Rows = Mapping[str, Sequence[tuple[float, ...]]]
"""Subject to one row of values per cell; columns are the arms that are compared."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Mean and sample standard deviation of `count` values; None where there are too few."""

    mean: float | None
    deviation: float | None
    count: int


@dataclass(frozen=True, kw_only=True)
class IntervalEstimate:
    """A figure and its 95 % interval.

    Attributes:
        value: The figure.
        low: The interval's lower end; None where it is unknown.
        high: The interval's upper end, likewise.
        cells: That it was computed from.
        subjects: Of these cells.
    """

    value: float
    low: float | None
    high: float | None
    cells: int
    subjects: int


def summarise(values: Iterable[float | None]) -> Summary:
    """Summarise the values that are there."""
    known = [value for value in values if value is not None]
    return Summary(
        mean=float(np.mean(known)) if known else None,
        deviation=float(np.std(known, ddof=1)) if len(known) > 1 else None,
        count=len(known),
    )


def mean(rows: Rows) -> IntervalEstimate | None:
    """Return the mean of the first column; None without rows."""
    if not rows:
        return None
    means, influences = _means(rows)
    return _estimate(rows, means[0], influences[:, 0], scale=abs(means[0]))


def difference(rows: Rows) -> IntervalEstimate | None:
    """Return the mean of first minus second column; None without rows."""
    if not rows:
        return None
    means, influences = _means(rows)
    return _estimate(
        rows, means[0] - means[1], influences[:, 0] - influences[:, 1], scale=np.abs(means).max()
    )


def gap_closed(rows: Rows, better: Literal["higher", "lower"]) -> IntervalEstimate | None:
    """Return 100 (floor - arm) / (floor - ceiling) of the means.

    Args:
        rows: Columns are floor, arm, ceiling.
        better: Whether higher or lower values are better.

    Returns:
        None without rows, and where the ceiling is not better than the floor; without an interval where the gap's own
        interval reaches 0.
    """
    if not rows:
        return None
    sign = 1.0 if better == "higher" else -1.0
    means, influences = _means(rows)
    (floor, arm, ceiling), (floors, arms, ceilings) = sign * means, sign * influences.T
    gap, scale = ceiling - floor, np.abs(means).max()
    if gap <= 0:
        return None
    closed = (arm - floor) / gap
    there = _estimate(rows, gap, ceilings - floors, scale=scale)
    found = _estimate(
        rows,
        100 * closed,
        100 * (arms - floors - closed * (ceilings - floors)) / gap,
        scale=100 * scale / gap,
    )
    return replace(found, low=None, high=None) if there.low is not None and there.low <= 0 else found


def _means(rows: Rows) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return means over all cells [columns], and the influence values of all subjects [subjects, columns]."""
    sums = np.array([np.sum(cells, axis=0) for cells in rows.values()])
    counts = np.array([[len(cells)] for cells in rows.values()])
    means = sums.sum(0) / counts.sum()
    return means, (sums - counts * means) / counts.mean()


def _estimate(rows: Rows, value: float, influences: NDArray[Any], *, scale: float) -> IntervalEstimate:
    """Return an estimate from its value and influence values [subjects], whose sum is 0.

    `scale` is that of the values they were computed from, whose rounding errors are no spread.
    """
    low, high = None, None
    if len(rows) >= FEWEST and np.abs(influences).max() > _ROUNDING * scale:
        low, high = _ends(float(value), influences)
    cells = sum(map(len, rows.values()))
    return IntervalEstimate(value=float(value), low=low, high=high, cells=cells, subjects=len(rows))


def _ends(value: float, influences: NDArray[Any]) -> tuple[float, float]:
    count = len(influences)
    error = float(np.std(influences, ddof=1)) / math.sqrt(count)
    skewness = float(np.mean(influences**3) / np.std(influences) ** 3) / math.sqrt(count)
    student = _student(count - 1)

    def unskewed(t: float) -> float:
        if abs(skewness) < 1e-6:  # its limit
            return t
        return float(3 * (np.cbrt(1 + skewness * (t - skewness / 6)) - 1) / skewness)

    return (
        value - error * max(student, unskewed(student)),
        value + error * max(student, -unskewed(-student)),
    )


def _student(freedom: int) -> float:
    """Return the quantile of Student's t at the upper end of LEVEL, to 1e-3 from 4 degrees of freedom on.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5.
    """
    x = NormalDist().inv_cdf((1 + LEVEL) / 2)
    terms = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return x + sum(term / float(freedom) ** power for power, term in enumerate(terms, start=1))
