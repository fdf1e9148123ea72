"""What an edit is drawn with: what was asked for, else the artifact's own, else what suits the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hiper.backbones import LCM_STEPS, Backbone, check_scheduler
from hiper.errors import OptionError
from hiper.images import clean_text
from hiper.methods import KEEP_SOURCE
from hiper.options import (
    EARLIER_SAMPLING,
    KEEP,
    NegativePrompt,
    SamplingSettings,
    check_number,
    check_whole,
    current_names,
    resolve_strength,
)

LARGEST_SIDE = 8192
LARGEST_AREA = 16
"""Of a picture that is drawn again, or a source that is kept, because a file says so; in the model's native areas."""
KEEP_STEPS = 15
"""Of four calls of the denoiser each, where the source is kept."""


def resolve_settings(
    own: Mapping[str, Any],
    backbone: Backbone,
    notes: list[str],
    *,
    strength: float | None = None,
    guidance_scale: float | None = None,
    num_inference_steps: int | None = None,
    scheduler: str | None = None,
    height: int | None = None,
    width: int | None = None,
    negative_prompt: NegativePrompt = "",
    keep: float | None = None,
    source: Tensor | None = None,
    images: int = 1,
) -> SamplingSettings:
    """Return what is given, else the artifact's own setting, else the model's.

    Args:
        own: An artifact's `edit`, in the words of this release or of an earlier one.
        backbone: The model.
        notes: Collects notes, such as of a rounded or unusual size.
        strength: As in `edit`, like the settings that follow.
        guidance_scale: Guidance scale.
        num_inference_steps: Denoising steps.
        scheduler: Sampler.
        height: Pixels.
        width: Pixels.
        negative_prompt: One, or one per picture.
        keep: How much of the source stays.
        source: Latents of the picture that was learnt, [1, c, h, w], or None.
        images: How many pictures are drawn.

    Raises:
        OptionError: A value is out of range, the scheduler unknown, the number of negative prompts neither one nor that
            of the pictures, or the size another than the source's where that is kept.
    """
    own = current_names(own, EARLIER_SAMPLING)
    kept = _kept(keep, own, backbone, notes, source, (height, width))
    has_size = (height, width) != (None, None)
    if kept and source is not None:
        height, width = _source_size(source, backbone, height, width)
        if num_inference_steps is None:
            usual = own.get("num_inference_steps", backbone.default_num_inference_steps)
            num_inference_steps = min(
                KEEP_STEPS, check_whole("num_inference_steps", usual, 1, backbone.timesteps)
            )
        if scheduler not in (None, own.get("scheduler", backbone.schedulers[0])):
            check_scheduler(str(scheduler), backbone.schedulers)
            notes.append(f"keep moves the source by steps of its own; the scheduler {scheduler!r} is ignored")
            scheduler = None

    def chosen(name: str, given: float | str | None, otherwise: object) -> object:
        return given if given is not None else own.get(name, otherwise)

    name = str(chosen("scheduler", scheduler, backbone.schedulers[0]))
    check_scheduler(name, backbone.schedulers)
    most = LCM_STEPS if name == "lcm" else backbone.timesteps
    sides = _side("height", height, backbone, notes), _side("width", width, backbone, notes)
    if has_size:
        notes += filter(None, [backbone.size_note(*sides)])
    return SamplingSettings(
        strength=resolve_strength(own, strength),
        guidance_scale=check_number(
            "guidance_scale",
            chosen("guidance_scale", guidance_scale, backbone.default_guidance_scale),
            0,
            100,
        ),
        num_inference_steps=check_whole(
            "num_inference_steps",
            chosen("num_inference_steps", num_inference_steps, backbone.default_num_inference_steps),
            1,
            most,
        ),
        scheduler=name,
        height=sides[0],
        width=sides[1],
        negative_prompt=resolve_negatives(negative_prompt, images, notes),
        keep=kept,
    )


def _kept(
    asked: float | None,
    own: Mapping[str, Any],
    backbone: Backbone,
    notes: list[str],
    source: Tensor | None,
    size: tuple[int | None, int | None],
) -> float:
    """Return how much of the source is kept: what is asked for, else the file's own, as far as that is possible."""
    kept = check_number("keep", own.get(KEEP_SOURCE, KEEP) if asked is None else asked, 0, 1)
    if not kept or source is None:
        if asked:
            notes.append(
                "there are no latents of a picture to keep, so that a new one is drawn; fit again, or name the picture"
                " as source"
            )
        return 0.0
    if asked is None:  # a default stands in nobody's way
        if "trajectory" not in backbone.capabilities:
            return 0.0
        if size != (None, None) and size != _pixels(source, backbone):
            notes.append("another size than the source's is asked for, so that the picture is drawn anew")
            return 0.0
    return kept


def _pixels(source: Tensor, backbone: Backbone) -> tuple[int, int]:
    """Return height and width of the picture that latents [1, c, h, w] decode to."""
    factor = backbone.resolution // backbone.latent_shape[1]
    return source.shape[2] * factor, source.shape[3] * factor


def _source_size(
    source: Tensor, backbone: Backbone, height: int | None, width: int | None
) -> tuple[int, int]:
    """Return the size in pixels of what the latents [1, c, h, w] decode to; OptionError if another is asked for."""
    channels = backbone.latent_shape[0]
    if source.shape[1] != channels:
        raise OptionError(
            f"the file's source has {source.shape[1]} channels, {backbone.id} takes {channels}; draw anew by keep=0"
        )
    own = _pixels(source, backbone)
    if (
        any(side % backbone.size_multiple for side in own)
        or math.prod(own) > LARGEST_AREA * backbone.resolution**2
    ):
        raise OptionError(
            f"the file's source is a picture of {own[1]} x {own[0]} pixels, which {backbone.id} does not draw; draw"
            " anew by keep=0"
        )
    if (height or own[0], width or own[1]) != own:
        raise OptionError(
            f"the source is edited at {own[1]} x {own[0]} pixels, and {width or own[1]} x {height or own[0]} are"
            " asked for; leave out the size, or draw anew by keep=0"
        )
    return own


def resolve_negatives(
    given: NegativePrompt, count: int, notes: list[str], *, of: str = "seed"
) -> tuple[str, ...]:
    """Clean negative prompts, one for all pictures or one for each.

    Args:
        given: The prompts.
        count: How many pictures are drawn.
        notes: Collects what was cleaned away.
        of: What a picture belongs to, for the message.

    Raises:
        OptionError: There is another number of them.
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
