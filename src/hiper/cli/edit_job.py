"""`hiper edit`: from an artifact and sentences to pictures; and the part shared with `run`."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hiper import files
from hiper.cli.arguments import LARGEST_SEED
from hiper.cli.combined_files import load_learnt
from hiper.cli.fit_job import load_model, load_own_model
from hiper.cli.outputs import Drawing, reserved
from hiper.cli.progress import Report, progress
from hiper.cli.report_job import write_report
from hiper.cli.requests import EditRequest, Hardware, Learnt, Session
from hiper.cli.stopping import Stopped
from hiper.errors import Interrupted, OptionError

if TYPE_CHECKING:
    from hiper.artifacts import Artifact, EditResult
    from hiper.backbones import Backbone


def edit_to_folder(
    session: Session,
    learnt: Learnt,
    request: EditRequest,
    backbone: str | None,
    hardware: Hardware,
    out: Path,
) -> None:
    """Draw into the folder `out`, by the first artifact's own model unless another is named.

    A file may come from anybody, so a model that it alone names is never downloaded.
    """
    artifact = load_learnt(learnt, request.strength)
    if learnt.is_several:
        request = replace(request, strength=None)  # it is worked in
    with planned(session, request, out) as drawings, progress(quiet=session.console.quiet) as report:
        model = (
            load_model(backbone, hardware, report)
            if backbone is not None
            else load_own_model(artifact, hardware, report)
        )
        results = draw(session, model, artifact, drawings, request, report)
        if request.report is not None:
            write_report(session, request, request.report, model, artifact, results, report)
    origin = {"artifact": str(learnt.file), **_beside(learnt)}
    print_drawn(session, origin, drawings, results, request.report)


def _beside(learnt: Learnt) -> dict[str, object]:
    """Name the further files, if any."""
    others = {"with": [str(path) for path in learnt.others]} if learnt.others else {}
    return {**others, **({"negative": str(learnt.negative)} if learnt.negative is not None else {})}


@contextmanager
def planned(session: Session, request: EditRequest, out: Path) -> Iterator[list[Drawing]]:
    """Settle prompts, seeds and files before any model is loaded, and keep other processes off them."""
    from hiper.seeds import RANDOM, resolve_seed

    first = resolve_seed(request.seed)
    if request.seed == RANDOM:
        session.console.note(f"the first picture's seed is {first}, drawn at random")
    if first + request.images - 1 > LARGEST_SEED:
        raise OptionError(f"seeds {first} and {request.images - 1} more pass {LARGEST_SEED}; lower --seed")
    if request.report is not None:
        files.check_writable(request.report, overwrite=request.overwrite)
    prompts = list(dict.fromkeys(request.prompts))
    if len(prompts) < len(request.prompts):
        session.console.note("a sentence given twice is drawn once")
    seeds = range(first, first + request.images)
    with reserved(out, prompts, seeds, overwrite=request.overwrite) as drawings:
        yield drawings


def draw(
    session: Session,
    backbone: Backbone,
    artifact: Artifact,
    drawings: Sequence[Drawing],
    request: EditRequest,
    report: Report,
) -> list[EditResult]:
    """Draw batch by batch and write each picture at once; what was written survives Ctrl-C."""
    results: list[EditResult] = []
    try:
        for drawing in drawings:
            for result in _batches(backbone, artifact, drawing, request, report):
                with session.stop.deferred():
                    _write(backbone, artifact, drawing, result, request)
                    results.append(result)
                session.stop.raise_if_requested()
    except Stopped as stopped:
        written = sum(len(result.images) for result in results)
        wanted = sum(len(drawing.paths) for drawing in drawings)
        raise Interrupted(
            f"{stopped}; {written} of {wanted} pictures are drawn", stopped.signal_number
        ) from None
    return results


def print_drawn(
    session: Session,
    origin: Mapping[str, object],
    drawings: Sequence[Drawing],
    results: Sequence[EditResult],
    page: Path | None,
) -> None:
    """Tell where each picture and the page is and what they were drawn with."""
    images = [
        {"path": str(path), "prompt": drawing.prompt, "seed": seed}
        for drawing in drawings
        for seed, path in drawing.paths.items()
    ]
    flagged = [{"prompt": result.prompt, "seed": seed} for result in results for seed in result.flagged]
    record = {**origin, "images": images, "settings": asdict(results[0].settings), "flagged": flagged}
    lines = [str(image["path"]) for image in images]
    if page is not None:
        record["report"] = str(page)
        lines.append(str(page))
    session.console.result(record, lines)


def _batches(
    backbone: Backbone, artifact: Artifact, drawing: Drawing, request: EditRequest, report: Report
) -> Iterator[EditResult]:
    from hiper.inference import edit
    from hiper.options import sampling_of

    seeds, size = list(drawing.paths), request.batch_size
    batches = math.ceil(len(seeds) / size)
    stage = textwrap.shorten(f"drawing {drawing.prompt!r}", 50, placeholder="...")
    for batch in range(batches):

        def step(done: int, total: int, batch: int = batch) -> None:
            report(stage, batch * total + done, batches * total)

        yield edit(
            backbone,
            artifact,
            drawing.prompt,
            seeds=seeds[batch * size : (batch + 1) * size],
            batch_size=size,
            callback=step,
            **sampling_of(request),
        )


def _write(
    backbone: Backbone, artifact: Artifact, drawing: Drawing, result: EditResult, request: EditRequest
) -> None:
    from hiper.images import png_bytes
    from hiper.inference import settings_of, text_chunks

    for seed, image in zip(result.seeds, result.images, strict=True):
        chunks: dict[str, str] = {}
        if request.metadata:
            settings = settings_of(backbone, artifact, result, seed)
            chunks = text_chunks(settings, artifact if request.carry else None)
        files.atomic_write(
            drawing.paths[seed], png_bytes(image, metadata=chunks), overwrite=request.overwrite
        )
