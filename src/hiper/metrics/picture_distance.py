"""How far a whole picture is from the true answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from hiper.metrics.colour_distance import cielab


@dataclass(frozen=True, kw_only=True)
class PictureDistances:
    """Mean CIE76 colour differences, pixel by pixel; range 0 to about 100, lower is better.

    Attributes:
        whole: Of all pixels.
        inside: Of those inside the masks; None where there are none.
        outside: Of the others; None where there are none.
    """

    whole: float
    inside: float | None
    outside: float | None


def picture_distance(picture: Image.Image, truth: Image.Image) -> float:
    """Return the whole picture's `picture_distances`."""
    return picture_distances(picture, truth).whole


def picture_distances(
    picture: Image.Image, truth: Image.Image, masks: Sequence[Image.Image] = ()
) -> PictureDistances:
    """Compare two pictures pixel by pixel, or the mirrored one if it is nearer: no text says where an animal faces.

    Unlike `colour_distance` it punishes another place, another pose, another background; 2.3 is a just noticeable
    difference.

    Args:
        picture: RGB.
        truth: RGB, of the same size.
        masks: Mode L, of the same size, 255 where a subject is; pixels inside any of them are inside.

    Raises:
        ValueError: Pictures of different sizes.
    """
    check_sizes(picture, truth)
    goal = cielab(truth)
    differences = min(
        (np.linalg.norm(cielab(facing) - goal, axis=-1) for facing in (picture, ImageOps.mirror(picture))),
        key=lambda values: float(values.mean()),
    )
    inside = np.zeros(differences.shape, dtype=bool)
    for mask in masks:
        inside |= np.asarray(mask) > 127
    return PictureDistances(
        whole=float(differences.mean()),
        inside=_mean(differences[inside]),
        outside=_mean(differences[~inside]),
    )


def check_sizes(a: Image.Image, b: Image.Image) -> None:
    """Raise ValueError for pictures of different sizes."""
    if a.size != b.size:
        raise ValueError(f"pictures of {a.size} and {b.size} pixels; bring them to one size")


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if values.size else None
