"""A suite of one's own photographs, written down in a TOML file.

[[subject]]
name = "rex"
image = "rex.jpg"                   # relative to this file
caption = "a standing dog"
mask = "rex-mask.png"               # optional
edits = [{ name = "sitting", caption = "a sitting dog", region = "rex-region.png" }]  # region: optional
vague = "an animal"                 # optional, of all subjects or of none: captions for `source_caption`
wrong = "a standing cat"

[metrics]                           # optional: without it only what lies outside a region is scored
clip = "openai/clip-vit-base-patch32"
dino = "facebook/dinov2-small"
structure = "facebook/dino-vitb8"
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, final

from PIL import Image

from hiper.bench.base import Case, Metric, Scores, Suite
from hiper.errors import OptionError, UserError
from hiper.files import path_in, read_text
from hiper.images import Subject, clean_text, fit_square, open_mask
from hiper.options import digest, read_fields

if TYPE_CHECKING:
    from hiper.metrics import ClipSimilarity, DinoSimilarity, StructureDistance

MAX_BYTES = 10_000_000
"""Of a suite's file; a thousand subjects take some 200 kB."""

MAX_PSNR = 100.0
"""In dB, for a background without any change: a report has finite numbers alone. One level of 255 in one channel of one
pixel in 512 x 512 is 107 dB."""

_cosine = partial(Metric, better="higher", unit="cosine", low=-1, high=1)
_structure = partial(Metric, better="lower", unit="squared cosine", low=0, high=4)
METRICS: Mapping[str, Mapping[str, Metric]] = {
    "clip": {
        "clip_text": _cosine(text="the picture shows what the sentence says"),
        "clip_image": _cosine(text="the picture resembles the source (CLIP)"),
    },
    "dino": {"dino": _cosine(text="the picture resembles the source (DINO)")},
    "structure": {"structure_distance": _structure(text="layout, to the source")},
}
BACKGROUND = {
    "background_psnr": Metric(
        text=f"pixels outside the region, to the source ({MAX_PSNR:.0f} where none changed)",
        better="higher",
        unit="dB",
        low=0,
        high=MAX_PSNR,
    ),
    "background_structure": _structure(text="layout outside the region, to the source"),
}
"""Where an edit has a region."""
E = TypeVar("E")


@dataclass(frozen=True, kw_only=True)
class _File:
    subject: Any = None
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _SubjectEntry:
    name: str
    image: str
    caption: str
    mask: str | None = None
    edits: Any = None
    vague: str | None = None
    wrong: str | None = None


@dataclass(frozen=True, kw_only=True)
class _EditEntry:
    name: str
    caption: str
    region: str | None = None


@dataclass(frozen=True, kw_only=True)
class _MetricsEntry:
    clip: str | None = None
    dino: str | None = None
    structure: str | None = None


