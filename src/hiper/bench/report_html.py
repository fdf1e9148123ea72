"""The report as one self-contained page: tables, and a row of pictures per subject and edit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hiper.bench.report import BenchReport
from hiper.bench.report_tables import EMPTY, facts, tables
from hiper.files import is_file_within
from hiper.html import document, escape, html_row, picture, table, table_row


def page(report: BenchReport, folder: Path) -> str:
    """Return the page; the pictures are read from the run's folder."""
    parts = [
        "<ul>",
        *(f"<li>{escape(name)}: {escape(value)}</li>" for name, value in facts(report).items()),
        *(f'<li class="note">{escape(note)}</li>' for note in report.notes),
        "</ul>",
        *(
            f"<h2>{escape(each.title)}</h2><p>{escape(each.text)}</p>{table(each.rows)}"
            for each in tables(report)
        ),
        f"<h2>Pictures</h2><p>Of seed {report.run.identity.seed}.</p><table>",
        *_gallery(report, folder),
        "</table>",
    ]
    return document("Benchmark", parts)


def _gallery(report: BenchReport, folder: Path) -> Iterator[str]:
    arms = list(report.run.arms)
    yield table_row("th", ["subject and edit", "source", "true answer", *arms])
    for subject, edits in report.run.subjects.items():
        for edit in edits:
            yield _pictures(report, folder, subject, edit)


def _pictures(report: BenchReport, folder: Path, subject: str, edit: str) -> str:
    key = (subject, edit, report.run.identity.seed)
    cells = {arm: cells[key] for arm, cells in report.cells.items() if key in cells}
    captions = dict.fromkeys(text for cell in cells.values() for text in (cell.caption, cell.prompt))
    place = folder / "subjects" / subject
    shown = [
        _picture(place / "source.png", "source", folder),
        _picture(place / f"{edit}-truth.png", "true answer", folder),
    ]
    for arm in report.run.arms:
        path = report.run.paths(folder, arm, subject)[edit, key[2]].with_suffix(".png")
        shown.append(_picture(path, f"{arm}: {cells[arm].prompt}", folder) if arm in cells else EMPTY)
    label = "<br>".join(escape(text) for text in (f"{subject}, {edit}", *captions))
    return html_row("td", [label, *shown])


def _picture(path: Path, alt: str, folder: Path) -> str:
    return picture(path.read_bytes(), alt) if is_file_within(path, folder) else EMPTY
