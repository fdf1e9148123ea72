"""How far a whole picture is from the true answer."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from hiper.metrics.colour_distance import cielab


def picture_distance(picture: Image.Image, truth: Image.Image) -> float:
    """Mean CIE76 colour difference, pixel by pixel, of two pictures of one size or of the mirrored one, if nearer.

    No text says which way an animal faces. Range 0 (the same picture) to about 100, lower is better; 2.3 is a just
    noticeable difference. Unlike `colour_distance` it punishes another place, another pose, another background.
    ValueError for pictures of different sizes.
    """
    if picture.size != truth.size:
        raise ValueError(f"pictures of {picture.size} and {truth.size} pixels; bring them to one size")
    goal = cielab(truth)
    return min(
        float(np.linalg.norm(cielab(facing) - goal, axis=-1).mean())
        for facing in (picture, ImageOps.mirror(picture))
    )
