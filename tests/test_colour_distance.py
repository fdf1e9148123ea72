"""Colour distance on constructed cases with a known answer."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageCms

from hiper.metrics import colour_distance
from hiper.metrics.colour_distance import cielab

FULL = Image.new("L", (8, 8), 255)


def test_cielab_equals_littlecms() -> None:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8), "RGB")
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB", 6504)
    transform = ImageCms.buildTransform(srgb, lab, "RGB", "LAB", ImageCms.Intent.RELATIVE_COLORIMETRIC)
    reference = np.asarray(ImageCms.applyTransform(picture, transform)).astype(np.int16)
    lightness = reference[..., 0] / 255 * 100
    assert np.abs(cielab(picture)[..., 0] - lightness).mean() < 0.5


def test_cielab_of_the_primaries_is_the_published_one() -> None:
    published = {
        "#ff0000": (53.24, 80.09, 67.20),
        "#00ff00": (87.73, -86.18, 83.18),
        "#0000ff": (32.30, 79.19, -107.86),
    }
    for colour, expected in published.items():
        assert cielab(Image.new("RGB", (1, 1), colour))[0, 0] == pytest.approx(expected, abs=0.05)


def test_white_and_black_are_one_hundred_apart() -> None:
    white, black = Image.new("RGB", (8, 8), "white"), Image.new("RGB", (8, 8), "black")
    assert colour_distance(white, black, FULL) == pytest.approx(100, abs=0.01)
    assert colour_distance(white, white, FULL) == 0


def test_moving_the_same_colours_costs_nothing_and_the_outside_is_ignored() -> None:
    left = np.zeros((8, 8, 3), np.uint8)
    left[:, :4] = (200, 30, 30)
    moved = Image.fromarray(np.ascontiguousarray(left[:, ::-1]), "RGB")
    assert colour_distance(Image.fromarray(left, "RGB"), moved, FULL) == 0
    half = Image.fromarray(np.repeat([[255] * 4 + [0] * 4], 8, 0).astype(np.uint8), "L")
    assert colour_distance(Image.fromarray(left, "RGB"), Image.new("RGB", (8, 8), (200, 30, 30)), half) == 0


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="mask is empty"):
        colour_distance(FULL.convert("RGB"), FULL.convert("RGB"), Image.new("L", (8, 8), 0))


def noise(seed: int, side: int) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (side, side, 3))
    return Image.fromarray(levels.astype(np.uint8))


@pytest.mark.slow
def test_a_bounded_memory_gives_the_value_of_the_definition() -> None:
    one, other = noise(0, 40), noise(1, 40)
    a, b = (cielab(each).reshape(-1, 3) for each in (one, other))
    apart = np.linalg.norm(a[:, None] - b[None], axis=-1)
    expected = (apart.min(1).mean() + apart.min(0).mean()) / 2
    assert colour_distance(one, other, Image.new("L", (40, 40), 255)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
def test_pictures_without_two_like_pixels_take_little_memory() -> None:
    """All pairs at a time would take 400 MB."""
    tracemalloc.start()
    colour_distance(noise(0, 64), noise(1, 64), Image.new("L", (64, 64), 255))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6
