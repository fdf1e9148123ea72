"""The report of a run: every arm's scores and costs, and comparisons over the cells that arms share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hiper.bench.records import CellResult, Run
from hiper.bench.statistics import (
    FEWEST,
    INTERVALS,
    IntervalEstimate,
    Summary,
    difference,
    gap_closed,
    summarise,
)
from hiper.errors import OptionError
from hiper.options import suggestion

FLOOR, CEILING = "none", "truth"

Key = tuple[str, str, int]
"""Subject, edit and seed: what must agree for two cells to be compared."""


@dataclass(frozen=True, kw_only=True)
class ArmRow:
    """The figures of one arm.

    Attributes:
        arm: Its canonical text.
        edit: The only kind of edit that counts; None for all.
        cells: How many count.
        scores: By metric.
        fit_seconds: Per fit, of a subject or (`per_sentence`) of one edit of it.
        edit_seconds: Per picture.
        artifact_bytes: Per fit.
        per_sentence: A fit serves one prompt alone.
    """

    arm: str
    edit: str | None
    cells: int
    scores: Mapping[str, Summary]
    fit_seconds: Summary
    edit_seconds: Summary
    artifact_bytes: Summary
    per_sentence: bool


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One arm in one metric.

    Attributes:
        arm: Its canonical text.
        metric: Its name.
        difference: From the reference.
        gap_closed: Percent of the way from floor to ceiling.
    """

    arm: str
    metric: str
    difference: IntervalEstimate | None
    gap_closed: IntervalEstimate | None


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """All figures of a run.

    Attributes:
        run: Its description.
        cells: Those that are there, by arm.
        expected: Cells of the complete run.
        reference: The arm that others are compared with.
        rows: One for each arm.
        rows_by_edit: One for each arm and kind of edit.
        comparisons: One for each arm and metric.
        notes: For the reader.
    """

    run: Run
    cells: Mapping[str, Mapping[Key, CellResult]]
    expected: int
    reference: str | None
    rows: Sequence[ArmRow]
    rows_by_edit: Sequence[ArmRow]
    comparisons: Sequence[Comparison]
    notes: Sequence[str]

    @property
    def missing(self) -> int:
        """Cells that are still to be drawn."""
        return self.expected - sum(map(len, self.cells.values()))

    def as_record(self) -> dict[str, object]:
        """Return everything but the single cells, ready for JSON."""
        return {
            "identity": asdict(self.run.identity),
            "expected": self.expected,
            "missing": self.missing,
            "reference": self.reference,
            "intervals": INTERVALS,
            "metrics": {name: asdict(metric) for name, metric in self.run.metrics.items()},
            "arms": [asdict(row) for row in self.rows],
            "edits": [asdict(row) for row in self.rows_by_edit],
            "comparisons": [asdict(each) for each in self.comparisons],
        }


def build_report(folder: Path, reference: str | None = None) -> BenchReport:
    """Read a run's folder; a cell that cannot be read is named by a note, and counts as missing.

    Args:
        folder: Of the run.
        reference: The arm that others are compared with; None takes the first of the method `hiper`.

    Raises:
        OptionError: The folder holds no run, or a damaged one, or no such arm.
    """
    run = Run.load(folder)
    wanted = {arm: _paths(run, folder, arm) for arm in run.arms}
    damaged: list[str] = []
    cells = {arm: _load(paths, damaged) for arm, paths in wanted.items()}
    chosen = _reference(run, reference)
    edits = dict.fromkeys(edit for edits in run.subjects.values() for edit in edits)
    expected = sum(map(len, wanted.values()))
    return BenchReport(
        run=run,
        cells=cells,
        expected=expected,
        reference=chosen,
        rows=[_row(run, arm, None, cells[arm]) for arm in run.arms],
        rows_by_edit=[_row(run, arm, edit, cells[arm]) for edit in edits for arm in run.arms],
        comparisons=[_compare(run, cells, arm, chosen, metric) for arm in run.arms for metric in run.metrics],
        notes=[*_notes(run, cells, expected, chosen), *damaged],
    )


