"""Scores from readings, on cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from hiper.metrics import (
    background_psnr,
    edit_success,
    identity_match,
    picture_distance,
    picture_distances,
    preservation,
    source_leak,
    structural_similarity,
)

SOURCE = {"species": "cat", "pose": "standing", "background": "meadow", "style": "drawing"}
TARGET = {**SOURCE, "pose": "sitting", "background": "beach"}


@pytest.mark.parametrize(
    ("changes", "success", "kept", "leak"),
    [
        ({}, 1.0, 1.0, 0.0),
        ({"pose": "standing"}, 0.0, 1.0, 0.5),
        ({"pose": "standing", "background": "meadow"}, 0.0, 1.0, 1.0),
        ({"background": "snow"}, 0.0, 1.0, 0.0),
        ({"species": "dog"}, 1.0, 0.5, 0.0),
        ({"species": "dog", "style": "chalk"}, 1.0, 0.0, 0.0),
    ],
)
def test_an_edit_is_judged_by_what_changed_and_what_did_not(
    changes: dict[str, str], success: float, kept: float, leak: float
) -> None:
    found = {**TARGET, **changes}
    assert edit_success(found, SOURCE, TARGET) == success
    assert preservation(found, SOURCE, TARGET) == kept
    assert source_leak(found, SOURCE, TARGET) == leak


def test_the_unchanged_source_is_no_edit() -> None:
    assert (edit_success(SOURCE, SOURCE, TARGET), source_leak(SOURCE, SOURCE, TARGET)) == (0.0, 1.0)


def test_what_the_true_answer_does_not_show_is_not_counted() -> None:
    true = {"primary": "red", "secondary": "white", "collar": "blue", "eyes": "green"}
    legible = {"primary": "red", "secondary": "black", "collar": "blue"}
    found = {"primary": "red", "secondary": "white", "collar": "none", "eyes": "green"}
    assert identity_match(found, legible, true) == {
        "primary": 1.0,
        "secondary": None,
        "collar": 0.0,
        "eyes": None,
    }


def test_the_distance_of_grey_levels_is_their_lightness() -> None:
    """White is L* = 100 and black L* = 0 by definition; sRGB 119 is L* = 50 (CIE 15)."""
    black, white = (Image.new("RGB", (8, 8), shade) for shade in ("black", "white"))
    half = black.copy()
    half.paste("white", (0, 0, 8, 4))
    assert picture_distance(black, white) == pytest.approx(100, abs=0.1)
    assert picture_distance(half, white) == pytest.approx(50, abs=0.1)
    assert picture_distance(Image.new("RGB", (8, 8), (119, 119, 119)), black) == pytest.approx(50, abs=0.2)


def test_an_animal_may_face_either_way() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    assert picture_distance(picture, picture) == 0
    assert picture_distance(ImageOps.mirror(picture), picture) == 0
    assert picture_distance(ImageOps.flip(picture), picture) > 10


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="bring them to one size"):
        picture_distance(Image.new("RGB", (8, 8)), Image.new("RGB", (8, 9)))


def test_the_distance_is_split_by_the_masks() -> None:
    truth = Image.new("RGB", (8, 8))
    picture = truth.copy()
    picture.paste("white", (0, 0, 4, 8))
    left = Image.new("L", (8, 8))
    left.paste(255, (0, 0, 4, 8))
    found = picture_distances(picture, truth, [left])
    assert (found.whole, found.inside, found.outside) == pytest.approx((50, 100, 0), abs=0.1)
    assert picture_distances(picture, truth).inside is None
    assert picture_distances(picture, truth, [left, ImageOps.mirror(left)]).outside is None


def test_structure_is_that_of_its_definition() -> None:
    """Constant pictures leave only the luminance's term of equation 13, the negative of a pattern is the worst."""
    dark, light = Image.new("RGB", (16, 16), (100, 100, 100)), Image.new("RGB", (16, 16), (150, 150, 150))
    c1 = (0.01 * 255) ** 2
    assert structural_similarity(dark, light) == pytest.approx(
        (2 * 100 * 150 + c1) / (100**2 + 150**2 + c1), abs=1e-6
    )
    random = np.random.default_rng(0)
    pattern = Image.fromarray(random.integers(0, 256, (32, 32), dtype=np.uint8)).convert("RGB")
    assert structural_similarity(pattern, pattern) == pytest.approx(1)
    assert structural_similarity(pattern, ImageOps.invert(pattern)) < -0.8


def test_the_background_is_what_lies_outside_the_region() -> None:
    source = Image.new("RGB", (8, 8), (100, 100, 100))
    edit, region = source.copy(), Image.new("L", (8, 8))
    edit.paste("red", (0, 0, 4, 8))
    region.paste(255, (0, 0, 4, 8))
    assert background_psnr(edit, source, region) == float("inf")
    shifted = Image.new("RGB", (8, 8), (110, 110, 110))
    assert background_psnr(shifted, source, region) == pytest.approx(20 * np.log10(255 / 10))
    assert background_psnr(edit, source, Image.new("L", (8, 8), 255)) is None
