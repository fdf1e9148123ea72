"""The files of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hiper.bench.report import BenchReport
from hiper.bench.report_html import page
from hiper.bench.report_tables import cells_csv, markdown, summary_csv, tables
from hiper.files import atomic_write, check_writable, make_folder


@dataclass(frozen=True, kw_only=True)
class Written:
    """The files, and the lines of the first table."""

    files: Sequence[Path]
    summary: Sequence[str]


def write_report(report: BenchReport, folder: Path, out: Path, *, overwrite: bool) -> Written:
    """Write `report.md`, `report.csv`, `cells.csv` and `report.html` to `out`; OutputError as in `atomic_write`."""
    texts = {
        "report.md": markdown(report),
        "report.csv": summary_csv(report),
        "cells.csv": cells_csv(report),
        "report.html": page(report, folder),
    }
    within = folder if out.is_relative_to(folder) else None
    files = [make_folder(out, within=within) / name for name in texts]
    for path in files:
        check_writable(path, overwrite=overwrite)
    for path, text in zip(files, texts.values(), strict=True):
        atomic_write(path, text.encode(errors="backslashreplace"), overwrite=overwrite)
    summary = [f"| {' | '.join(row)} |" for row in tables(report)[0].rows]
    return Written(files=files, summary=summary)
