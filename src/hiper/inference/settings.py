"""What an edit is drawn with: what was asked for, else the artifact's own, else what suits the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hiper.backbones import LCM_STEPS, Backbone, check_scheduler
from hiper.errors import OptionError
from hiper.images import clean_text
from hiper.options import EditSettings, NegativePrompt, check_number, check_whole, resolve_strength

LARGEST_SIDE = 8192


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
