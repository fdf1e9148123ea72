"""The files of one job: the artifact, the pictures, and the record, whose presence says that all others are there."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from hiper.artifacts import Artifact, EditResult
from hiper.backbones import Backbone, StepCallback
from hiper.batch.messages import ARTIFACT, RECORD, RECORD_SCHEMA, SOURCE, ModelFacts, PlannedJob
from hiper.batch.store import Store
from hiper.images import fit_square, png_bytes
from hiper.inference import edit, settings_of, text_chunks
from hiper.methods import FitInput
from hiper.options import SamplingKwargs, sampling_of, versions

BATCH = 4
"""Pictures drawn at a time; their last bits depend on it."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What was learnt of a job's subject.

    Attributes:
        planned: The job.
        request: What was fitted.
        artifact: What was learnt.
        notes: For the user.
        seconds: Its share of the time of those fitted with it.
        slots: How many those are, at most.
    """

    planned: PlannedJob
    request: FitInput
    artifact: Artifact
    notes: Sequence[str]
    seconds: float
    slots: int


def write_results(
    store: Store, backbone: Backbone, facts: ModelFacts, fit: Fit, on_step: StepCallback
) -> None:
    """Draw, and write the files of one job, its record last.

    The same job makes the same bytes, except `cost` in the record, which holds the times.

    Args:
        store: Where to.
        backbone: Draws.
        facts: Of the backbone, for the record.
        fit: What was learnt.
        on_step: Called after every denoising step.
    """
    begun = time.perf_counter()
    fit = replace(fit, artifact=_timeless(fit.artifact))
    drawn = {sentence: _drawn(backbone, fit, sentence, on_step) for sentence in fit.planned.job.sentences}
    files = {
        f"{fit.planned.place}/{ARTIFACT}": fit.artifact.to_bytes(),
        f"{fit.planned.place}/{SOURCE}": png_bytes(_source(backbone, fit.request)),
        **_pictures(backbone, fit, drawn),
    }
    store.sweep(fit.planned.place)
    for name, data in files.items():
        store.write(name, data)
    record = {
        **_record(fit, facts, drawn),
        "bytes": {name: len(data) for name, data in files.items()},
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        "cost": {
            "fit_seconds": round(fit.seconds, 3),
            "edit_seconds": round(time.perf_counter() - begun, 3),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    }
    store.write(f"{fit.planned.place}/{RECORD}", as_json(record))


def as_json(record: Any) -> bytes:
    """Return a record as the bytes of a file; half a character, as a file name may hold, is escaped."""
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode(errors="backslashreplace")


def _timeless(artifact: Artifact) -> Artifact:
    figures = {name: value for name, value in artifact.figures.items() if name != "seconds"}
    return replace(artifact, created="", figures=figures)


def _drawn(backbone: Backbone, fit: Fit, sentence: str, on_step: StepCallback) -> EditResult:
    job = fit.planned.job
    sampling: SamplingKwargs = {**sampling_of(job.edit), **sampling_of(job)}
    return edit(
        backbone, fit.artifact, sentence, seeds=job.seeds, batch_size=BATCH, callback=on_step, **sampling
    )


def _source(backbone: Backbone, request: FitInput) -> Any:
    """Return the picture as the model saw it."""
    how = request.options.as_mapping().get("square", "crop")
    return fit_square(request.subject.image, backbone.resolution, how=how)


def _pictures(backbone: Backbone, fit: Fit, drawn: dict[str, EditResult]) -> dict[str, bytes]:
    names = fit.planned.pictures()
    return {
        names[sentence, seed]: png_bytes(
            image,
            metadata=text_chunks(settings_of(backbone, fit.artifact, result, seed), fit.artifact),
        )
        for sentence, result in drawn.items()
        for seed, image in zip(result.seeds, result.images, strict=True)
    }


def _record(fit: Fit, facts: ModelFacts, drawn: dict[str, EditResult]) -> dict[str, Any]:
    planned, names = fit.planned, fit.planned.pictures()
    return {
        "schema": RECORD_SCHEMA,
        "status": "done",
        "key": planned.key,
        "job": planned.job.as_record(),
        "options": fit.request.options.as_mapping(),
        "model": asdict(facts),
        "image_sha256": fit.request.subject.sha256,
        "figures": dict(fit.artifact.figures),
        "fitted_together": fit.slots,
        "pictures": [
            {
                "file": name,
                "prompt": drawn[sentence].prompt,
                "seed": seed,
                "flagged": seed in drawn[sentence].flagged,
            }
            for (sentence, seed), name in names.items()
        ],
        "settings": {sentence: asdict(result.settings) for sentence, result in drawn.items()},
        "notes": list(dict.fromkeys([*fit.notes, *(n for result in drawn.values() for n in result.notes)])),
        "versions": versions(),
    }