def _load(paths: Mapping[Key, Path], damaged: list[str]) -> dict[Key, CellResult]:
    """Read the cells that are there; a line for each that cannot be read goes to `damaged`."""
    cells = {}
    for key, path in paths.items():
        try:
            if path.exists():
                cells[key] = CellResult.load(path)
        except OptionError as error:
            damaged.append(f"left out: {error}")
    return cells


def _paths(run: Run, folder: Path, arm: str) -> dict[Key, Path]:
    return {
        (subject, edit, seed): path
        for subject in run.subjects
        for (edit, seed), path in run.paths(folder, arm, subject).items()
    }


def _reference(run: Run, name: str | None) -> str | None:
    """Return the arm asked for, or else the first of the method hiper."""
    if name is None:
        return next((arm for arm in run.arms if arm.replace(":", ",").split(",")[0] == "hiper"), None)
    if name not in run.arms:
        raise OptionError(
            f"reference is {name!r}; arms of this run are {', '.join(run.arms)}{suggestion(name, run.arms)}"
        )
    return name


def _row(run: Run, arm: str, edit: str | None, cells: Mapping[Key, CellResult]) -> ArmRow:
    cells = {key: cell for key, cell in cells.items() if edit in (None, cell.edit)}
    fits = {(cell.subject, cell.per_sentence and cell.edit): cell for cell in cells.values()}.values()
    return ArmRow(
        arm=arm,
        edit=edit,
        cells=len(cells),
        scores={name: summarise(cell.scores.get(name) for cell in cells.values()) for name in run.metrics},
        fit_seconds=summarise(cell.fit_seconds for cell in fits),
        edit_seconds=summarise(cell.edit_seconds for cell in cells.values()),
        artifact_bytes=summarise(cell.artifact_bytes for cell in fits),
        per_sentence=any(cell.per_sentence for cell in fits),
    )


def _compare(
    run: Run, cells: Mapping[str, Mapping[Key, CellResult]], arm: str, reference: str | None, metric: str
) -> Comparison:
    def rows(*arms: str) -> dict[str, list[tuple[float, ...]]]:
        return common([cells[each] for each in arms], metric)

    has_gap = FLOOR in cells and CEILING in cells
    better = run.metrics[metric].better
    return Comparison(
        arm=arm,
        metric=metric,
        difference=difference(rows(arm, reference)) if reference and reference != arm else None,
        gap_closed=gap_closed(rows(FLOOR, arm, CEILING), better) if has_gap else None,
    )


def common(
    arms: Sequence[Mapping[Key, CellResult]], metric: str | Callable[[CellResult], float | None]
) -> dict[str, list[tuple[float, ...]]]:
    """Pair the scores of arms.

    Args:
        arms: Their cells.
        metric: Its name, or what returns a cell's score.

    Returns:
        Subject to the scores of all arms side by side, of the cells for which every arm has one.
    """

    def score(cell: CellResult | None) -> float | None:
        if cell is None:
            return None
        return cell.scores.get(metric) if isinstance(metric, str) else metric(cell)

    rows: dict[str, list[tuple[float, ...]]] = {}
    for key in arms[0]:
        values = [score(arm.get(key)) for arm in arms]
        known = tuple(value for value in values if value is not None)
        if len(known) == len(arms):
            rows.setdefault(key[0], []).append(known)
    return rows


def _notes(
    run: Run, cells: Mapping[str, Mapping[Key, CellResult]], expected: int, reference: str | None
) -> list[str]:
    there = [cell for arm in cells.values() for cell in arm.values()]
    flagged = sum(cell.flagged for cell in there)
    versions = {tuple(sorted(cell.versions.items())) for cell in there}
    notes = {
        f"incomplete: {expected - len(there)} of {expected} cells are missing; the same run goes on with them": (
            len(there) < expected
        ),
        "the suite has no metrics: pictures were drawn, and nothing was scored": not run.metrics,
        "no arm is the method hiper, so none is compared with; name one (--reference)": reference is None,
        f"{len(run.subjects)} subjects, so no intervals: they take {FEWEST}": len(run.subjects) < FEWEST,
        f"the safety checker blackened {flagged} pictures": flagged > 0,
        "the cells were drawn by different releases of hiper or its libraries": len(versions) > 1,
    }
    return [note for note, applies in notes.items() if applies]
