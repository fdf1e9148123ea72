"""What an edit is drawn with: what was asked for, else the artifact's own, else what suits the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, cast

from hiper.backbones.base import Backbone, check_scheduler
from hiper.backbones.sampling_defaults import LCM_STEPS
from hiper.errors import OptionError
from hiper.subject import clean_text

LARGEST_SIDE = 8192
STRENGTH = 0.8

NegativePrompt = str | Sequence[str]


class Sampling(TypedDict, total=False):
    """The settings of a drawing, as `edit` takes them; what is not there is left to the artifact and the model.

    Whoever draws passes them on as a whole, `**sampling`, so that none can be left behind.
    """

    strength: float | None
    guidance: float | None
    steps: int | None
    scheduler: str | None
    height: int | None
    width: int | None
    negative_prompt: NegativePrompt


def sampling_of(request: object) -> Sampling:
    """Return the sampling settings among the fields of a request, or of settings that were drawn with."""
    names = (name for name in Sampling.__annotations__ if hasattr(request, name))
    return cast(Sampling, {name: getattr(request, name) for name in names})


@dataclass(frozen=True, kw_only=True)
class EditSettings:
    """Height and width in pixels; one negative prompt, or one per seed."""

    strength: float
    guidance: float
    steps: int
    scheduler: str
    height: int
    width: int
    negative_prompt: tuple[str, ...]


def resolve_settings(
    own: Mapping[str, Any],
    backbone: Backbone,
    notes: list[str],
    *,
    strength: float | None = None,
    guidance: float | None = None,
    steps: int | None = None,
    scheduler: str | None = None,
    height: int | None = None,
    width: int | None = None,
    negative_prompt: NegativePrompt = "",
    images: int = 1,
) -> EditSettings:
    """Return what is given, else the artifact's `own`, else the model's; a rounded or unusual size goes to `notes`.

    OptionError for a value out of range, an unknown scheduler, and negative prompts neither one nor one per image.
    """

    def chosen(name: str, given: float | str | None, otherwise: object) -> object:
        return given if given is not None else own.get(name, otherwise)

    name = str(chosen("scheduler", scheduler, backbone.schedulers[0]))
    check_scheduler(name, backbone.schedulers)
    most = LCM_STEPS if name == "lcm" else backbone.timesteps
    sides = _side("height", height, backbone, notes), _side("width", width, backbone, notes)
    if (height, width) != (None, None):
        notes += filter(None, [backbone.size_note(*sides)])
    return EditSettings(
        strength=resolve_strength(own, strength),
        guidance=check_number("guidance", chosen("guidance", guidance, backbone.default_guidance), 0, 100),
        steps=check_whole("steps", chosen("steps", steps, backbone.default_steps), 1, most),
        scheduler=name,
        height=sides[0],
        width=sides[1],
        negative_prompt=resolve_negatives(negative_prompt, images, notes),
    )


def resolve_strength(own: Mapping[str, Any], given: float | None) -> float:
    """Return the factor on what was learnt; OptionError outside of -10 .. 10."""
    return check_number("strength", given if given is not None else own.get("strength", STRENGTH), -10, 10)


def resolve_negatives(
    given: NegativePrompt, count: int, notes: list[str], *, of: str = "seed"
) -> tuple[str, ...]:
    """Return one cleaned negative prompt, or one per picture, of which each has an own `of`.

    What was cleaned away goes to `notes`.

    OptionError for another number.
    """
    texts = (given,) if isinstance(given, str) else tuple(given)
    if len(texts) not in (1, count):
        raise OptionError(f"{len(texts)} negative prompts for {count} {of}s; give one, or one per {of}")
    return tuple(clean_text(text, what="negative prompt", may_be_empty=True, notes=notes) for text in texts)


def _side(name: str, given: int | None, backbone: Backbone, notes: list[str]) -> int:
    """Return a side in pixels, rounded to what the model can draw; None is the native side."""
    if given is None:
        return backbone.resolution
    multiple = backbone.size_multiple
    side = check_whole(name, given, multiple, LARGEST_SIDE)
    rounded = round(side / multiple) * multiple
    if rounded != side:
        notes.append(f"{name} {side} is no multiple of {multiple}; {rounded} was drawn")
    return rounded


def check_whole(name: str, value: object, low: int, high: int) -> int:
    """Return a whole number from `low` to `high`; OptionError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return value
    raise OptionError(f"{name} is {value!r}; allowed are whole numbers from {low} to {high}")


def check_number(name: str, value: object, low: float, high: float) -> float:
    """Return a number from `low` to `high`; OptionError for anything else, NaN included."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high:
        return float(value)
    raise OptionError(f"{name} is {value!r}; allowed are numbers from {low} to {high}")
