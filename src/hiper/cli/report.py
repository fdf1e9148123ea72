"""`--report`: what a page of a run needs beyond its pictures is drawn here, and the page written."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hiper import files
from hiper.cli.progress import Report
from hiper.cli.session import Session
from hiper.errors import OptionError

if TYPE_CHECKING:
    from PIL.Image import Image

    from hiper.analysis import Sentence
    from hiper.analysis.attention import Study
    from hiper.artifacts import Artifact, EditResult
    from hiper.backbones import Backbone
    from hiper.inference import EditStart
    from hiper.training import ProgressEvent

STRENGTHS = (0.0, 0.5, 0.8, 1.0)
"""Rows of the grid, besides the strength that was asked for."""
SEEDS = 3
"""Columns of the grid, at most."""


def write_report(
    session: Session,
    path: Path,
    backbone: Backbone,
    artifact: Artifact,
    results: Sequence[EditResult],
    report: Report,
    *,
    overwrite: bool,
    start: EditStart,
    source: Image | None = None,
    loss_history: Sequence[ProgressEvent] = (),
) -> None:
    """Draw the grids, capture the attention of the first sentence, and write the page."""
    from hiper.analysis import RunReport, page

    by_prompt: dict[str, list[EditResult]] = {}
    for result in results:
        by_prompt.setdefault(result.prompt, []).append(result)
    sentences = [_sentence(backbone, artifact, each, report, start) for each in by_prompt.values()]
    whole = RunReport(
        artifact=artifact,
        command=shlex.join(["hiper", *session.arguments]),
        notes=session.console.notes,
        source=source,
        sentences=sentences,
        loss_history=loss_history,
        study=_study(backbone, artifact, results[0], report),
    )
    text = page(whole)
    files.atomic_write(path, text.encode(errors="backslashreplace"), overwrite=overwrite)


def _sentence(
    backbone: Backbone, artifact: Artifact, results: Sequence[EditResult], report: Report, start: EditStart
) -> Sentence:
    from hiper.analysis import Sentence
    from hiper.inference import edit
    from hiper.options import SamplingKwargs, sampling_of

    first = results[0]
    drawn = dict(pair for result in results for pair in zip(result.seeds, result.images, strict=True))
    seeds, settings = list(drawn)[:SEEDS], first.settings
    grid = {settings.strength: [drawn[seed] for seed in seeds]}
    missing = [strength for strength in STRENGTHS if strength != settings.strength]
    for number, strength in enumerate(missing):
        report("drawing the report's grid", number, len(missing))
        sampling: SamplingKwargs = {**sampling_of(settings), "strength": strength}
        grid[strength] = edit(
            *(backbone, artifact, first.prompt), seeds=seeds, batch_size=first.batch_size, **start, **sampling
        ).images
    report("drawing the report's grid", len(missing), len(missing))
    return Sentence(results=results, grid=dict(sorted(grid.items())), grid_seeds=seeds)


def _study(backbone: Backbone, artifact: Artifact, first: EditResult, report: Report) -> Study | str:
    from hiper.analysis.attention import study_drawing
    from hiper.options import sampling_of

    try:
        return study_drawing(
            backbone,
            artifact,
            first.prompt,
            seed=first.seeds[0],
            callback=lambda done, total: report("reading the attention", done, total),
            **sampling_of(replace(first.settings, keep=0.0)),
        )
    except OptionError as error:  # a model that has no cross-attention; the rest of the page is no less true
        return str(error)
