"""How much of a picture's structure and background an edit kept."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hiper.metrics.picture_distance import check_sizes

Values = NDArray[np.float64]
_OFFSETS = np.arange(-5, 6)
_WINDOW = np.exp(-(_OFFSETS**2) / (2 * 1.5**2))
"""Gaussian of 11 pixels with a standard deviation of 1.5, as in Wang et al., section III.B."""
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def structural_similarity(a: Image.Image, b: Image.Image) -> float:
    """Mean structural similarity (SSIM) of the luminance of two RGB pictures of one size.

    Args:
        a: RGB.
        b: RGB, of the same size.

    Returns:
        -1 to 1, 1 for the same picture; higher is better.

    Raises:
        ValueError: Pictures of different sizes, or of less than 11 pixels a side.

    Reference: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment", IEEE TIP 13(4), 2004, equation 13, with a
    Gaussian window.
    """
    check_sizes(a, b)
    x, y = _luminance(a), _luminance(b)
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x, var_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (var_x + var_y + _C2)
    return float((luminance * structure).mean())


def background_psnr(edit: Image.Image, source: Image.Image, region: Image.Image) -> float | None:
    """Peak signal-to-noise ratio of an edit to its source outside of the region that may change.

    Args:
        edit: RGB.
        source: RGB, of the same size.
        region: Mode L, above 127 where the picture may change; resized to the pictures.

    Returns:
        Decibels, higher is better, infinite for the same pixels; None where the region covers everything.

    Raises:
        ValueError: Pictures of different sizes.

    Reference: PIE-Bench (arXiv:2310.01506, section 5.1), "background preservation". Its code averages the error over
    the whole picture, the region in black, so its figures are higher by 10 log10(pixels / pixels outside) dB.
    """
    check_sizes(edit, source)
    outside = _outside(region, source.size)
    if not outside.any():
        return None
    difference = np.asarray(edit, dtype=np.float64)[outside] - np.asarray(source, dtype=np.float64)[outside]
    error = float(np.square(difference / 255).mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def blackened(picture: Image.Image, region: Image.Image) -> Image.Image:
    """Return an RGB picture with the region (as in `background_psnr`) in black."""
    pixels = np.asarray(picture) * _outside(region, picture.size)[..., None]
    return Image.fromarray(pixels)


def _outside(region: Image.Image, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return [height, width], True outside of the region."""
    return np.asarray(region.resize(size, Image.Resampling.NEAREST)) <= 127


def _luminance(picture: Image.Image) -> Values:
    return np.asarray(picture.convert("L"), dtype=np.float64)


def _blurred(values: Values) -> Values:
    """Average [height, width] with the window, where it lies inside the picture."""
    weights = _WINDOW / _WINDOW.sum()
    for axis in (0, 1):
        windows = np.lib.stride_tricks.sliding_window_view(values, len(weights), axis=axis)
        values = windows @ weights
    return values
