"""What an edit is drawn with: what was asked for, else the artifact's own, else the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hiper.artifact import Artifact
from hiper.backbones.base import Backbone
from hiper.errors import OptionError
from hiper.subject import clean_text

SIZE_MULTIPLE = 8
LARGEST_SIDE = 8192
STRENGTH, STEPS, SCHEDULER = 0.8, 50, "ddim"

NegativePrompt = str | Sequence[str]


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


def resolve_strength(artifact: Artifact, given: float | None) -> float:
    """Return the factor on what was learnt; OptionError outside of -10 .. 10."""
    value = given if given is not None else artifact.edit.get("strength", STRENGTH)
    return check_number("strength", value, -10, 10)


def resolve_guidance(artifact: Artifact, given: float | None, backbone: Backbone) -> float:
    """Return the guidance scale; OptionError outside of 0 .. 100."""
    value = given if given is not None else artifact.edit.get("guidance", backbone.default_guidance)
    return check_number("guidance", value, 0, 100)


def resolve_steps(artifact: Artifact, given: int | None, backbone: Backbone) -> int:
    """Return the number of denoising steps; OptionError outside of 1 .. the backbone's noise levels."""
    return check_whole(
        "steps", given if given is not None else artifact.edit.get("steps", STEPS), 1, backbone.timesteps
    )


def resolve_scheduler(artifact: Artifact, given: str | None) -> str:
    """Return the sampler's name, which the backbone checks."""
    return given if given is not None else str(artifact.edit.get("scheduler", SCHEDULER))


def resolve_side(name: str, given: int | None, backbone: Backbone, notes: list[str]) -> int:
    """Return a side in pixels, rounded to a multiple of 8, which is noted; None is the native side."""
    if given is None:
        return backbone.resolution
    side = check_whole(name, given, SIZE_MULTIPLE, LARGEST_SIDE)
    rounded = round(side / SIZE_MULTIPLE) * SIZE_MULTIPLE
    if rounded != side:
        notes.append(f"{name} {side} is no multiple of {SIZE_MULTIPLE}; {rounded} was drawn")
    return rounded


def resolve_negatives(given: NegativePrompt, count: int) -> tuple[str, ...]:
    """Return one cleaned negative prompt, or one per picture; OptionError for another number."""
    texts = (given,) if isinstance(given, str) else tuple(given)
    if len(texts) not in (1, count):
        raise OptionError(f"{len(texts)} negative prompts for {count} seeds; give one, or one per seed")
    return tuple(clean_text(text, what="negative prompt", may_be_empty=True) for text in texts)


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
