"""The jobs of a batch, one per subject; a line that is no job is kept as refused, so that it stops no other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from hiper.backbones import Scheduler, resolve_prediction
from hiper.errors import OptionError
from hiper.files import path_in, safe_slug
from hiper.methods import get_method
from hiper.options import EARLIER_SAMPLING, Options, Spec, read_fields, resolve

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
        # So that a job of an earlier release keeps its name.
        left_out = ("place",) if self.prediction_type else ("place", "prediction_type")
        values = {**asdict(self), "edit": self.edit.as_mapping()}
        return {name: value for name, value in values.items() if name not in left_out}

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


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A line of a job file, as it is written; None leaves a value to the defaults."""

    image: str
    caption: str
    name: str | None = None
    mask: str = ""
    sentences: Sequence[str] | None = None
    seeds: Sequence[Annotated[int, Spec(low=0)]] | None = None
    backbone: str | None = None
    prediction_type: str | None = None
    method: str | None = None
    preset: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    edit: Mapping[str, Any] = field(default_factory=dict)
    negative_prompt: str = ""


def job(values: Mapping[str, Any], defaults: Defaults, place: Path) -> Job:
    """Make a job from a line of a job file.

    Args:
        values: The line's names and values.
        defaults: Values for what it leaves out.
        place: The folder that its paths are relative to.

    Raises:
        OptionError: A value is missing, unknown (with the nearest name) or not allowed.
    """
    if isinstance(values.get("image"), list):
        raise OptionError("several images; pictures of one subject are jobs of their own, see hiper average")
    line = read_fields(_Line, dict(values))
    _check_characters(values)
    method = defaults.method if line.method is None else line.method
    options = {**(defaults.options if method == defaults.method else {}), **line.options}
    sentences = tuple(dict.fromkeys(defaults.sentences if line.sentences is None else line.sentences))
    if get_method(method).per_sentence:
        if len(sentences) != 1:
            raise OptionError(
                f"method {method} fits for one sentence; give each job one, not {len(sentences)}"
            )
        options = {"target": sentences[0], **options}
    backbone = defaults.backbone if line.backbone is None else line.backbone
    stated = line.prediction_type
    if stated is None and backbone == defaults.backbone:
        stated = defaults.prediction_type
    seeds = tuple(dict.fromkeys(defaults.seeds if line.seeds is None else line.seeds))
    if not seeds:
        raise OptionError("seeds is []; give at least one")
    if len(sentences) * len(seeds) > MAX_PICTURES:
        raise OptionError(
            f"{len(sentences)} sentences with {len(seeds)} seeds each; a job draws at most {MAX_PICTURES} pictures:"
            " split it"
        )
    made = Job(
        name=Path(line.image).stem if line.name is None else line.name,
        image=line.image,
        caption=line.caption,
        place=place,
        mask=line.mask or None,
        sentences=sentences,
        backbone=backbone,
        prediction_type=resolve_prediction(stated or None),
        seeds=seeds,
        method=method,
        preset=defaults.preset if line.preset is None else line.preset,
        options=options,
        edit=resolve(EditOptions, {"": {}}, "", line.edit),
        negative_prompt=line.negative_prompt,
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
