"""The settings of a drawing: as they are asked for, and as they are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, cast

from hiper.options.checks import check_number

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
    keep: float | None


def sampling_of(request: object) -> Sampling:
    """Return the sampling settings among the fields of a request, or of settings that were drawn with."""
    names = (name for name in Sampling.__annotations__ if hasattr(request, name))
    return cast(Sampling, {name: getattr(request, name) for name in names})


@dataclass(frozen=True, kw_only=True)
class EditSettings:
    """Height and width in pixels; one negative prompt, or one per seed; how much of the source is kept, 0 to 1."""

    strength: float
    guidance: float
    steps: int
    scheduler: str
    height: int
    width: int
    negative_prompt: tuple[str, ...]
    keep: float = 0.0


def resolve_strength(own: Mapping[str, Any], given: float | None) -> float:
    """Return the factor on what was learnt; OptionError outside of -10 .. 10."""
    return check_number("strength", given if given is not None else own.get("strength", STRENGTH), -10, 10)
