"""How the picture is made: a drawing, and what turns a drawing into watercolor, sketch or chalk."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

PAPER = np.array([250.0, 246.0, 236.0])


def apply_style(name: str, image: Image.Image, seed: int) -> Image.Image:
    """Return an RGB square in the style `name`; `seed` moves the paper's edge."""
    if name == "watercolor":
        return _watercolor(image, seed)
    if name == "sketch":
        return _sketch(image)
    if name == "chalk":
        return _chalk(image)
    return image


def _image(values: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8), "RGB")


def _grid(side: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    axis = (np.arange(side) + 0.5) / side
    return axis[None, :], axis[:, None]


def _watercolor(image: Image.Image, seed: int) -> Image.Image:
    """Make it soft and pale, on paper whose border stays white."""
    side = image.width
    values = np.asarray(image.filter(ImageFilter.GaussianBlur(side * 0.006)), dtype=np.float64)
    x, y = _grid(side)
    rng = np.random.default_rng([seed, 7])
    wave = rng.uniform(0, 2 * np.pi, 4)
    edge = 0.075
    wobble_x, wobble_y = 0.018 * np.sin(9 * y + wave[0]), 0.018 * np.sin(9 * x + wave[1])
    left, right = x - edge + wobble_x, 1 - edge - x + 0.018 * np.sin(8 * y + wave[2])
    top, bottom = y - edge + wobble_y, 1 - edge - y + 0.018 * np.sin(8 * x + wave[3])
    inside = np.minimum(np.minimum(left, right), np.minimum(top, bottom))
    cover = np.clip(inside / 0.02 + 0.5, 0, 1)[..., None] * 0.78
    return _image(PAPER * (1 - cover) + values * cover)


def _sketch(image: Image.Image) -> Image.Image:
    """Grey lead on paper: the outlines stay, tones become pale, dark tones are hatched."""
    grey = np.asarray(image.convert("L"), dtype=np.float64)
    x, y = _grid(image.width)
    hatch = (np.sin(2 * np.pi * (x + y) * 16) > 0.2) & (grey < 150) & (grey > 60)
    tone = 255 - 0.62 * (255 - grey)
    tone = np.where(grey < 60, grey, tone) - 26.0 * hatch
    return _image(tone[..., None] / 255 * np.array([250.0, 248.0, 244.0]))


def _chalk(image: Image.Image) -> Image.Image:
    """Coloured chalk on a dark board: tones sink into the board, dark outlines become pale strokes."""
    values = np.asarray(image, dtype=np.float64)
    grey = np.asarray(image.convert("L"), dtype=np.float64)[..., None]
    board = np.array([38.0, 52.0, 48.0])
    stroke = np.clip((75 - grey) / 20, 0, 1)
    return _image((board * 0.55 + values * 0.5) * (1 - stroke) + np.array([214.0, 216.0, 206.0]) * stroke)