@final
class OwnSuite(Suite):
    """Everything is read and checked on construction; OptionError or ImageError for the first mistake."""

    def __init__(self, path: Path) -> None:
        self._path = path
        record = self._read(_File, self._parsed(), "the file")
        subjects = self._list(record.subject, "subject", "the file", "[[subject]]")
        self._cases: dict[str, list[Case]] = {}
        self._digest = hashlib.sha256()
        for number, given in enumerate(subjects, start=1):
            self._add(given, f"subject {number}")
        self._check_other_captions()
        self._scorers = self._load_scorers(record.metrics)

    def identity(self) -> Mapping[str, str | int]:
        return {"suite": self._path.stem, "content": self._digest.hexdigest()[:16]}

    def subjects(self) -> Sequence[str]:
        return list(self._cases)

    def cases(self, subject: str) -> Sequence[Case]:
        return self._cases[subject]

    def metrics(self) -> Mapping[str, Metric]:
        metrics = {name: metric for kind in self._scorers for name, metric in METRICS[kind].items()}
        return metrics | self._background_metrics()

    def score(self, case: Case, picture: Image.Image) -> Scores:
        source = fit_square(case.source, picture.width)
        scores: dict[str, float | None] = {}
        if "clip" in self._scorers:
            clip: ClipSimilarity = self._scorers["clip"]
            scores["clip_text"] = clip.text(picture, case.target_caption)
            scores["clip_image"] = clip.image(source, picture)
        if "dino" in self._scorers:
            dino: DinoSimilarity = self._scorers["dino"]
            scores["dino"] = dino.image(source, picture)
        if "structure" in self._scorers:
            structure: StructureDistance = self._scorers["structure"]
            scores["structure_distance"] = structure.distance(source, picture)
        return scores | self._background_scores(case, source, picture)

    def _background_metrics(self) -> dict[str, Metric]:
        """Of what lies outside the edits' regions: none where no edit has one."""
        if all(case.region is None for cases in self._cases.values() for case in cases):
            return {}
        return (
            BACKGROUND if "structure" in self._scorers else {"background_psnr": BACKGROUND["background_psnr"]}
        )

    def _background_scores(
        self, case: Case, source: Image.Image, picture: Image.Image
    ) -> dict[str, float | None]:
        scores: dict[str, float | None] = dict.fromkeys(self._background_metrics())
        if case.region is None:
            return scores
        from hiper.metrics import background_psnr, blackened

        region = fit_square(case.region, picture.width)
        psnr = background_psnr(picture, source, region)
        if psnr is None:  # the region covers everything
            return scores
        scores["background_psnr"] = min(psnr, MAX_PSNR)
        if "structure" in self._scorers:
            structure: StructureDistance = self._scorers["structure"]
            scores["background_structure"] = structure.distance(
                blackened(source, region), blackened(picture, region)
            )
        return scores

    def _add(self, given: object, where: str) -> None:
        record = self._read(_SubjectEntry, given, where)
        name = self._name(record.name, where, self._cases)
        where = f"subject {name}"
        subject = self._subject(record, where)
        edits: dict[str, str] = {}
        regions: dict[str, Image.Image] = {}
        listed = self._list(record.edits, "edits", where, '[{ name = "sitting", ... }]')
        for number, each in enumerate(listed, start=1):
            place = f"{where}, edit {number}"
            edit = self._read(_EditEntry, each, place)
            edits[self._name(edit.name, place, edits)] = self._caption(edit.caption, place)
            if edit.region is not None:
                regions[edit.name] = self._region(edit.region, subject.image, place)
        captions = {"vague": record.vague, "wrong": record.wrong}
        others = {name: self._caption(text, where) for name, text in captions.items() if text is not None}
        content = [name, subject.sha256, subject.caption, edits, *([others] if others else [])]
        if regions:
            hashes = {edit: hashlib.sha256(region.tobytes()).hexdigest() for edit, region in regions.items()}
            content.append({"regions": hashes})
        self._digest.update(json.dumps(content).encode())
        self._cases[name] = [
            Case(
                subject=name,
                edit=edit,
                source=subject.image,
                source_caption=subject.caption,
                target_caption=caption,
                mask=subject.mask,
                truth=None,
                other_captions=others,
                region=regions.get(edit),
            )
            for edit, caption in edits.items()
        ]

    def _check_other_captions(self) -> None:
        """What is swept over must be there for every subject."""
        first, *rest = ((name, cases[0].other_captions) for name, cases in self._cases.items())
        for name, captions in rest:
            if captions.keys() != first[1].keys():
                known = " and ".join(first[1]) or "neither vague nor wrong"
                self._refuse(
                    f"subject {name}", f"other captions are not those of {first[0]}, which has {known}"
                )

    def _subject(self, record: _SubjectEntry, where: str) -> Subject:
        folder = self._path.parent
        mask = None if record.mask is None else path_in(folder, record.mask)
        caption = self._caption(record.caption, where)
        with self._named(where):
            return Subject.open(path_in(folder, record.image), caption=caption, mask=mask)

    def _region(self, name: str, image: Image.Image, where: str) -> Image.Image:
        with self._named(where):
            region = open_mask(path_in(self._path.parent, name)).image
        if region.size != image.size:
            self._refuse(
                where,
                "the region has {}x{} pixels, the picture {}x{}: give both the same size".format(
                    *region.size, *image.size
                ),
            )
        return region

    def _load_scorers(self, given: object) -> dict[str, Any]:
        """Now, so that a model that cannot be had is refused before an hour of fits."""
        chosen = vars(self._read(_MetricsEntry, given, "[metrics]"))
        record = {name: model for name, model in chosen.items() if model is not None}
        if not record:
            return {}
        from hiper.metrics import ClipSimilarity, DinoSimilarity, StructureDistance

        self._digest.update(json.dumps(record, sort_keys=True).encode())
        loaders = {
            "clip": ClipSimilarity.load,
            "dino": DinoSimilarity.load,
            "structure": StructureDistance.load,
        }
        models = {name: self._model(record[name]) for name in loaders if name in record}
        with self._named("[metrics]"):
            scorers: dict[str, Any] = {name: loaders[name](model) for name, model in models.items()}
        for scorer in scorers.values():
            self._digest.update(digest(scorer.contents()).encode())
        return scorers

    def _model(self, name: str) -> str:
        """A folder is meant from where the file is."""
        folder = path_in(self._path.parent, name)
        return str(folder) if folder.is_dir() else name

    @contextmanager
    def _named(self, where: str) -> Iterator[None]:
        """Let errors begin with the place in the file that they are about."""
        try:
            yield
        except UserError as error:
            raise type(error)(f"{str(self._path)!r}: {where}: {error}") from error

    def _parsed(self) -> object:
        try:
            return tomllib.loads(read_text(self._path, MAX_BYTES))
        except OSError as error:
            raise OptionError(f"cannot read the suite {str(self._path)!r}: {error.strerror}") from error
        except (ValueError, RecursionError, OptionError) as error:
            raise OptionError(f"{str(self._path)!r} is no TOML: {error}; mend that line") from error

    def _read(self, kind: type[E], given: object, where: str) -> E:
        with self._named(where):
            return read_fields(kind, given, what="entry")

    def _list(self, value: object, name: str, where: str, example: str) -> list[Any]:
        if not isinstance(value, list) or not value:
            self._refuse(where, f"has no {name}; give one or more, as {example}")
        return value

    def _caption(self, text: str, where: str) -> str:
        if not text.strip():
            self._refuse(where, f"a caption is {text!r}; say in a few words what the picture shows")
        return clean_text(text, what="caption")

    def _name(self, name: str, where: str, taken: Mapping[str, Any]) -> str:
        """A name for files, also where a file system does not tell A from a."""
        if not re.fullmatch(r"[A-Za-z0-9-]{1,80}", name):
            self._refuse(where, f"name is {name!r}; allowed are up to 80 letters a to z, digits and hyphens")
        if name.casefold() in map(str.casefold, taken):
            self._refuse(where, f"name {name!r} is given twice; choose another")
        return name

    def _refuse(self, where: str, what: str) -> NoReturn:
        raise OptionError(f"{str(self._path)!r}: {where}: {what}")
