"""Scores from readings, on cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from hiper.metrics import edit_success, identity_match, picture_distance, preservation, source_leak

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
