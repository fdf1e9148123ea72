"""A map laid over its picture."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor

SHOWN = 128
"""Pixels of a heat map's side."""

_COVER = 0.65
# Dark to light, so that it also reads without colours: the corner points of matplotlib's "inferno".
_COLOURS = np.array(
    [(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], dtype=np.float64
)


def heat_map(picture: Image.Image, seen: Tensor) -> Image.Image:
    """Return the picture in grey under a map [side, side] in colours, from dark (no attention) to light.

    The scale is the map's own, from 0 to its largest value: two maps compare in where, not in how much.
    """
    grey = np.asarray(picture.convert("L").resize((SHOWN, SHOWN), Image.Resampling.BICUBIC), dtype=np.float64)
    largest = float(seen.max())
    values = Image.fromarray((seen / largest if largest else seen).numpy())
    smooth = np.asarray(values.resize((SHOWN, SHOWN), Image.Resampling.BICUBIC), dtype=np.float64).clip(0, 1)
    places = np.linspace(0, 1, len(_COLOURS))
    colours = np.stack([np.interp(smooth, places, _COLOURS[:, channel]) for channel in range(3)], axis=-1)
    blend = (1 - _COVER) * grey[..., None] + _COVER * colours
    return Image.fromarray(np.rint(blend).astype(np.uint8))
