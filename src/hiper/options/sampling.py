"""The settings of a drawing: as they are asked for, and as they are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, cast

from hiper.options.validation import check_number

STRENGTH, KEEP = 0.8, 0.5
"""The paper's factor on what was learnt, and how much of the source an edit keeps."""


NegativePrompt = str | Sequence[str]


class SamplingKwargs(TypedDict, total=False):
    """The settings of a drawing, as `edit` takes them; what is not there is left to the artifact and the model."""

    strength: float | None
    guidance_scale: float | None
    num_inference_steps: int | None
    scheduler: str | None
    height: int | None
    width: int | None
    negative_prompt: NegativePrompt
    keep: float | None


class EarlierSamplingKwargs(TypedDict, total=False):
    """Names that earlier releases gave to settings of a drawing; see `EARLIER_SAMPLING`."""

    guidance: float | None
    steps: int | None


class AnySamplingKwargs(SamplingKwargs, EarlierSamplingKwargs, total=False):
    """Settings of a drawing under present and earlier names."""


def sampling_of(request: object) -> SamplingKwargs:
    """Return the sampling settings among the fields of a request, or of settings that were drawn with."""
    names = (name for name in SamplingKwargs.__annotations__ if hasattr(request, name))
    return cast(SamplingKwargs, {name: getattr(request, name) for name in names})


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """The settings that pictures are drawn with.

    Attributes:
        strength: Factor on what was learnt; samplers leave it to what attaches that.
        guidance_scale: 1 is none.
        num_inference_steps: Denoising steps.
        scheduler: One of the backbone's `schedulers`.
        height: Pixels, a multiple of the backbone's `size_multiple`.
        width: Likewise.
        negative_prompt: One, or one per seed.
        keep: How much of the source is kept, 0 to 1.
    """

    strength: float = STRENGTH
    guidance_scale: float
    num_inference_steps: int
    scheduler: str
    height: int
    width: int
    negative_prompt: tuple[str, ...] = ("",)
    keep: float = 0.0

    @property
    def guidance(self) -> float:
        """Earlier name of `guidance_scale`."""
        return self.guidance_scale

    @property
    def steps(self) -> int:
        """Earlier name of `num_inference_steps`."""
        return self.num_inference_steps


def resolve_strength(own: Mapping[str, Any], given: float | None) -> float:
    """Return the factor on what was learnt; OptionError outside of -10 .. 10."""
    return check_number("strength", given if given is not None else own.get("strength", STRENGTH), -10, 10)
