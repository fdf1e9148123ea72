"""One run as one page: what was learnt, what was drawn, strengths against seeds, the loss, and the attention."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from hiper.analysis.attention import Study
from hiper.analysis.attention import fragment as attention_fragment
from hiper.artifacts import Artifact, EditResult, public_name
from hiper.html import document, escape, figure, html_row, loss_curve, picture, table
from hiper.training import ProgressEvent


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """One prompt and its pictures.

    Attributes:
        results: Its edits.
        grid: Strength to one picture for each of `grid_seeds`.
        grid_seeds: Of the grid.
    """

    results: Sequence[EditResult]
    grid: Mapping[float, Sequence[Image.Image]]
    grid_seeds: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """Everything the page shows.

    Attributes:
        artifact: What was learnt.
        command: As it was given, one line.
        notes: For the user.
        source: The picture that was learnt; None when only its thumbnail is at hand.
        sentences: The prompts and their pictures.
        loss_history: Losses of the fit; empty when the fit is of an earlier run.
        study: The attention of the first prompt, or in words why that is unknown.
    """

    artifact: Artifact
    command: str
    notes: Sequence[str]
    source: Image.Image | None
    sentences: Sequence[Sentence]
    loss_history: Sequence[ProgressEvent]
    study: Study | str


def page(report: RunReport) -> str:
    """Return a self-contained page; every text is escaped."""
    parts = [
        *_learnt(report),
        *(part for sentence in report.sentences for part in _drawn(sentence)),
        *_loss(report),
        *_attention(report.study),
        *_made(report),
    ]
    return document(f"“{report.artifact.caption}”", parts)


def _learnt(report: RunReport) -> Iterator[str]:
    artifact = report.artifact
    yield from (f'<p class="note">{escape(note)}</p>' for note in report.notes)
    yield "<h2>Learnt from</h2>"
    if report.source is not None:
        yield figure(report.source, artifact.caption)
    elif _is_jpeg(artifact.thumbnail):
        yield f'<figure><img alt="{escape(artifact.caption)}" src="{artifact.thumbnail}"></figure>'
    else:
        yield f"<p>A picture of {escape(artifact.caption)}.</p>"


def _drawn(sentence: Sentence) -> Iterator[str]:
    first = sentence.results[0]
    yield f"<h2>{escape(first.prompt)}</h2>"
    settings = first.settings
    yield (
        f"<p>Strength {settings.strength:zg}, guidance scale {settings.guidance_scale:zg},"
        f" {settings.num_inference_steps} steps of"
        f" {escape(settings.scheduler)}, {settings.width} x {settings.height} pixels.</p>"
    )
    for result in sentence.results:
        for seed, image in zip(result.seeds, result.images, strict=True):
            yield figure(image, f"seed {seed}")
    yield "<h3>Strength against seed</h3>"
    yield "<p>Strength: how much of what was learnt is in the picture; 0 is nothing of it.</p><table>"
    yield html_row("th", ["", *(f"seed {seed}" for seed in sentence.grid_seeds)])
    for strength, images in sentence.grid.items():
        shown = [
            picture(image, f"strength {strength:zg}, seed {seed}")
            for seed, image in zip(sentence.grid_seeds, images, strict=True)
        ]
        yield html_row("td", [f"{strength:zg}", *shown])
    yield "</table>"


def _loss(report: RunReport) -> Iterator[str]:
    yield "<h2>The loss while fitting</h2>"
    finite = [record for record in report.loss_history if math.isfinite(record.loss)]
    if len(finite) > 1:
        yield loss_curve(finite)
    else:
        yield "<p>The fit is of an earlier run, whose losses were not kept.</p>"
    figures = report.artifact.figures
    if {"loss_before", "loss_after"} <= figures.keys():
        yield (
            f"<p>On one batch held fixed: {figures['loss_before']:.4f} before,"
            f" {figures['loss_after']:.4f} after.</p>"
        )


def _attention(study: Study | str) -> Iterator[str]:
    yield "<h2>Attention</h2>"
    yield f"<p>{escape(study)}</p>" if isinstance(study, str) else attention_fragment(study)


def _made(report: RunReport) -> Iterator[str]:
    artifact = report.artifact
    yield f"<h2>The command</h2><pre>{escape(report.command)}</pre>"
    values = {
        "model": public_name(artifact.backbone, artifact.revision),
        "method": artifact.method,
        **artifact.options,
        **{f"edit, {name}": value for name, value in artifact.edit.items()},
        **artifact.versions,
        "created": artifact.created,
    }
    yield "<h2>The fit</h2>"
    yield table([("what", "value"), *((name, str(value)) for name, value in values.items())])


def _is_jpeg(url: str) -> bool:
    """Whether the thumbnail of a header, which may come from anybody, is a JPEG in base64."""
    return re.fullmatch(r"data:image/jpeg;base64,/9j/[A-Za-z0-9+/]*={0,2}", url) is not None
