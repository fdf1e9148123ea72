"""`hiper rerun`: from a picture that hiper drew to the same picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from hiper import files
from hiper.cli.fit import load_model
from hiper.cli.options import Device, Hardware, Overwrite
from hiper.cli.progress import Report
from hiper.cli.session import Session
from hiper.errors import ImageError

if TYPE_CHECKING:
    from hiper.artifacts import Artifact
    from hiper.backbones import Backbone
    from hiper.inference import DrawnPicture, PictureSettings, Redrawn


def rerun(
    session: Session,
    picture: Annotated[Path, Argument(metavar="PNG", help="A PNG drawn by hiper.")],
    hardware: Device,
    out: Annotated[Path | None, Option(help="PNG to write; default: NAME-rerun.png beside it.")] = None,
    artifact: Annotated[Path | None, Option(help="The fitted file, if the PNG does not embed it.")] = None,
    backbone: Annotated[
        str | None, Option(help="Model to use; default: the one that drew the picture.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw a picture again from the settings in its PNG."""
    from hiper.inference import check_drawn_from_artifact, read_drawn

    drawn = read_drawn(picture)
    check_drawn_from_artifact(drawn)
    learnt = _artifact(drawn, artifact)
    target = out or picture.with_name(f"{picture.stem}-rerun.png")
    files.check_writable(target, overwrite=overwrite)
    with files.lock(target), session.progress() as report:
        model = _model(drawn.settings, learnt, backbone, hardware, report)
        done = _redrawn(drawn, model, learnt, report)
        with session.stop.deferred():
            _write(model, learnt, done, drawn.settings.seed, target, overwrite=overwrite)
    if done.changed:
        session.console.note(_difference(drawn.settings, model, done))
    same = "the same pixels" if not done.changed else f"{done.changed} pixels differ"
    record = {"path": str(target), "identical": not done.changed, "changed": done.changed, "most": done.most}
    session.console.result(record, [f"{target} ({same})"])


def _artifact(drawn: DrawnPicture, file: Path | None) -> Artifact:
    from hiper.artifacts import Artifact
    from hiper.inference import check_artifact

    if file is not None:
        named = Artifact.load(file)
        check_artifact(named, drawn.settings)
        return named
    if drawn.artifact is None:
        raise ImageError(
            f"{str(drawn.path)!r} carries no artifact; name the file it was drawn with by --artifact"
            f" (its content hash begins with {drawn.settings.artifact_sha256[:10]})"
        )
    return drawn.artifact


def _model(
    settings: PictureSettings, artifact: Artifact, name: str | None, hardware: Hardware, report: Report
) -> Backbone:
    """A picture may come from anybody, so a model that it alone names is never downloaded."""
    from hiper.backbones import EMBEDDED

    how = Hardware(
        device=hardware.device,
        dtype=hardware.dtype or settings.dtype,
        quantise=settings.quantised or None,
        prediction_type=hardware.prediction_type or artifact.prediction_type,
    )
    if name is not None:
        return load_model(name, how, report)
    if settings.backbone not in EMBEDDED and not settings.revision:
        raise ImageError(
            f"drawn by the model {settings.backbone!r}, a folder or file of whoever drew it; name yours by --backbone"
        )
    return load_model(settings.backbone, how, report, revision=settings.revision or None, local_only=True)


def _redrawn(drawn: DrawnPicture, model: Backbone, artifact: Artifact, report: Report) -> Redrawn:
    from hiper.inference import rerun

    return rerun(drawn, model, artifact, callback=lambda done, total: report("drawing again", done, total))


def _write(
    model: Backbone, artifact: Artifact, done: Redrawn, seed: int, target: Path, *, overwrite: bool
) -> None:
    from hiper.images import png_bytes
    from hiper.inference import settings_of, text_chunks

    chunks = text_chunks(settings_of(model, artifact, done.result, seed), artifact)
    files.atomic_write(target, png_bytes(done.image, metadata=chunks), overwrite=overwrite)


def _difference(settings: PictureSettings, model: Backbone, done: Redrawn) -> str:
    from importlib.metadata import version

    theirs, ours = settings.versions.get("torch", "unknown"), version("torch")
    dtype = str(model.dtype).removeprefix("torch.")
    return (
        f"{done.changed} pixels differ, by at most {done.most} levels of 255: drawn on {settings.device} in"
        f" {settings.dtype} by torch {theirs}, now on {model.device.type} in {dtype} by torch {ours}"
    )
