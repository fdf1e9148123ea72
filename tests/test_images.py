"""Picture files from strangers: every fault is produced for real and gets one line that helps."""

from __future__ import annotations

import base64
import importlib.util
import io
import os
import random
import struct
import subprocess
import sys
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageFile, ImageOps, PngImagePlugin

from hiper.errors import HiperError, HiperWarning, ImageError, OptionError
from hiper.images import fit_square, open_image, png_bytes, reading, thumbnail_data_url, to_images, to_tensor
from hiper.images.convert import LoadedImage

HAS_HEIC = importlib.util.find_spec("pillow_heif") is not None


def gradient(width: int = 120, height: int = 80) -> Image.Image:
    """A picture in which no two places look alike."""
    y, x = np.mgrid[:height, :width]
    levels = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], axis=-1)
    return Image.fromarray(levels.astype(np.uint8))


def encoded(image: Image.Image, format_name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def refusal(path: str | Path, **options: Any) -> str:
    with pytest.raises(ImageError) as caught:
        open_image(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


def png_header(width: int, height: int) -> bytes:
    """A PNG of 50-odd bytes that claims to be of any size."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")


# Places


def test_missing_file_is_named(tmp_path: Path) -> None:
    assert "absent.png': no such file" in refusal(tmp_path / "absent.png")


def test_directory_is_named(tmp_path: Path) -> None:
    assert f"{tmp_path}': a directory" in refusal(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert "not a regular file" in refusal(tmp_path / "pipe.png")


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root reads everything, so root becomes another user for a while; others stay who they are."""
    if os.geteuid() != 0:
        yield
        return
    try:
        os.seteuid(65534)
    except PermissionError:
        pytest.skip("root may not give up its rights here")
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no POSIX permissions here")
def test_file_without_permission_is_named() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = written(Path(folder, "secret.png"), encoded(gradient(), "PNG"))
        path.chmod(0)
        with as_nobody():
            message = refusal(path)
    assert "secret.png': cannot be read (Permission denied)" in message


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/dog.png",
        "file:///etc/hostname",
        "data:image/png;base64,iVBORw0KGgo=",
        Path("http://127.0.0.1/dog.png"),
    ],
)
def test_urls_are_never_fetched(url: str | Path) -> None:
    assert "a URL is never fetched" in refusal(url)


@pytest.mark.parametrize(
    "name", ["Mein Hund.png", "собака.png", "🐶 dog.png", "a'b\"c.png", "two\nlines.png"]
)
def test_any_file_name_is_read(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, encoded(gradient(), "PNG"))
    assert open_image(path).image == gradient()
    assert refusal(path, frame=3).isprintable()


def test_too_long_or_impossible_names_are_refused_in_one_short_line(tmp_path: Path) -> None:
    assert "too long" in refusal(tmp_path / ("x" * 5000))
    assert "null byte" in refusal("dog\0.png")


# Files that are no pictures, or no longer


def test_empty_file(tmp_path: Path) -> None:
    assert "the file is empty" in refusal(written(tmp_path / "dog.png", b""))


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("dog.png", b"<!DOCTYPE html>\n<html><body>404</body></html>", "looks like HTML"),
        ("dog.png", b'{"error": "not found"}', "looks like JSON"),
        ("dog.svg", b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        ("dog.pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a PDF document"),
        ("dog.mp4", b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41", "a video"),
        ("dog.avi", b"RIFF\x00\x10\x00\x00AVI LIST", "an AVI video"),
        ("dog.cr3", b"\x00\x00\x00\x18ftypcrx \x00\x00\x00\x01crx isom", "a camera raw file"),
        ("dog.jpg", b"\xff\xd8\xff" + b"\xa5" * 60, "a damaged JPEG"),
        ("dog.webp", b"RIFF\x24\x00\x00\x00WEBP" + b"\xa5" * 28, "a damaged WebP"),
        ("dog.png", b"version https://git-lfs.github.com/spec/v1\noid", "git-lfs pointer"),
        ("dog.png", bytes(range(1, 200)), "no known format"),
    ],
)
def test_other_files_are_called_by_their_name(tmp_path: Path, name: str, data: bytes, kind: str) -> None:
    message = refusal(written(tmp_path / name, data))
    assert kind in message
    if kind != "a camera raw file":
        assert "PNG, JPEG, WEBP, TIFF, BMP, GIF, AVIF" in message


def test_raw_file_is_not_mistaken_for_its_preview(tmp_path: Path) -> None:
    path = written(tmp_path / "dog.NEF", encoded(gradient(), "TIFF"))
    assert "camera raw" in refusal(path)


