"""The demo on the embedded model: an unseen identity, one fit, four edits, and the true answers beside them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from hiper import files
from hiper.artifacts import Artifact, EditResult
from hiper.backbones import Backbone, load_backbone
from hiper.critters import Scene, SheetRow, bare_caption, contact_sheet, draw_scene, render, subject_mask
from hiper.images import Subject, png_bytes
from hiper.inference import DEMO, edit, settings_of, text_chunks
from hiper.methods import fit
from hiper.metrics import colour_distance
from hiper.options import KEEP
from hiper.seeds import generator

UNSEEN = 10**9
"""First seed that no training picture was drawn from."""
EDITS: tuple[tuple[str, dict[str, str]], ...] = (
    ("motion", {"pose": "sitting"}),
    ("background", {"background": "beach"}),
    ("texture", {"style": "watercolor"}),
    ("two at once", {"pose": "jumping", "background": "snow"}),
)
FIGURES = ("prompt alone", "new picture", "edit", "true answer through the VAE")
"""What the figures are of; the sheet shows all but the last."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, steps done and steps in all."""


@dataclass(frozen=True, kw_only=True)
class DemoReport:
    """The result of a demo.

    Attributes:
        sheet: The file of the contact sheet.
        figures: The caption, the seconds of the fit, and colour distances `KIND, PICTURE`, lower is better.
        seconds: In all.
    """

    sheet: Path
    figures: dict[str, float | str]
    seconds: float


def demo_scene(seed: int) -> Scene:
    """Return the scene that a demo edits: an unseen animal, standing in a meadow, drawn plainly."""
    return replace(draw_scene(UNSEEN + seed), pose="standing", background="meadow", style="drawing")


def run_demo(out: Path, *, seed: int, overwrite: bool, progress: Progress) -> DemoReport:
    """Fit an unseen identity and edit it four ways; write source, artifact, contact sheet, and a picture per edit.

    Args:
        out: The folder to write to.
        seed: 0 or greater; chooses the animal.
        overwrite: Whether files that are there may be replaced.
        progress: Called after every step.

    Raises:
        OutputError: A file exists and `overwrite` is false, or cannot be written.
    """
    began = time.monotonic()
    sheet, source, tail = out / "sheet.png", out / "source.png", out / "tail.safetensors"
    edits = {kind: out / f"{files.safe_slug(kind)}.png" for kind, _ in EDITS}
    for path in (sheet, source, tail, *edits.values()):
        files.check_writable(path, overwrite=overwrite)
    backbone = load_backbone("critters")
    scene = demo_scene(seed)
    picture = render(scene, backbone.resolution)
    subject = Subject.from_image(picture, caption=bare_caption(scene))
    artifact = fit(backbone, subject, callback=lambda r: progress("fit", r.step, r.steps))
    fitted = time.monotonic()
    rows, figures = [], {}
    for done, (kind, change) in enumerate(EDITS):
        progress("edit", done, len(EDITS))
        row, figures[kind], result = _edit_row(backbone, artifact, scene.edited(**change), picture, kind)
        rows.append(row)
        chunks = text_chunks(settings_of(backbone, artifact, result, result.seeds[0]), artifact)
        data = png_bytes(result.images[0], metadata=chunks)
        files.atomic_write(edits[kind], data, overwrite=overwrite)
    progress("edit", len(EDITS), len(EDITS))
    made_by = {DEMO: str(seed)}
    files.atomic_write(source, png_bytes(picture, metadata=made_by), overwrite=overwrite)
    artifact.save(tail, overwrite=overwrite)
    whole = contact_sheet(subject.caption, rows)
    files.atomic_write(sheet, png_bytes(whole, metadata=made_by), overwrite=overwrite)
    report: dict[str, float | str] = {"caption": subject.caption, "fit_seconds": round(fitted - began, 1)}
    for kind, values in figures.items():
        report |= {f"{kind}, {name}": round(value, 2) for name, value in values.items()}
    for name in FIGURES:
        report[f"mean, {name}"] = round(statistics.mean(values[name] for values in figures.values()), 2)
    return DemoReport(sheet=sheet, figures=report, seconds=round(time.monotonic() - began, 1))


def _edit_row(
    backbone: Backbone, artifact: Artifact, truth: Scene, source: Image.Image, kind: str
) -> tuple[SheetRow, dict[str, float], EditResult]:
    """Return a row of the sheet, its colour distances to the true answer, and the edit that keeps the rest."""
    prompt = bare_caption(truth)
    answer, mask = render(truth, backbone.resolution), subject_mask(truth, backbone.resolution)
    anew, kept = (edit(backbone, artifact, prompt, keep=keep) for keep in (0.0, KEEP))
    positive, negative = backbone.encode(prompt), backbone.encode_negative("")
    plain = backbone.sample(positive, [negative], anew.settings, seeds=anew.seeds)
    ceiling = backbone.decode(backbone.latents(answer, generator(0)))
    drawn = [plain.images[0], anew.images[0], kept.images[0], ceiling[0]]
    figures = {
        name: colour_distance(picture, answer, mask) for name, picture in zip(FIGURES, drawn, strict=True)
    }
    row = SheetRow(kind=kind, prompt=prompt, pictures=(source, answer, *drawn[:3]))
    return row, figures, kept
