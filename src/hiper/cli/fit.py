"""`hiper fit`: from a picture to a file, saved again and again on the way; and the part shared with `run`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from hiper import files
from hiper.cli.arguments import method_options, one_picture
from hiper.cli.options import (
    BackboneName,
    FitSeed,
    Hardware,
    MethodName,
    MethodOption,
    Others,
    OutFile,
    Overwrite,
    Preset,
)
from hiper.cli.progress import Report
from hiper.cli.session import Session
from hiper.errors import Interrupted, OptionError, ResumeError
from hiper.training import checkpoint_beside, duration

if TYPE_CHECKING:
    from PIL.Image import Image

    from hiper.artifacts import Artifact
    from hiper.backbones import Backbone
    from hiper.images import Subject
    from hiper.methods import Method
    from hiper.training import CheckpointFile, ProgressEvent

AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class FitRequest:
    """Which picture is to be learnt, by which model, and how."""

    image: Annotated[Path, Argument(metavar="IMAGE", help="The picture to fit.")]
    caption: Annotated[
        str, Option(metavar="TEXT", help="What the picture shows; auto: let a model describe it.")
    ]
    captioner: Annotated[
        str | None,
        Option(
            help="BLIP or Florence-2 for --caption auto, a folder or Hub id; the embedded model needs none."
        ),
    ] = None
    backbone: BackboneName = "critters"
    method: MethodName = "hiper"
    preset: Preset = "auto"
    option: MethodOption = None
    mask: Annotated[
        Path | None, Option(metavar="MASK", help="Mask of the picture's size, white on the subject.")
    ] = None
    seed: FitSeed = None
    no_source: Annotated[bool, Option(help="Do not store the picture's latents in the file.")] = False
    frame: Annotated[int | None, Option(min=0, help="Frame of an animation, from 0.")] = None
    background: Annotated[str, Option(metavar="COLOUR", help="Colour behind transparent parts.")] = "white"
    allow_truncated: Annotated[bool, Option(help="Accept a truncated image file.")] = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A fit whose picture and options have been checked, before any model is loaded."""

    subject: Subject
    method: Method[Any]
    options: Any


def fit(
    session: Session,
    request: FitRequest,
    hardware: Hardware,
    *,
    others: Others = None,
    out: OutFile,
    resume: Annotated[bool, Option(help="Resume an interrupted fit.")] = False,
    force: Annotated[bool, Option(help="Discard an interrupted fit and start again.")] = False,
    checkpoint_every: Annotated[
        int, Option(min=0, max=3600, metavar="SECONDS", help="Seconds between checkpoints.")
    ] = 20,
    overwrite: Overwrite = False,
) -> None:
    """Learn the subject of one picture."""
    one_picture(others)
    if resume and force:
        raise OptionError("--resume continues an interrupted fit, --force starts again; give one of them")
    files.check_writable(out, overwrite=overwrite)
    with files.lock(out), session.progress() as report:
        path = checkpoint_beside(out)
        if path.exists() and not (resume or force):
            raise ResumeError(
                f"{str(path)!r} holds an interrupted fit; continue it with --resume, or start again with --force"
            )
        if resume and not path.exists():
            session.console.note("there is no interrupted fit to resume; starting a new one")
        plan = prepare(session, request, hardware)
        from hiper.training import CheckpointFile

        backbone = load_model(request.backbone, hardware, report)
        checkpoint = CheckpointFile(path=path, every_seconds=checkpoint_every, resume=resume)
        try:
            artifact = run_fit(session, plan, backbone, out, checkpoint, report, overwrite=overwrite)
        except Interrupted as stopped:
            where = "; continue with --resume" if path.exists() else ""
            raise Interrupted(f"{stopped}{where}", stopped.signal_number) from stopped
        except ResumeError as error:
            raise ResumeError(f"{error} (--force)") from error
    size = out.stat().st_size
    session.console.result(
        {"artifact": str(out), "bytes": size, **artifact.describe()},
        [f"{out} ({size / 1000:.0f} KB), {_summary(artifact)}"],
    )