def test_formats_that_are_not_wanted_are_not_even_parsed(tmp_path: Path) -> None:
    assert "no known format" in refusal(written(tmp_path / "dog.ppm", encoded(gradient(), "PPM")))


@pytest.mark.skipif(HAS_HEIC, reason="pillow-heif is installed")
def test_heic_without_the_plugin_says_what_to_install(tmp_path: Path) -> None:
    data = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic"
    assert "install hiper[heic]" in refusal(written(tmp_path / "dog.heic", data))


@pytest.mark.skipif(not HAS_HEIC, reason="pillow-heif is not installed")
def test_heic_with_the_plugin_is_read(tmp_path: Path) -> None:
    open_image(written(tmp_path / "dog.png", encoded(gradient(), "PNG")))  # registers the plugin
    path = written(tmp_path / "dog.heic", encoded(gradient(), "HEIF", quality=95))
    difference = np.asarray(open_image(path).image).astype(int) - np.asarray(gradient())
    assert np.abs(difference).mean() < 3


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_truncated_file_is_refused(tmp_path: Path, format_name: str) -> None:
    data = encoded(gradient(), format_name)
    message = refusal(written(tmp_path / "dog.img", data[: len(data) // 2]))
    assert "damaged" in message


def test_truncated_jpeg_is_used_only_if_asked_for(tmp_path: Path) -> None:
    whole = encoded(gradient(400, 400), "JPEG", quality=95)
    path = written(tmp_path / "dog.jpg", whole[: len(whole) // 2])
    assert "allow-truncated" in refusal(path)
    with pytest.warns(HiperWarning, match=r"dog.jpg': the file is damaged or cut short"):
        loaded = open_image(path, allow_truncated=True)
    expected = np.asarray(Image.open(io.BytesIO(whole)))
    assert np.array_equal(np.asarray(loaded.image)[:100], expected[:100])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.slow
def test_any_damage_is_either_read_or_refused(tmp_path: Path) -> None:
    dice = random.Random(0)
    sources = [encoded(gradient(), name) for name in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF")]
    outcomes = set()
    for _ in range(400):
        data = bytearray(dice.choice(sources))
        data = data[: dice.randrange(len(data) // 4, 2 * len(data))]
        for _ in range(dice.choice([0, 1, 3, 10])):
            data[dice.randrange(min(len(data), 600))] = dice.randrange(256)
        path = written(tmp_path / "dog.img", bytes(data))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HiperWarning)
            try:
                loaded = open_image(path, allow_truncated=dice.random() < 0.5)
            except ImageError as error:
                assert "\n" not in str(error)  # noqa: PT017 (both outcomes are right)
                outcomes.add("refused")
            else:
                assert loaded.image.mode == "RGB"
                outcomes.add("read")
    assert outcomes == {"read", "refused"}


# Sizes


def test_header_bomb_takes_no_memory(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = written(tmp_path / "bomb.png", png_header(20_000, 20_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = refusal(path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * (1 if sys.platform == "darwin" else 1024) < 50e6
    assert "400000000 pixels" in message
    assert "64 million" in message


def test_hundred_megapixels_are_refused(tmp_path: Path) -> None:
    message = refusal(written(tmp_path / "large.png", png_header(10_000, 10_000)))
    assert "10000x10000 pixels, at most 64 million are allowed" in message


def test_the_limit_counts_for_later_pages_too(tmp_path: Path) -> None:
    data = encoded(gradient(), "TIFF", save_all=True, append_images=[gradient(200, 200)])
    path = written(tmp_path / "pages.tif", data)
    assert open_image(path, frame=0, max_pixels=20_000).image.size == (120, 80)
    assert "200x200" in refusal(path, frame=1, max_pixels=20_000)


def test_the_limit_counts_for_images_in_memory_too() -> None:
    with pytest.raises(ImageError, match=r"the picture: 120x80 pixels, at most 0\.005 million"):
        open_image(gradient(), max_pixels=5000)


@pytest.mark.parametrize("size", [(1, 1), (63, 200), (200, 63), (20_000, 50)])
def test_tiny_pictures_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    message = refusal(written(tmp_path / "tiny.png", encoded(Image.new("RGB", size), "PNG")))
    assert f"only {size[0]}x{size[1]} pixels, each side must have at least 64" in message


def test_small_pictures_leave_a_note_and_warn_where_they_are_enlarged() -> None:
    small = open_image(gradient(100, 100))
    assert any("only 100x100 pixels" in note for note in small.notes)
    assert not open_image(gradient(256, 300)).notes
    assert fit_square(small.image, 64).size == (64, 64)
    assert fit_square(small.image, 200).size == (200, 200)
    with pytest.warns(HiperWarning, match="enlarge it 5.1 times"):
        fit_square(small.image, 512)
    assert fit_square(Image.new("RGB", (256, 256)), 512).size == (512, 512)


def test_panorama_leaves_a_note_warns_where_it_is_cropped_and_may_be_padded() -> None:
    panorama = open_image(gradient(6400, 100))
    assert any("a centre crop keeps 2%" in note for note in panorama.notes)
    with pytest.warns(HiperWarning, match=r"keeps 2% of it: .* or pad"):
        cropped = fit_square(panorama.image, 64)
    padded = fit_square(panorama.image, 6400, how="pad")
    assert cropped.size == (64, 64)
    assert padded.crop((0, 3150, 6400, 3250)) == panorama.image
    assert padded.getpixel((0, 0)) == (255, 255, 255)


def test_crop_is_the_centre_square_without_resampling_where_sizes_agree() -> None:
    image = gradient(120, 80)
    assert fit_square(image, 80) == image.crop((20, 0, 100, 80))


def test_a_mask_is_cropped_like_its_picture_and_padded_with_nothing() -> None:
    mask = Image.new("L", (120, 80), 255)
    assert fit_square(mask, 80).mode == "L"
    assert np.asarray(fit_square(mask, 120, how="pad")).sum() == 255 * 120 * 80


def test_unknown_way_to_fit_is_refused() -> None:
    with pytest.raises(OptionError, match="'stretch': choose crop or pad"):
        fit_square(gradient(), 64, how="stretch")  # type: ignore[arg-type]


# Orientation and metadata


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.5)
    return exif.tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", ["PNG", "TIFF", "WEBP"])
def test_pictures_are_turned_upright(tmp_path: Path, format_name: str, orientation: int) -> None:
    options = {"lossless": True} if format_name == "WEBP" else {}
    data = encoded(gradient(), format_name, exif=exif_of(orientation), **options)
    tagged = gradient()
    tagged.info["exif"] = exif_of(orientation)
    expected = ImageOps.exif_transpose(tagged)
    loaded = open_image(written(tmp_path / "dog.img", data))
    assert loaded.image.size == expected.size
    assert loaded.image.tobytes() == expected.tobytes()
    assert open_image(tagged).image.tobytes() == expected.tobytes()


def test_turning_a_jpeg_is_told(tmp_path: Path) -> None:
    loaded = open_image(written(tmp_path / "dog.jpg", encoded(gradient(), "JPEG", exif=exif_of(6))))
    assert loaded.image.size == (80, 120)
    assert any("EXIF orientation 6" in note for note in loaded.notes)


def test_place_of_a_photo_never_reaches_an_output(tmp_path: Path) -> None:
    path = written(tmp_path / "d.jpg", encoded(gradient(), "JPEG", exif=exif_of(6), comment=b"at home"))
    raw = Image.open(io.BytesIO(path.read_bytes()))
    assert raw.getexif().get_ifd(0x8825)
    for image in (open_image(path).image, open_image(raw).image, raw):
        outputs = [png_bytes(image), base64.b64decode(thumbnail_data_url(image).split(",")[1])]
        for output in outputs:
            written_back = Image.open(io.BytesIO(output))
            assert not written_back.getexif()
            assert not {"exif", "icc_profile", "comment", "xmp"} & set(written_back.info)
            assert b"Exif" not in output
            assert b"at home" not in output


def test_damaged_exif_does_not_stop_a_good_picture(tmp_path: Path) -> None:
    data = encoded(gradient(), "PNG", exif=b"Exif\0\0not a TIFF header at all")
    path = written(tmp_path / "dog.png", data)
    with pytest.warns(HiperWarning, match="EXIF data are damaged"):
        assert open_image(path).image == gradient()


# Metadata that Pillow refuses a whole file for

WORKFLOW = "x" * 3_000_000


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(extra: bytes, *, after_pixels: bool = False) -> bytes:
    data = encoded(gradient(), "PNG")
    place = -12 if after_pixels else 33
    return data[:place] + extra + data[place:]


PACKED = zlib.compress(WORKFLOW.encode())
METADATA = {
    "packed text": with_chunk(chunk(b"zTXt", b"workflow\0\0" + PACKED)),
    "packed international text": with_chunk(chunk(b"iTXt", b"workflow\0\1\0\0\0" + PACKED)),
    "XMP": with_chunk(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + PACKED)),
    "text behind the pixels": with_chunk(chunk(b"zTXt", b"prompt\0\0" + PACKED), after_pixels=True),
    "much plain text": with_chunk(
        b"".join(chunk(b"tEXt", b"a%d\0" % i + b"x" * 9_000_000) for i in range(8))
    ),
    "a wrong checksum": with_chunk(chunk(b"tEXt", b"a\0b")[:-1] + b"!"),
    "EXIF with a wrong checksum": with_chunk(chunk(b"eXIf", b"II*\0")[:-1] + b"!"),
    **{
        f"{length} bytes of {kind!r}": with_chunk(chunk(kind, bytes(length)))
        for kind, length in (
            *((b"gAMA", 0), (b"cHRM", 3), (b"cHRM", 33), (b"sRGB", 0), (b"pHYs", 8)),
            *((b"acTL", 7), (b"fcTL", 25)),
        )
    },
    "a program's own data with a wrong checksum": with_chunk(chunk(b"prVt", b"abc")[:-1] + b"!"),
}


@pytest.mark.slow
@pytest.mark.parametrize("data", METADATA.values(), ids=METADATA)
def test_a_sound_png_is_read_whatever_its_texts(tmp_path: Path, data: bytes) -> None:
    loaded = open_image(written(tmp_path / "comfy.png", data))
    assert np.array_equal(np.asarray(loaded.image), np.asarray(gradient()))
    assert sum("texts beside the pixels were left out" in note for note in loaded.notes) == 1


def test_a_sound_png_that_was_opened_elsewhere_is_read_too(tmp_path: Path) -> None:
    path = written(tmp_path / "comfy.png", METADATA["text behind the pixels"])
    with Image.open(path) as picture:
        assert np.array_equal(np.asarray(open_image(picture).image), np.asarray(gradient()))
    picture = Image.open(path)
    picture.close()
    with pytest.raises(ImageError, match="damaged"):
        open_image(picture)


def test_large_texts_leave_small_ones_and_their_orientation(tmp_path: Path) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("workflow", WORKFLOW, zip=True)
    texts.add_text("Raw profile type exif", "\nexif\n26\n" + exif_of(6).hex() + "\n")
    path = written(tmp_path / "comfy.png", encoded(gradient(), "PNG", pnginfo=texts))
    loaded = open_image(path)
    assert np.array_equal(
        np.asarray(loaded.image), np.asarray(gradient().transpose(Image.Transpose.ROTATE_270))
    )


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_a_colour_profile_of_megabytes_is_used(tmp_path: Path, format_name: str) -> None:
    """The colours are those that the same profile, in which red and blue are exchanged, gives when it is small."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    small = srgb.replace(b"rXYZ", b"_XYZ").replace(b"bXYZ", b"rXYZ").replace(b"_XYZ", b"bXYZ")
    large = struct.pack(">I", 1_500_000) + small[4:] + bytes(1_500_000 - len(small))
    images = [
        open_image(
            written(tmp_path / f"{len(profile)}.img", encoded(gradient(), format_name, icc_profile=profile))
        )
        for profile in (small, large)
    ]
    assert images[0].image == images[1].image
    assert images[0].notes == images[1].notes
    assert any("colours were converted" in note for note in images[0].notes)


def test_damaged_pixels_stay_damaged_whatever_the_texts(tmp_path: Path) -> None:
    data = bytearray(METADATA["packed text"])
    data[-200] ^= 255
    assert "damaged" in refusal(written(tmp_path / "comfy.png", bytes(data)))


def test_a_chunk_that_claims_gigabytes_takes_what_there_is(tmp_path: Path) -> None:
    data = with_chunk(struct.pack(">I", 2**31 - 1) + b"zTXt" + b"workflow\0\0" + PACKED)
    assert refusal(written(tmp_path / "comfy.png", data))


# Several pictures in one file


def frames() -> list[Image.Image]:
    return [Image.new("RGB", (80, 80), colour) for colour in ("red", "lime", "blue")]


@pytest.mark.parametrize("format_name", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_first_frame_is_used_with_a_warning_and_others_on_demand(tmp_path: Path, format_name: str) -> None:
    first, *rest = frames()
    options = {"lossless": True} if format_name == "WEBP" else {}
    data = encoded(first, format_name, save_all=True, append_images=rest, **options)
    path = written(tmp_path / "dog.img", data)
    with pytest.warns(HiperWarning, match="frame 0 of 3 is used"):
        assert_close(open_image(path), first)
    for index, expected in enumerate(frames()):
        loaded = open_image(path, frame=index)
        assert_close(loaded, expected)
        assert any(f"frame {index} of 3" in note for note in loaded.notes)
    assert "frame 3 was asked for, the file has 3: choose 0 to 2" in refusal(path, frame=3)
    assert "frame -1" in refusal(path, frame=-1)


def assert_close(loaded: LoadedImage, expected: Image.Image) -> None:
    difference = np.asarray(loaded.image).astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 8


def test_still_picture_has_one_frame(tmp_path: Path) -> None:
    path = written(tmp_path / "dog.png", encoded(gradient(), "PNG"))
    assert open_image(path, frame=0).image == gradient()
    assert "the file has 1" in refusal(path, frame=1)


def test_preview_in_a_phones_jpeg_is_no_surprise(tmp_path: Path) -> None:
    first, *rest = frames()
    path = written(tmp_path / "dog.jpg", encoded(first, "MPO", save_all=True, append_images=rest[:1]))
    loaded = open_image(path)  # a warning would fail the test
    assert_close(loaded, first)
    assert any("frame 0 of 2" in note for note in loaded.notes)


# Tensors and encodings


def test_all_levels_survive_the_way_to_tensor_and_back() -> None:
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    x = to_tensor(Image.fromarray(levels))
    assert x.shape == (1, 3, 16, 16)
    assert x.dtype == torch.float32
    assert (x.min().item(), x.max().item()) == (-1.0, 1.0)
    assert np.array_equal(np.asarray(to_images(x)[0]), levels)


def test_axes_are_channel_height_width() -> None:
    image = gradient(10, 6)
    x = to_tensor(image)
    pixel = image.getpixel((7, 2))
    assert isinstance(pixel, tuple)
    assert x[0, :, 2, 7].tolist() == pytest.approx([level / 127.5 - 1 for level in pixel])


def test_images_are_rounded_and_clipped() -> None:
    level = torch.tensor([99.4, 99.6, -300.0, 300.0]) / 127.5 - 1
    images = to_images(level.reshape(4, 1, 1, 1).expand(4, 3, 2, 2))
    assert [image.getpixel((0, 0)) for image in images] == [(v, v, v) for v in (99, 100, 0, 255)]
    assert to_images(torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16))[0].size == (2, 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_no_picture(value: float) -> None:
    x = torch.zeros(2, 3, 4, 4)
    x[1, 2, 3, 3] = value
    with pytest.raises(HiperError, match="not finite"):
        to_images(x)


def test_transparent_images_are_no_tensors() -> None:
    with pytest.raises(ImageError, match="mode RGBA, allowed is RGB"):
        to_tensor(gradient().convert("RGBA"))


def test_png_keeps_pixels_and_texts() -> None:
    texts = {"hiper": '{"seed": 3}', "parameters": "ein Hund 🐶, собака"}
    image = Image.open(io.BytesIO(png_bytes(gradient(), metadata=texts)))
    assert image.tobytes() == gradient().tobytes()
    assert image.info == texts


def test_texts_with_half_characters_are_written_as_escapes() -> None:
    data = png_bytes(gradient(), metadata={"parameters": "Model: \udcff, é"})
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.info["parameters"] == "Model: \\udcff, é"


@pytest.mark.parametrize("size", [(64, 64), (640, 200), (200, 1000)])
def test_thumbnail_is_small_even_of_noise(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    url = thumbnail_data_url(Image.fromarray(noise))
    head, data = url.split(",")
    thumbnail = Image.open(io.BytesIO(base64.b64decode(data)))
    assert head == "data:image/jpeg;base64"
    assert len(url) <= 3000
    assert max(thumbnail.size) == 64
    assert thumbnail.width / thumbnail.height == pytest.approx(size[0] / size[1], rel=0.1)


def test_bad_pictures_are_refused_without_importing_torch() -> None:
    code = "import sys, hiper.images.subject; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("mistake", [TypeError, KeyError, ValueError])
@pytest.mark.parametrize("where", ["_check_size", "_choose_frame", "_upright", "readable_formats"])
def test_a_mistake_of_ours_is_no_damage(
    dog: Path, monkeypatch: pytest.MonkeyPatch, where: str, mistake: type[Exception]
) -> None:
    """Of what Pillow raises, damage is refused; what our own code raises comes through as it is."""

    def wrong(*_: object) -> None:
        raise mistake

    monkeypatch.setattr(reading, where, wrong)
    with pytest.raises(mistake):
        open_image(dog)
