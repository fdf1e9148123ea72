"""The result of an edit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import PIL.Image

from hiper.options import SamplingSettings

GivenPicture = Literal["source", "region", "into"]
"""What an edit may be given beside the artifact."""


@dataclass(frozen=True, kw_only=True)
class EditResult:
    """Pictures, and all that is needed to draw them again.

    Attributes:
        images: In the order of `seeds`, mode RGB.
        prompt: As it was drawn.
        seeds: One for each picture.
        settings: Of the drawing.
        batch_size: Pictures drawn at a time; the last bits of a picture depend on its batch.
        flagged: Seeds whose picture the model's safety checker blackened.
        notes: For the user.
        given: Which of `source`, `region` and `into` the edit was given.
        masks: Mode L, one per picture, white where it was free to change; none where nothing of the source was kept.
    """

    images: list[PIL.Image.Image]
    prompt: str
    seeds: tuple[int, ...]
    settings: SamplingSettings
    batch_size: int
    flagged: tuple[int, ...]
    notes: tuple[str, ...]
    given: tuple[GivenPicture, ...] = ()
    masks: tuple[PIL.Image.Image, ...] = ()
