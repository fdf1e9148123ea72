"""`hiper run`: fit, or reuse the fit of an earlier run, then edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from hiper import files
from hiper.cli.arguments import refuse_pictures
from hiper.cli.command import Without
from hiper.cli.edit import EditRequest, draw, opened_start, planned, prepared_start, print_drawn
from hiper.cli.fit import FitRequest, Plan, load_model, prepare, run_fit
from hiper.cli.options import Hardware
from hiper.cli.progress import Report
from hiper.cli.report import write_report
from hiper.cli.session import Session
from hiper.cli.stopping import advising
from hiper.errors import OptionError, ResumeError
from hiper.files import cache_dir, make_folder
from hiper.training import checkpoint_beside

if TYPE_CHECKING:
    from hiper.artifacts import Artifact
    from hiper.backbones import Backbone
    from hiper.inference import EditStart
    from hiper.training import ProgressEvent


def run(
    session: Session,
    fit_request: Annotated[FitRequest, Without("seed")],
    edit_request: Annotated[EditRequest, Without("source")],
    hardware: Hardware,
) -> None:
    """Fit and edit in one command. A second run with the same picture and options reuses the fit."""
    refuse_pictures(edit_request.prompts)
    start = opened_start(edit_request)
    plan = _targeted(prepare(session, fit_request, hardware), edit_request)
    _check_start(plan, start, edit_request)
    with planned(session, edit_request) as drawings, session.progress() as report:
        backbone = load_model(fit_request.backbone, hardware, report)
        _check_settings(backbone, edit_request)
        fitted = _fitted(session, plan, backbone, report)
        session.stop.raise_if_requested()
        if start["region"] is not None and start["into"] is None:
            start["source"] = plan.subject.image
        start = prepared_start(backbone, fitted.artifact, start)
        results = draw(session, backbone, fitted.artifact, drawings, edit_request, report, start)
        page = edit_request.report
        if page is not None:
            write_report(
                *(session, page, backbone, fitted.artifact, results, report),
                overwrite=edit_request.overwrite,
                start=start,
                source=plan.subject.image,
                loss_history=fitted.loss_history,
            )
    origin = {"artifact": str(fitted.path), "reused": fitted.reused}
    print_drawn(session, origin, drawings, results, edit_request)


def _targeted(plan: Plan, request: EditRequest) -> Plan:
    """Fit for the sentence that is to be drawn, where a method must know it."""
    if not plan.method.per_sentence or plan.options.as_mapping().get("target") is not None:
        return plan
    sentences = list(dict.fromkeys(request.prompts))
    if len(sentences) > 1:
        raise OptionError(
            f"method {plan.method.name} needs a fit for each sentence, and {len(sentences)} are given; run it for"
            " one at a time"
        )
    return replace(plan, options=replace(plan.options, target=sentences[0]))


def _check_start(plan: Plan, start: EditStart, request: EditRequest) -> None:
    """Refuse a region that the edits could not use, before a fit is spent on them."""
    from hiper.images import open_image
    from hiper.inference import region_mask
    from hiper.methods import KEEP_SOURCE
    from hiper.options import KEEP

    if start["region"] is None:
        return
    keeps = KEEP_SOURCE in plan.method.editing
    own = plan.options.as_mapping().get(KEEP_SOURCE, KEEP if keeps else None)
    if own is None:
        raise OptionError(f"method {plan.method.name} cannot keep a picture; leave out --region and --into")
    if not (own if request.keep is None else request.keep):
        raise OptionError(
            "--region is given and keep is 0, which draws a new picture; give --keep, such as 0.5"
        )
    region_mask(start["region"], open_image(start["into"] or plan.subject.image).image.size)


def _check_settings(backbone: Backbone, request: EditRequest) -> None:
    """Refuse a setting of the edits before a fit is spent on them."""
    from hiper.inference import resolve_settings
    from hiper.options import sampling_of

    resolve_settings({}, backbone, [], **sampling_of(request))


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A fit, the file it is kept in, whether that file was there before, and otherwise its loss history."""

    artifact: Artifact
    path: Path
    reused: bool
    loss_history: Sequence[ProgressEvent] = ()


def _fitted(session: Session, plan: Plan, backbone: Backbone, report: Report) -> Fitted:
    from hiper.artifacts import cached_fit, fit_path
    from hiper.training import CheckpointFile

    path = fit_path(plan.subject, backbone, plan.method.name, plan.options)
    make_folder(path.parent, within=cache_dir())
    with files.lock(path):
        kept = cached_fit(path)
        if kept is not None:
            report("using the fit of an earlier run", 0, 0)
            return Fitted(artifact=kept, path=path, reused=True)
        files.check_writable(path, overwrite=True)
        loss_history: list[ProgressEvent] = []

        def fit(checkpoint: CheckpointFile) -> Artifact:
            return run_fit(
                *(session, plan, backbone, path, checkpoint, report),
                overwrite=True,
                loss_history=loss_history,
            )

        checkpoint = CheckpointFile(path=checkpoint_beside(path), resume=True)
        with advising("the same command continues from there"):
            try:
                artifact = fit(checkpoint)
            except ResumeError as error:
                session.console.note(f"starting the fit again: {error}")
                artifact = fit(replace(checkpoint, resume=False))
        return Fitted(artifact=artifact, path=path, reused=False, loss_history=loss_history)
