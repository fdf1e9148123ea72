"""The jobs of a batch, one per subject; a line that is no job is kept as refused, so that it stops no other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar

from hiper.backbones import Scheduler, resolve_prediction
from hiper.errors import OptionError
from hiper.files import path_in, safe_slug
from hiper.methods import get_method
from hiper.options import EARLIER_SAMPLING, Options, Spec, resolve, suggestion
from hiper.seeds import LARGEST

MAX_PICTURES = 10_000
"""Of one job; a sentence's are in memory at a time."""


@dataclass(frozen=True, kw_only=True)
class EditOptions(Options):
    """How the pictures of a job are drawn; none takes the artifact's own setting."""

    earlier: ClassVar[Mapping[str, str]] = EARLIER_SAMPLING

    strength: Annotated[float | None, Spec("factor on what was learnt", low=-10, high=10)] = None
    guidance_scale: Annotated[float | None, Spec("weight of the sentence", low=0, high=100)] = None
    num_inference_steps: Annotated[int | None, Spec("denoising steps", low=1, high=1000)] = None
    scheduler: Annotated[Scheduler | None, Spec("sampler")] = None
    height: Annotated[int | None, Spec("pixels", low=8, high=8192)] = None
    width: Annotated[int | None, Spec("pixels", low=8, high=8192)] = None
    keep: Annotated[float | None, Spec("how much of the source stays", low=0, high=1)] = None


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a job takes where it says nothing itself."""

    sentences: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    backbone: str = "critters"
    prediction_type: str | None = None
    method: str = "hiper"
    preset: str = "auto"
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One subject and what is to be drawn of it; checked as far as that takes neither the picture nor a model.

    Attributes:
        name: The user's name for it, any text.
        image: Path of the picture, as it was written.
        caption: Describes the picture.
        place: The folder that paths are relative to.
        mask: Path of the mask, as it was written.
        sentences: Prompts; one picture is drawn for each pair of prompt and seed.
        seeds: Of the pictures, 0 or more.
        backbone: A model's name or path.
        prediction_type: Of the model, where the user states it.
        method: Its name.
        preset: Its name.
        options: Of the method, those that differ from its preset.
        edit: How the pictures are drawn.
        negative_prompt: For all pictures.
    """

    name: str
    image: str
    caption: str
    place: Path
    mask: str | None = None
    sentences: tuple[str, ...]
    seeds: tuple[int, ...]
    backbone: str
    prediction_type: str | None = None
    method: str
    preset: str
    options: Mapping[str, object]
    edit: EditOptions
    negative_prompt: str = ""

    @property
    def id(self) -> str:
        """File name for the job as it is written: the same line is the same job, whatever its picture holds."""
        record = json.dumps(self.as_record(), sort_keys=True)
        return f"{safe_slug(self.name)}-{hashlib.sha256(record.encode()).hexdigest()[:12]}"

    @property
    def image_path(self) -> Path:
        """Where the picture is."""
        return path_in(self.place, self.image)

    @property
    def mask_path(self) -> Path | None:
        """Where the mask is, if there is one."""
        return None if self.mask is None else path_in(self.place, self.mask)

    def as_record(self) -> dict[str, Any]:
        """Return what was asked for, for a record."""
        values = {**asdict(self), "edit": self.edit.as_mapping()}
        return {name: value for name, value in values.items() if name not in self._unrecorded()}

    def _unrecorded(self) -> tuple[str, ...]:
        """Return the fields to leave out: a job of an earlier release keeps its name."""
        return ("place",) if self.prediction_type else ("place", "prediction_type")

    def resolved_options(self) -> Any:
        """Return the method's options; OptionError for one that cannot be."""
        return get_method(self.method).options_for(self.backbone, self.preset, **self.options)


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A line that is no job, and why."""

    name: str
    text: str
    reason: OptionError

    @property
    def id(self) -> str:
        """File name for the line."""
        text = self.text.encode(errors="surrogatepass")  # a file's name need not be text
        return f"{safe_slug(self.name)}-{hashlib.sha256(text).hexdigest()[:12]}"

    def as_record(self) -> dict[str, Any]:
        """Return the line."""
        return {"line": self.text[:1000]}


Asked = Job | Refused

_FIELDS = tuple(each.name for each in fields(Job) if each.name != "place")


def job(values: Mapping[str, Any], defaults: Defaults, place: Path) -> Job:
    """Make a job from a line of a job file.

    Args:
        values: The line's names and values.
        defaults: Values for what it leaves out.
        place: The folder that its paths are relative to.

    Raises:
        OptionError: A value is missing, unknown (with the nearest name) or not allowed.
    """
    for name in values:
        if name not in _FIELDS:
            raise OptionError(
                f"no field {name!r}{suggestion(name, _FIELDS)}; allowed are {', '.join(_FIELDS)}"
            )
    _check_characters(values)
    method = _text(values, "method", defaults.method)
    options = {**(defaults.options if method == defaults.method else {}), **_mapping(values, "options")}
    sentences = _texts(values, "sentences", defaults.sentences)
    if get_method(method).per_sentence:
        if len(sentences) != 1:
            raise OptionError(
                f"method {method} fits for one sentence; give each job one, not {len(sentences)}"
            )
        options = {"target": sentences[0], **options}
    backbone = _text(values, "backbone", defaults.backbone)
    stated = defaults.prediction_type or "" if backbone == defaults.backbone else ""
    seeds = _seeds(values, defaults.seeds)
    if len(sentences) * len(seeds) > MAX_PICTURES:
        raise OptionError(
            f"{len(sentences)} sentences with {len(seeds)} seeds each; a job draws at most {MAX_PICTURES} pictures:"
            " split it"
        )
    made = Job(
        name=_text(values, "name", Path(_text(values, "image")).stem),
        image=_text(values, "image"),
        caption=_text(values, "caption"),
        place=place,
        mask=_text(values, "mask", "") or None,
        sentences=sentences,
        backbone=backbone,
        prediction_type=resolve_prediction(_text(values, "prediction_type", stated) or None),
        seeds=seeds,
        method=method,
        preset=_text(values, "preset", defaults.preset),
        options=options,
        edit=resolve(EditOptions, {"": {}}, "", _mapping(values, "edit")),
        negative_prompt=_text(values, "negative_prompt", ""),
    )
    if made.resolved_options().as_mapping().get("seed") == -1:
        raise OptionError("seed is -1; a job says all that decides its result: give a seed of 0 or more")
    return made


def _check_characters(values: Mapping[str, Any]) -> None:
    """Refuse half characters (lone surrogates, which JSON can write), but in paths: not all file names are text."""
    for name in values.keys() - {"image", "mask", "name"}:
        try:
            json.dumps(values[name], ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError as error:
            half = ascii(error.object[error.start])
            raise OptionError(f"{name} holds {half}, half a character; write it anew, as UTF-8") from error


def _text(values: Mapping[str, Any], name: str, otherwise: str | None = None) -> str:
    value = values.get(name, otherwise)
    if value is None:
        raise OptionError(f"no {name}; every job needs one")
    if not isinstance(value, str):
        several = "; several pictures of one subject are jobs of their own, see hiper average"
        raise OptionError(f"{name} is {value!r}; allowed is text{several if name == 'image' else ''}")
    return value


def _texts(values: Mapping[str, Any], name: str, otherwise: Sequence[str]) -> tuple[str, ...]:
    given = values.get(name, otherwise)
    if not isinstance(given, (list, tuple)) or not all(isinstance(each, str) for each in given):
        raise OptionError(f"{name} is {given!r}; allowed is a list of texts")
    return tuple(dict.fromkeys(given))


def _seeds(values: Mapping[str, Any], otherwise: Sequence[int]) -> tuple[int, ...]:
    given = values.get("seeds", otherwise)
    whole = isinstance(given, (list, tuple)) and all(
        isinstance(each, int) and not isinstance(each, bool) and 0 <= each <= LARGEST for each in given
    )
    if not whole or not given:
        raise OptionError(f"seeds is {given!r}; allowed is a list of whole numbers from 0 to 2**63 - 1")
    return tuple(dict.fromkeys(given))


def _mapping(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    given = values.get(name, {})
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise OptionError(f"{name} is {given!r}; allowed is an object of names and values")
    return given
