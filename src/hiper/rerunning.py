"""Draw a picture again from the settings it carries, and compare."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from hiper.artifact import Artifact
from hiper.backbones.base import Backbone, StepCallback
from hiper.editing import EditResult, edit
from hiper.picture_settings import edit_arguments
from hiper.png_settings import DrawnPicture
from hiper.reading import open_regular


@dataclass(frozen=True, kw_only=True)
class Redrawn:
    """The picture, drawn again with its batch; changed: pixels that differ; most: by how many levels of 255."""

    image: Image.Image
    result: EditResult
    changed: int
    most: int


def rerun(
    drawn: DrawnPicture, backbone: Backbone, artifact: Artifact, *, callback: StepCallback | None = None
) -> Redrawn:
    """Draw it again, together with the pictures that were drawn with it. Raises and warns as `edit` does."""
    result = edit(backbone, artifact, callback=callback, **edit_arguments(drawn.settings))
    image = result.images[result.seeds.index(drawn.settings.seed)]
    with open_regular(drawn.path) as file, Image.open(file, formats=["PNG"]) as before:
        difference = np.abs(np.asarray(before.convert("RGB"), np.int16) - np.asarray(image, np.int16))
    return Redrawn(
        image=image,
        result=result,
        changed=int(difference.any(axis=2).sum()),
        most=int(difference.max()),
    )
