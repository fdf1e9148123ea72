"""`hiper fit`: from a picture to a file, saved again and again on the way; and the part shared with `run`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiper import files
from hiper.cli.captions import automatic_caption
from hiper.cli.progress import Report, progress
from hiper.cli.requests import FitRequest, Hardware, Session
from hiper.errors import Interrupted, OptionError, ResumeError
from hiper.training import checkpoint_beside

if TYPE_CHECKING:
    from hiper.artifacts import Artifact
    from hiper.backbones import Backbone
    from hiper.images import Subject
    from hiper.methods import Method
    from hiper.training import CheckpointFile, ProgressEvent


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A fit whose picture and options have been checked, before any model is loaded."""

    subject: Subject
    method: Method[Any]
    options: Any


def fit_to_file(
    session: Session,
    request: FitRequest,
    hardware: Hardware,
    out: Path,
    *,
    resume: bool,
    force: bool,
    overwrite: bool,
    checkpoint_seconds: float,
) -> None:
    """Fit and write the artifact to `out`; the checkpoint beside it goes when that is done."""
    if resume and force:
        raise OptionError("--resume goes on with an unfinished fit, --force starts anew; give one of them")
    files.check_writable(out, overwrite=overwrite)
    with files.lock(out), progress(quiet=session.console.quiet) as report:
        path = checkpoint_beside(out)
        if path.exists() and not (resume or force):
            raise ResumeError(
                f"{str(path)!r} holds an unfinished fit; go on with it by --resume, or start anew by --force"
            )
        if resume and not path.exists():
            session.console.note("no unfinished fit to resume; a new one begins")
        plan = prepare(session, request, hardware)
        from hiper.training import CheckpointFile

        backbone = load_model(request.backbone, hardware, report)
        artifact = _fitted(
            session,
            plan,
            backbone,
            out,
            report,
            checkpoint=CheckpointFile(path=path, every_seconds=checkpoint_seconds, resume=resume),
            overwrite=overwrite,
        )
    size = out.stat().st_size
    session.console.result(
        {"artifact": str(out), "bytes": size, **artifact.describe()},
        [f"{out} ({size} bytes), {_gain(artifact)}"],
    )


def prepare(session: Session, request: FitRequest, hardware: Hardware) -> Plan:
    """Check picture, method and options; a mistake in them is reported before a model is loaded."""
    from hiper.images import Subject

    caption = automatic_caption(session, request, hardware) or request.caption
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
    options: Any = method.options_for(request.backbone, request.preset, **request.options)
    for note in subject.notes:
        session.console.note(note)
    if options.as_mapping().get("seed") == RANDOM:
        options = replace(options, seed=resolve_seed(RANDOM))
        session.console.note(f"the fit's seed is {options.seed}, drawn at random")
    tell_of_strangers(subject, request.backbone)
    return Plan(subject=subject, method=method, options=options)


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

    return load_backbone(
        name,
        device=hardware.device,
        dtype=hardware.dtype,
        revision=revision,
        local_only=local_only,
        quantise=hardware.quantise,
        memory=hardware.memory,
        resolution=hardware.resolution,
        prediction_type=hardware.prediction_type,
    )


def load_own_model(artifact: Artifact, hardware: Hardware, report: Report) -> Backbone:
    """Load the model that an artifact names, as it was loaded for its fit.

    The file may come from anybody, so that model is never downloaded.
    """
    stated = hardware.prediction_type or artifact.prediction_type
    return load_model(
        artifact.backbone,
        replace(hardware, prediction_type=stated),
        report,
        revision=artifact.revision or None,
        local_only=True,
    )


def run_fit(
    session: Session,
    plan: Plan,
    backbone: Backbone,
    checkpoint: CheckpointFile,
    report: Report,
    loss_history: list[ProgressEvent] | None = None,
) -> Artifact:
    """Fit with progress; a signal makes it stop between two steps, its state in the checkpoint.

    loss_history: receives every event
    """

    def report_step(record: ProgressEvent) -> None:
        report("fitting", record.step, record.steps)
        if loss_history is not None:
            loss_history.append(record)

    from hiper.training import FitControl

    plan.method.check(backbone)
    control = FitControl(callback=report_step, checkpoint=checkpoint, should_stop=session.stop.requested)
    return plan.method.fit(backbone, plan.subject, plan.options, control)


def _fitted(
    session: Session,
    plan: Plan,
    backbone: Backbone,
    out: Path,
    report: Report,
    *,
    checkpoint: CheckpointFile,
    overwrite: bool,
) -> Artifact:
    try:
        with session.stop.deferred(once_asked=True):
            artifact = run_fit(session, plan, backbone, checkpoint, report)
            artifact.save(out, overwrite=overwrite)
            checkpoint.remove()
    except Interrupted as stopped:
        where = "; --resume goes on from there" if checkpoint.path.exists() else ""
        raise Interrupted(f"{stopped}{where}", stopped.signal_number) from stopped
    except ResumeError as error:
        raise ResumeError(f"{error} (--force)") from error
    return artifact


def _gain(artifact: Artifact) -> str:
    return ", ".join(f"{name} {value:z.4g}" for name, value in artifact.figures.items())
