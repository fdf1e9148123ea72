"""The messages between the driver of a batch and its workers: plain data, the same in every process."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiper.batch.jobs import Job
from hiper.errors import HiperError, ImageError
from hiper.files import distinct_slugs, safe_slug
from hiper.images import open_regular, shown
from hiper.options import Key, digest, fit_key

if TYPE_CHECKING:
    from hiper.backbones import Backbone

RECORD_SCHEMA = 1
ARTIFACT, SOURCE, RECORD = "artifact.safetensors", "source.png", "record.json"


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """How a model is loaded; only one that the user has named on the command line may be downloaded."""

    name: str
    device: str | None
    dtype: str | None
    may_download: bool
    prediction_type: str | None = None
    deterministic: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What decides a job's results about a model: its key, and the best known parts of it."""

    weights_sha256: str
    objective: str
    device: str
    dtype: str
    key: Key = field(default_factory=dict)

    @classmethod
    def of(cls, backbone: Backbone) -> ModelFacts:
        """Read them off a loaded model."""
        key = backbone.model_key()
        return cls(
            weights_sha256=str(key["backbone"]),
            objective=backbone.objective,
            device=backbone.device.type,
            dtype=str(backbone.dtype).removeprefix("torch."),
            key=key,
        )


@dataclass(frozen=True, kw_only=True)
class Describe:
    """The order to load a model and return its `ModelFacts`."""

    model: ModelSpec


@dataclass(frozen=True, kw_only=True)
class PlannedJob:
    """A job and the hash of all that decides its result, hexadecimal."""

    job: Job
    key: str

    @property
    def place(self) -> str:
        """The folder of its results in the store: by name and by content."""
        return f"jobs/{safe_slug(self.job.name)}-{self.key[:16]}"

    def pictures(self) -> dict[tuple[str, int], str]:
        """Return the name in the store of the picture of each (sentence, seed)."""
        slugs = dict(zip(self.job.sentences, distinct_slugs(self.job.sentences), strict=True))
        return {
            (sentence, seed): f"{self.place}/{slug}-{seed}.png"
            for sentence, slug in slugs.items()
            for seed in self.job.seeds
        }

    def files(self) -> list[str]:
        """Return the names of all its files; the record, last, is written when all others are there."""
        others = [f"{self.place}/{name}" for name in (ARTIFACT, SOURCE)]
        return [*others, *self.pictures().values(), f"{self.place}/{RECORD}"]


@dataclass(frozen=True, kw_only=True)
class Group:
    """The order to do some jobs of one model, fitted in calls as large as `slots` subjects make them."""

    model: ModelSpec
    facts: ModelFacts
    jobs: Sequence[PlannedJob]
    slots: int


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """The result of a job: done if there is no error.

    Attributes:
        place: Of its results.
        error: Why it failed.
        notes: For the user.
    """

    place: str
    error: HiperError | None
    notes: tuple[str, ...] = ()


def plan(job: Job, facts: ModelFacts) -> PlannedJob:
    """Hash all that decides a job's results.

    Raises:
        ImageError: The picture or the mask is no readable file.
    """
    mask = "" if job.mask_path is None else _digest(job.mask_path)
    key = fit_key(
        job.method,
        facts.key,
        picture=_digest(job.image_path),
        caption=job.caption,
        options=job.resolved_options(),
    )
    record: dict[str, Any] = {
        "schema": RECORD_SCHEMA,
        "fit": key,
        "mask": mask,
        "sentences": job.sentences,
        "seeds": job.seeds,
        "edit": job.edit.as_mapping(),
        "negative_prompt": job.negative_prompt,
        "model": asdict(facts),
    }
    return PlannedJob(job=job, key=digest(record))


def _digest(path: Path) -> str:
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except ImageError as error:
        raise ImageError(f"{shown(path)}: {error}") from error
