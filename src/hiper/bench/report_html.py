"""The report as one page that needs nothing else: tables, and a row of pictures per subject and edit."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from hiper.bench.report import Report
from hiper.bench.report_tables import EMPTY, Table, facts, tables

SIDE = 256
"""Pixels of the longer side of a picture, at most."""

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { padding: .3rem .6rem; text-align: left; border-bottom: 1px solid #ccc; vertical-align: top; }
img { width: 8rem; image-rendering: auto; display: block; }
.note { font-weight: bold; }
"""


def page(report: Report, folder: Path) -> str:
    """Return the page; the pictures are read from the run's folder."""
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">',
        f"<title>Benchmark</title><style>{_STYLE}</style></head><body><h1>Benchmark</h1><ul>",
        *(f"<li>{escape(name)}: {escape(value)}</li>" for name, value in facts(report).items()),
        *(f'<li class="note">{escape(note)}</li>' for note in report.notes),
        "</ul>",
        *(_table(table) for table in tables(report)),
        f"<h2>Pictures</h2><p>Of seed {report.run.identity.seed}.</p><table>",
        *_gallery(report, folder),
        "</table></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _table(table: Table) -> str:
    head, *rows = table.rows
    lines = [f"<h2>{escape(table.title)}</h2><p>{escape(table.text)}</p><table>", _row("th", head)]
    return "\n".join([*lines, *(_row("td", row) for row in rows), "</table>"])


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _gallery(report: Report, folder: Path) -> Iterator[str]:
    arms = list(report.run.arms)
    yield _row("th", ["subject and edit", "source", "true answer", *arms])
    for subject, edits in report.run.subjects.items():
        for edit in edits:
            yield _pictures(report, folder, subject, edit)


def _pictures(report: Report, folder: Path, subject: str, edit: str) -> str:
    key = (subject, edit, report.run.identity.seed)
    cells = {arm: cells[key] for arm, cells in report.cells.items() if key in cells}
    captions = dict.fromkeys(text for cell in cells.values() for text in (cell.caption, cell.prompt))
    place = folder / "subjects" / subject
    shown = [_picture(place / "source.png", "source"), _picture(place / f"{edit}-truth.png", "true answer")]
    for arm in report.run.arms:
        path = report.run.paths(folder, arm, subject)[edit, key[2]].with_suffix(".png")
        shown.append(_picture(path, f"{arm}: {cells[arm].prompt}") if arm in cells else EMPTY)
    told = "<br>".join(escape(text) for text in (f"{subject}, {edit}", *captions))
    return f"<tr><td>{told}</td>" + "".join(f"<td>{each}</td>" for each in shown) + "</tr>"


def _picture(path: Path, alt: str) -> str:
    if not path.exists():
        return EMPTY
    return f'<img alt="{escape(alt)}" src="{_data_url(path)}">'


def _data_url(path: Path) -> str:
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=90, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
