"""How far the colours of an edited subject are from those of the true answer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Values = NDArray[np.float64]
_RGB_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_DIFFERENCES = 1_000_000
"""Of colours, that are in memory at a time: 24 MB and their squares."""
_WHITE_D65 = np.array([0.95047, 1.0, 1.08883])


def cielab(image: Image.Image) -> Values:
    """Return an sRGB picture in CIELAB, [height, width, 3]: L* 0..100, a* and b* about -128..127 (CIE 15:2004, D65)."""
    rgb = np.asarray(image.convert("RGB"), dtype=np.float64) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _RGB_TO_XYZ.T / _WHITE_D65
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    lab: Values = np.stack(
        [116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1
    )
    return lab


def colour_distance(edit: Image.Image, truth: Image.Image, mask: Image.Image) -> float:
    """Return the symmetric chamfer distance between the colours of two pictures inside the subject's mask.

    Every pixel of one picture inside `mask` (mode L, above 127) is matched to the most similar colour of the other;
    the CIE76 differences (Euclidean distance in CIELAB) are averaged over both directions. Position inside the mask
    does not matter, so a subject that stands a little elsewhere is not punished for it. Range 0 (the same colours) to
    about 100, lower is better; 2.3 is a just noticeable difference. It says nothing about whether the edit was made:
    read it beside the pictures or an edit-success score.

    Raises:
        ValueError: The mask is empty.
    """
    inside = np.asarray(mask.resize(truth.size)) > 127
    if not inside.any():
        raise ValueError("the mask is empty: it must mark at least one pixel of the subject")
    ours, theirs = (
        np.unique(cielab(p).reshape(-1, 3)[inside.ravel()], axis=0, return_counts=True) for p in (edit, truth)
    )
    there = np.average(_nearest(ours[0], theirs[0]), weights=ours[1])
    back = np.average(_nearest(theirs[0], ours[0]), weights=theirs[1])
    return float((there + back) / 2)


def _nearest(colours: Values, others: Values) -> Values:
    """Return for each of [count, 3] colours how far the nearest of the others is; some at a time, for memory's sake."""
    some = max(1, _DIFFERENCES // len(others))
    parts = (colours[start : start + some, None] - others for start in range(0, len(colours), some))
    return np.concatenate([np.sqrt((part**2).sum(-1).min(1)) for part in parts])
