"""Draw a picture again from the settings it carries, and compare."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from hiper.artifacts import Artifact, EditResult
from hiper.backbones import Backbone, StepCallback
from hiper.errors import ImageError
from hiper.images import shown
from hiper.inference.editing import edit
from hiper.inference.picture_settings import edit_arguments
from hiper.inference.png_settings import DrawnPicture, read_pixels
from hiper.inference.settings import LARGEST_AREA

LARGEST_BATCH = 256
"""Pictures that are drawn again at a time because a file says that they were."""


@dataclass(frozen=True, kw_only=True)
class Redrawn:
    """A picture drawn again.

    Attributes:
        image: The picture.
        result: All that was drawn with it.
        changed: Pixels that differ.
        most: By how many levels of 255, at most.
    """

    image: Image.Image
    result: EditResult
    changed: int
    most: int


def check_drawn_from_artifact(drawn: DrawnPicture) -> None:
    """Raise ImageError for a picture that was drawn from more than an artifact and its settings."""
    if drawn.settings.given:
        given = " and ".join(f"--{name}" for name in drawn.settings.given)
        raise ImageError(
            f"{shown(drawn.path)}: it was drawn with {given}, which the PNG does not carry; repeat the edit by"
            " hiper edit"
        )


def rerun(
    drawn: DrawnPicture, backbone: Backbone, artifact: Artifact, *, callback: StepCallback | None = None
) -> Redrawn:
    """Draw a picture again, together with those that were drawn with it; errors and warnings are those of `edit`.

    Raises:
        ImageError: The picture is damaged, was drawn from a picture or region that it does not carry, or claims a batch
            or a size that would take any memory.
    """
    check_drawn_from_artifact(drawn)
    settings = drawn.settings
    largest = LARGEST_AREA * backbone.resolution**2
    if len(settings.batch) > LARGEST_BATCH or settings.height * settings.width > largest:
        raise ImageError(
            f"{shown(drawn.path)}: drawn, as it says, in a batch of {len(settings.batch)}, of {settings.width}x"
            f"{settings.height} pixels each; at most {LARGEST_BATCH} of {largest} pixels are drawn again"
        )
    if settings.keep and artifact.source is None:
        raise ImageError(
            f"{shown(drawn.path)}: it keeps of the picture that was learnt, and the file has no latents of it; name the"
            " file it was drawn with by --artifact"
        )
    before = read_pixels(drawn)
    result = edit(backbone, artifact, callback=callback, **edit_arguments(drawn.settings))
    image = result.images[result.seeds.index(drawn.settings.seed)]
    difference = np.abs(before - np.asarray(image, np.int16))
    return Redrawn(
        image=image,
        result=result,
        changed=int(difference.any(axis=2).sum()),
        most=int(difference.max()),
    )
