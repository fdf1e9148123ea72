"""Means, paired differences and the share of a gap that is closed, with intervals over subjects.

Pictures of one subject resemble each other, so intervals come from drawing whole subjects with replacement
(Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
SEED = 0
LEVEL = 95.0

Rows = Mapping[str, Sequence[tuple[float, ...]]]
"""Subject -> one row of values per cell; columns are the arms that are compared."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Mean and sample standard deviation of `count` values; None where there are too few."""

    mean: float | None
    deviation: float | None
    count: int


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure and its 95 % interval, None where it cannot be told; from `cells` cells of `subjects` subjects."""

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


def mean(rows: Rows) -> Estimate | None:
    """Return the mean of the first column; None without rows."""
    if not rows:
        return None
    means, resampled = _means(rows)
    return _estimate(rows, float(means[0]), resampled[:, 0])


def difference(rows: Rows) -> Estimate | None:
    """Return the mean of first minus second column; None without rows."""
    if not rows:
        return None
    means, resampled = _means(rows)
    return _estimate(rows, float(means[0] - means[1]), resampled[:, 0] - resampled[:, 1])


def gap_closed(rows: Rows, better: Literal["higher", "lower"]) -> Estimate | None:
    """Return 100 (floor - arm) / (floor - ceiling) of the means of the columns floor, arm, ceiling.

    None without rows, and where the ceiling is not better than the floor: there is no gap to close. No
    interval where that happens among the resamples.
    """
    if not rows:
        return None
    sign = 1.0 if better == "higher" else -1.0
    means, resampled = _means(rows)
    (value,) = _percent(means[None], sign)
    return _estimate(rows, float(value), _percent(resampled, sign)) if math.isfinite(value) else None


def _percent(means: NDArray[Any], sign: float) -> NDArray[Any]:
    """Percent of the gap [n] from means [n, 3]; NaN where there is none."""
    floor, arm, ceiling = means.T
    gap = sign * (ceiling - floor)
    percent: NDArray[Any] = np.full_like(gap, np.nan)
    np.divide(100 * sign * (arm - floor), gap, out=percent, where=gap > 0)
    return percent


def _means(rows: Rows) -> tuple[NDArray[Any], NDArray[Any]]:
    """Means over all cells [columns], and over those of resampled subjects [resamples, columns]."""
    sums = np.array([np.sum(cells, axis=0) for cells in rows.values()])
    counts = np.array([len(cells) for cells in rows.values()])
    picked = np.random.default_rng(SEED).integers(len(rows), size=(RESAMPLES, len(rows)))
    return sums.sum(0) / counts.sum(), sums[picked].sum(1) / counts[picked].sum(1)[:, None]


def _estimate(rows: Rows, value: float, resampled: NDArray[Any]) -> Estimate:
    """One subject says nothing about others: no interval."""
    tails = ((100 - LEVEL) / 2, (100 + LEVEL) / 2)
    known = len(rows) > 1 and bool(np.isfinite(resampled).all())
    low, high = (float(end) for end in np.percentile(resampled, tails)) if known else (None, None)
    return Estimate(value=value, low=low, high=high, cells=sum(map(len, rows.values())), subjects=len(rows))
