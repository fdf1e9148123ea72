"""A subject: picture, caption and mask are checked once, and identified by their content."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hiper.errors import CaptionError, HiperWarning, ImageError
from hiper.images import Subject, clean_text


def picture(width: int = 300, height: int = 260) -> Image.Image:
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def half_mask(width: int = 300, height: int = 260) -> Image.Image:
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (0, 0, width // 2, height))
    return mask


def test_a_file_and_the_same_picture_in_memory_are_one_subject(tmp_path: Path) -> None:
    picture().save(tmp_path / "dog.png")
    from_file = Subject.open(tmp_path / "dog.png", caption="a standing dog")
    in_memory = Subject.from_image(picture(), caption="  a standing\tdog ")
    assert from_file == in_memory
    assert hash(from_file) == hash(in_memory)
    assert from_file.image == picture()
    assert from_file.caption == "a standing dog"
    assert from_file.mask is None
    assert from_file.notes == ()


def test_the_hash_is_of_size_and_pixels() -> None:
    subject = Subject.from_image(picture(), caption="a dog")
    assert subject.sha256 == hashlib.sha256(b"RGB 300x260\n" + picture().tobytes()).hexdigest()
    other = picture()
    other.putpixel((299, 259), (1, 2, 3))
    reshaped = Image.frombytes("RGB", (260, 300), picture().tobytes())
    hashes = {
        Subject.from_image(image, caption="a dog", mask=mask).sha256
        for image, mask in ((picture(), None), (other, None), (reshaped, None), (picture(), half_mask()))
    }
    assert len(hashes) == 4


def test_options_reach_the_file(tmp_path: Path) -> None:
    frames = [Image.new("RGBA", (256, 256), colour) for colour in ("#ff000080", "#00ff0080")]
    frames[0].save(tmp_path / "dog.png", save_all=True, append_images=frames[1:])
    subject = Subject.open(tmp_path / "dog.png", caption="a dog", frame=1, background="black")
    assert subject.image.getpixel((0, 0)) == (0, 128, 0)
    assert len(subject.notes) == 2
    data = (tmp_path / "dog.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[:-60])
    with pytest.warns(HiperWarning, match="cut short"):
        Subject.open(tmp_path / "cut.png", caption="a dog", frame=1, allow_truncated=True)


# Masks


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "I;16"])
def test_masks_of_any_depth(tmp_path: Path, mode: str) -> None:
    mask = half_mask()
    if mode == "I;16":
        mask = Image.fromarray(np.asarray(mask).astype(np.uint16) * 257)
    picture().save(tmp_path / "dog.png")
    mask.convert(mode).save(tmp_path / "mask.png")
    subject = Subject.open(tmp_path / "dog.png", caption="a dog", mask=tmp_path / "mask.png")
    assert subject.mask == half_mask()


def test_a_cut_out_picture_is_a_mask() -> None:
    dark_cutout = Image.merge("RGBA", [Image.new("L", (300, 260), 20)] * 3 + [half_mask()])
    subject = Subject.from_image(picture(), caption="a dog", mask=dark_cutout)
    assert subject.mask == half_mask()
    assert "mask: the mask is what is opaque in its file" in subject.notes


def test_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ImageError, match="the mask has 260x300 pixels, the picture 300x260"):
        Subject.from_image(picture(), caption="a dog", mask=half_mask(260, 300))


def test_mask_turned_by_exif_fits_the_picture_turned_by_exif(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(tmp_path / "dog.png", exif=exif)
    half_mask().save(tmp_path / "mask.png", exif=exif)
    subject = Subject.open(tmp_path / "dog.png", caption="a dog", mask=tmp_path / "mask.png")
    assert subject.image.size == (260, 300)
    assert subject.mask == half_mask().transpose(Image.Transpose.ROTATE_270)


@pytest.mark.parametrize("brightest", [0, 1, 127])
def test_mask_that_selects_nothing_is_refused(brightest: int) -> None:
    mask = half_mask().point(lambda level: min(level, brightest))
    with pytest.raises(ImageError, match=f"the mask: the mask's brightest pixel is {brightest} of 255"):
        Subject.from_image(picture(), caption="a dog", mask=mask)


def test_missing_mask_is_named(tmp_path: Path) -> None:
    picture().save(tmp_path / "dog.png")
    with pytest.raises(ImageError, match=r"absent.png': no such file"):
        Subject.open(tmp_path / "dog.png", caption="a dog", mask=tmp_path / "absent.png")


# Captions


@pytest.mark.parametrize(
    "text", ["a standing dog", "🐶🐕‍🦺", "собака на траве", "犬", "e\u0301tonne\u0301", "नमस्ते", "<b>&amp;"]
)
def test_texts_of_all_scripts_stay_as_they_are(text: str) -> None:
    assert clean_text(text, what="prompt") == text


def test_white_space_is_folded() -> None:
    assert clean_text(" a dog,\r\n\t sitting\u2028down\u00a0", what="prompt") == "a dog, sitting down"


@pytest.mark.parametrize(
    ("text", "removed"),
    [
        ("a\0 dog", 1),
        ("a \x1b[31mdog".replace("[31m", ""), 1),
        ("a \u202edog\u202c", 2),
        ("\ufeffa \u2066dog\u2069", 3),
        ("a \ud83ddog", 1),
        ("a do\u200bg\x7f\x9f", 3),
    ],
)
def test_invisible_characters_are_removed_with_a_warning(text: str, removed: int) -> None:
    with pytest.warns(HiperWarning, match=rf"the prompt lost its invisible .* \({removed} of them\)"):
        assert clean_text(text, what="prompt") == "a dog"


@pytest.mark.slow
def test_a_megabyte_of_text_is_refused() -> None:
    assert clean_text("a" * 10_000, what="prompt") == "a" * 10_000
    with pytest.raises(CaptionError, match="the prompt has 1000000 characters, at most 10000 are allowed"):
        clean_text("a" * 1_000_000, what="prompt")


@pytest.mark.parametrize("text", ["", " \n", "\0"])
@pytest.mark.filterwarnings("ignore:the caption lost")
def test_an_empty_caption_is_allowed_with_a_warning(text: str) -> None:
    with pytest.warns(HiperWarning, match="the caption is empty"):
        subject = Subject.from_image(picture(), caption=text)
    assert subject.caption == ""
    assert "the caption is empty" in subject.notes


def test_a_text_that_may_be_empty_is_empty_without_a_word() -> None:
    assert clean_text("", what="negative prompt", may_be_empty=True) == ""


@pytest.mark.parametrize(
    "text",
    ["dog.txt", "./captions/dog", "C:\\photos\\dog.txt", "my dog.caption", "rex.JPG", "dog.md", "caption"],
)
def test_a_caption_that_names_a_file_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """The last one names a file because there is one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "caption").write_text("a dog")
    with pytest.warns(HiperWarning, match="reads like a file's name"):
        subject = Subject.from_image(picture(), caption=text)
    assert subject.caption == text
    assert any("file's name" in note for note in subject.notes)


@pytest.mark.parametrize("text", ["a dog.", "a black/white dog", "Dr. Who", "a 1.5 m dog", "犬。", "sitting"])
def test_a_caption_that_names_no_file_is_left_alone(text: str) -> None:
    assert not any("file's name" in note for note in Subject.from_image(picture(), caption=text).notes)
