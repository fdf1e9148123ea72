"""`hiper attention`: from an artifact to a page and a JSON file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from hiper import files
from hiper.cli.command import Without
from hiper.cli.fit import load_model_of
from hiper.cli.options import Device, LearntFile, Overwrite, OwnBackbone, SamplingOptions
from hiper.cli.progress import Report
from hiper.cli.session import Session
from hiper.errors import OptionError
from hiper.files import make_folder

if TYPE_CHECKING:
    from hiper.analysis.attention import Study
    from hiper.artifacts import Artifact
    from hiper.backbones import Backbone
    from hiper.images import Subject

PAGE, RECORD = "attention.html", "attention.json"


@dataclass(frozen=True, kw_only=True)
class AttentionRequest(SamplingOptions):
    """What is to be captured: a drawing, or a picture that is read under noise."""

    out: Annotated[Path, Option(metavar="DIR", help="Output folder for attention.html and attention.json.")]
    prompt: Annotated[
        str | None, Option(metavar="TEXT", help="What to draw; default: the caption of the fit.")
    ] = None
    picture: Annotated[
        Path | None,
        Option(metavar="IMAGE", help="Add noise to this picture and analyse it, instead of drawing one."),
    ] = None
    mask: Annotated[
        Path | None, Option(metavar="MASK", help="Mask of that picture, white on the subject.")
    ] = None
    seed: Annotated[int, Option(min=0, help="Seed of the noise.")] = 0
    overwrite: Overwrite = False


def attention(
    session: Session,
    file: LearntFile,
    request: Annotated[AttentionRequest, Without("keep")],
    hardware: Device,
    backbone: OwnBackbone = None,
) -> None:
    """Show which tokens the picture attends to, and where."""
    from hiper.artifacts import Artifact

    subject = _subject(request)
    session.console.note(*(subject.notes if subject is not None else ()))
    artifact = Artifact.load(file)
    make_folder(request.out)
    for name in (PAGE, RECORD):
        files.check_writable(request.out / name, overwrite=request.overwrite)
    with files.lock(request.out / PAGE), session.progress() as report:
        model = load_model_of(artifact, backbone, hardware, report)
        study = _study(model, artifact, subject, request, report)
        written = _write(study, request.out, overwrite=request.overwrite)
    record = {"artifact": str(file), **study.as_record(maps=False), "files": [str(path) for path in written]}
    session.console.result(record, [*_lines(study), *map(str, written)])


def _subject(request: AttentionRequest) -> Subject | None:
    """Refuse, before any model is loaded, what makes no sense of a picture or of a drawing."""
    if request.picture is None:
        if request.mask is not None:
            raise OptionError("--mask says where the subject of a picture is; give that picture by --picture")
        return None
    for name in ("guidance_scale", "num_inference_steps", "scheduler", "height", "width", "negative_prompt"):
        if getattr(request, name) not in (None, ""):
            option = name.replace("_", "-")
            raise OptionError(
                f"--{option} is for drawing, and with --picture nothing is drawn; leave one away"
            )
    from hiper.images import Subject

    return Subject.open(request.picture, caption=request.prompt or "a picture", mask=request.mask)


def _study(
    backbone: Backbone, artifact: Artifact, subject: Subject | None, request: AttentionRequest, report: Report
) -> Study:
    from hiper.analysis.attention import study_drawing, study_picture
    from hiper.options import sampling_of

    def step(done: int, total: int) -> None:
        report("reading the attention", done, total)

    if subject is not None:
        return study_picture(
            backbone,
            artifact,
            subject.image,
            request.prompt,
            mask=subject.mask,
            seed=request.seed,
            strength=request.strength,
            callback=step,
        )
    return study_drawing(
        backbone, artifact, request.prompt, seed=request.seed, callback=step, **sampling_of(request)
    )


def _write(study: Study, out: Path, *, overwrite: bool) -> list[Path]:
    from hiper.analysis.attention import page

    record = json.dumps(study.as_record(maps=True), ensure_ascii=False, allow_nan=False)
    for name, text in {PAGE: page(study), RECORD: f"{record}\n"}.items():
        files.atomic_write(out / name, text.encode(errors="backslashreplace"), overwrite=overwrite)
    return [out / PAGE, out / RECORD]


def _lines(study: Study) -> Iterator[str]:
    from hiper.analysis.attention import groups_table

    for row in groups_table(study, study.learnt, ""):
        yield "".join(f"{cell:<16}" for cell in row).rstrip()