def prepare(session: Session, request: FitRequest, hardware: Hardware) -> Plan:
    """Check picture, method and options; a mistake in them is reported before a model is loaded."""
    from hiper.images import Subject

    caption = _automatic_caption(session, request, hardware) or request.caption
    subject = Subject.open(
        request.image,
        caption=caption,
        mask=request.mask,
        frame=request.frame,
        background=request.background,
        allow_truncated=request.allow_truncated,
    )
    from hiper.critters import tell_of_strangers
    from hiper.methods import get_method
    from hiper.seeds import RANDOM, resolve_seed

    method = get_method(request.method)
    given = method_options(request.option, request.seed)
    if request.no_source and "source" in given:
        raise OptionError("--no-source and -o source are both given; give one of them")
    if request.no_source:
        given["source"] = False
    options: Any = method.options_for(request.backbone, request.preset, **given)
    session.console.note(*subject.notes)
    if options.as_mapping().get("seed") == RANDOM:
        options = replace(options, seed=resolve_seed(RANDOM))
        session.console.note(f"the fit's seed is {options.seed}, chosen at random")
    tell_of_strangers(subject, request.backbone)
    return Plan(subject=subject, method=method, options=options)


def _automatic_caption(session: Session, request: FitRequest, hardware: Hardware) -> str | None:
    """Return the caption found for the picture, and tell it; None when the user gave one.

    Only a captioner that was named is loaded, and only its Hub id fetched.
    """
    if request.caption != AUTO:
        if request.captioner is not None:
            raise OptionError("--captioner is for --caption auto; leave one of them away")
        return None
    if request.captioner is None and request.backbone != "critters":
        raise OptionError(
            "--caption auto needs --captioner NAME, the folder or Hub id of a BLIP or Florence-2,"
            " such as Salesforce/blip-image-captioning-base; or write the caption yourself"
        )
    from hiper.images import open_image

    opened = open_image(
        request.image,
        frame=request.frame,
        background=request.background,
        allow_truncated=request.allow_truncated,
    )
    caption = _described(opened.image, request.captioner, hardware)
    session.console.note(f"the caption is {caption!r}; if that is wrong, write your own with --caption")
    return caption


def _described(picture: Image, captioner: str | None, hardware: Hardware) -> str:
    if captioner is None:
        from hiper.critters import describe

        return describe(picture)
    from hiper.metrics import Captioner

    return Captioner.load(captioner, local_only=False, device=hardware.device).caption(picture)


def load_model(
    name: str,
    hardware: Hardware,
    report: Report,
    *,
    revision: str | None = None,
    local_only: bool | None = None,
) -> Backbone:
    """Load a backbone, telling that this is under way."""
    report(f"loading {name}", 0, 0)
    from hiper.backbones import load_backbone

    return load_backbone(name, revision=revision, local_only=local_only, **vars(hardware))


def load_model_of(artifact: Artifact, name: str | None, hardware: Hardware, report: Report) -> Backbone:
    """Load the model `name`, or the one that an artifact names, as it was loaded for its fit.

    The file may come from anybody, so a model that it alone names is never downloaded.
    """
    if name is not None:
        return load_model(name, hardware, report)
    return load_model(
        artifact.backbone,
        replace(hardware, prediction_type=hardware.prediction_type or artifact.prediction_type),
        report,
        revision=artifact.revision or None,
        local_only=True,
    )


def run_fit(
    session: Session,
    plan: Plan,
    backbone: Backbone,
    out: Path,
    checkpoint: CheckpointFile,
    report: Report,
    *,
    overwrite: bool,
    loss_history: list[ProgressEvent] | None = None,
) -> Artifact:
    """Fit with progress and write the artifact; a signal stops it between two steps, its state in the checkpoint.

    Args:
        session: Of the command.
        plan: What to fit.
        backbone: The model.
        out: The artifact's file.
        checkpoint: Where the fit saves itself.
        report: Shows the progress.
        overwrite: Whether a file that is there may be replaced.
        loss_history: Receives every event.
    """

    def report_step(record: ProgressEvent) -> None:
        report("fitting", record.step, record.steps)
        if loss_history is not None:
            loss_history.append(record)

    from hiper.training import FitControl

    plan.method.check(backbone)
    control = FitControl(callback=report_step, checkpoint=checkpoint, should_stop=session.stop.requested)
    with session.stop.deferred(once_asked=True):
        artifact = plan.method.fit(backbone, plan.subject, plan.options, control)
        artifact.save(out, overwrite=overwrite)
        checkpoint.remove()
    return artifact


def _summary(artifact: Artifact) -> str:
    """Return the figures of a fit, the losses as one pair and the time with its unit."""
    figures = dict(artifact.figures)
    took = f"took {duration(figures.pop('seconds'))}" if "seconds" in figures else ""
    loss = ""
    if {"loss_before", "loss_after"} <= figures.keys():
        loss = f"loss {figures.pop('loss_before'):z.4g} -> {figures.pop('loss_after'):z.4g}"
    others = [f"{name} {value:z.4g}" for name, value in figures.items()]
    return ", ".join(filter(None, [loss, *others, took]))
