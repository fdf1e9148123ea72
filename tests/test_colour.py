"""Every way of storing colour ends as 8-bit sRGB; expected values come from the formulas, not from us."""

from __future__ import annotations

import io
import itertools
import struct

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from hiper.errors import HiperWarning, ImageError, OptionError
from hiper.images import open_image
from hiper.images.convert import LoadedImage

Array = NDArray[np.float64]

# xy of the red, green and blue primaries; white is D65 in all three.
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
D50 = np.array([0.9642, 1.0, 0.8249])


def to_xyz(primaries: tuple[tuple[float, float], ...]) -> Array:
    """Matrix from linear RGB to XYZ relative to D50, adapted by Bradford, as ICC profiles want it."""

    def xyz(x: float, y: float) -> Array:
        return np.array([x / y, 1, (1 - x - y) / y])

    columns = np.stack([xyz(*p) for p in primaries], axis=1)
    white = xyz(0.3127, 0.3290)
    matrix = columns * np.linalg.solve(columns, white)
    cone = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    adapt: Array = np.linalg.solve(cone, np.diag((cone @ D50) / (cone @ white)) @ cone)
    result: Array = adapt @ matrix
    return result


def srgb_decode(v: Array) -> Array:
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def srgb_encode(v: Array) -> Array:
    v = v.clip(0, 1)
    return np.where(v <= 0.0031308, v * 12.92, 1.055 * v ** (1 / 2.4) - 0.055)


def tag_xyz(values: Array) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(float(v) * 65536)) for v in values)


SRGB_CURVE = b"para\0\0\0\0\0\3\0\0" + b"".join(
    struct.pack(">i", round(v * 65536)) for v in (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
)
ADOBE_CURVE = b"curv\0\0\0\0" + struct.pack(">IH", 1, 563) + b"\0\0"  # 563/256 = 2.2


def profile(space: bytes, connection: bytes, kind: bytes, name: str, tags: dict[bytes, bytes]) -> bytes:
    """An ICC version 4 profile (ICC.1:2010, 7.2 and 7.3) of the given tags."""
    text = name.encode("utf-16-be")
    text_tag = b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(text), 28) + text
    tags = {b"desc": text_tag, b"cprt": text_tag, b"wtpt": tag_xyz(D50), **tags}
    table, body, offset = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        padded = data + bytes(-len(data) % 4)
        table += struct.pack(">4sII", tag, offset + len(body), len(data))
        body += padded
    head = struct.pack(">I4sI4s4s4s", offset + len(body), bytes(4), 0x04200000, kind, space, connection)
    head += bytes(12) + b"acsp" + bytes(28) + b"".join(struct.pack(">i", round(v * 65536)) for v in D50)
    return head.ljust(128, b"\0") + table + body


def rgb_profile(name: str, primaries: tuple[tuple[float, float], ...], curve: bytes) -> bytes:
    columns = to_xyz(primaries).T
    tags = {letter + b"XYZ": tag_xyz(c) for letter, c in zip((b"r", b"g", b"b"), columns, strict=True)}
    curves = {letter + b"TRC": curve for letter in (b"r", b"g", b"b")}
    return profile(b"RGB ", b"XYZ ", b"mntr", name, tags | curves)


def opened(image: Image.Image, format_name: str = "PNG", **options: object) -> LoadedImage:
    """What comes out after a real file in between."""
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return open_image(Image.open(buffer))


def array(loaded: LoadedImage) -> NDArray[np.int64]:
    assert loaded.image.mode == "RGB"
    assert not loaded.image.info
    return np.asarray(loaded.image).astype(np.int64)


def has_note(loaded: LoadedImage, text: str) -> bool:
    return any(text in note for note in loaded.notes)


def soft_colours() -> Image.Image:
    """Colours that stay inside sRGB whichever of the profiles they are read in."""
    steps = np.linspace(90, 170, 16)
    red, green, blue = np.meshgrid(steps, steps, steps, indexing="ij")
    return Image.fromarray(np.stack([red, green, blue], -1).reshape(64, 64, 3).round().astype(np.uint8))


# Profiles


@pytest.mark.parametrize(
    ("name", "primaries", "curve"),
    [("Display P3", DISPLAY_P3, SRGB_CURVE), ("Adobe RGB (1998)", ADOBE_RGB, ADOBE_CURVE)],
)
@pytest.mark.parametrize("format_name", ["PNG", "TIFF"])
def test_wide_colours_are_converted(
    name: str, primaries: tuple[tuple[float, float], ...], curve: bytes, format_name: str
) -> None:
    image = soft_colours()
    loaded = opened(image, format_name, icc_profile=rgb_profile(name, primaries, curve))
    encoded = np.asarray(image) / 255
    linear = srgb_decode(encoded) if curve is SRGB_CURVE else encoded ** (563 / 256)
    expected = srgb_encode(linear @ to_xyz(primaries).T @ np.linalg.inv(to_xyz(SRGB)).T) * 255
    assert np.abs(expected - np.asarray(image)).max() > 10  # the profile matters
    assert np.abs(array(loaded) - expected).max() <= 2
    assert has_note(loaded, f"from {name} to sRGB")


def test_srgb_profiles_change_nothing_and_are_not_mentioned() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    image = Image.fromarray(levels)
    for icc in (
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        rgb_profile("sRGB of another make", SRGB, SRGB_CURVE),
    ):
        loaded = opened(image, icc_profile=icc)
        assert loaded.image == image
        assert loaded.notes == ()


def test_grey_picture_with_a_colour_profile() -> None:
    image = Image.new("L", (256, 256), 20)
    loaded = opened(image, icc_profile=rgb_profile("Adobe RGB", ADOBE_RGB, ADOBE_CURVE))
    expected = 255 * srgb_encode(np.array((20 / 255) ** (563 / 256)))
    assert expected < 15
    assert np.abs(array(loaded) - expected).max() <= 1


def test_grey_profile() -> None:
    linear = b"curv\0\0\0\0" + struct.pack(">I", 0)
    icc = profile(b"GRAY", b"XYZ ", b"mntr", "linear grey", {b"kTRC": linear})
    loaded = opened(Image.new("L", (256, 256), 55), icc_profile=icc)
    assert np.abs(array(loaded) - 255 * srgb_encode(np.array(55 / 255))).max() <= 1


def test_transparency_survives_a_profile() -> None:
    image = soft_colours().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 64, 32))
    loaded = opened(image, icc_profile=rgb_profile("Display P3", DISPLAY_P3, SRGB_CURVE))
    assert (array(loaded)[:32] == 255).all()
    plain = opened(soft_colours(), icc_profile=rgb_profile("Display P3", DISPLAY_P3, SRGB_CURVE))
    assert np.array_equal(array(loaded)[32:], array(plain)[32:])


@pytest.mark.parametrize("icc", [b"this is no profile", rgb_profile("cut", SRGB, SRGB_CURVE)[:200]])
def test_damaged_profile_is_ignored_with_a_warning(icc: bytes) -> None:
    with pytest.warns(HiperWarning, match="colour profile was ignored"):
        loaded = opened(soft_colours(), icc_profile=icc)
    assert loaded.image == soft_colours()


def test_profile_of_another_colour_space_is_ignored_with_a_warning() -> None:
    with pytest.warns(HiperWarning, match="colour profile was ignored"):
        loaded = opened(soft_colours(), icc_profile=cmyk_profile())
    assert loaded.image == soft_colours()


# CMYK


def corner_lab(ink: tuple[int, ...]) -> Array:
    """A toy press: CIE Lab of each of the 16 full overprints."""
    c, m, y, k = ink
    return np.array([95 - 30 * c - 30 * m - 8 * y - 20 * k, 30 * m - 25 * c, 40 * y - 25 * c - 10 * m])


def cmyk_profile() -> bytes:
    """A press described by an 8-bit table of two points per ink (lut8Type, ICC.1:2010 10.9)."""
    table = b"".join(
        bytes(round(float(v)) for v in (lab[0] * 2.55, lab[1] + 128, lab[2] + 128))
        for lab in map(corner_lab, itertools.product((0, 1), repeat=4))
    )
    identity = b"".join(struct.pack(">i", round(v * 65536)) for v in np.eye(3).ravel())
    ramp = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + table + ramp * 3
    return profile(b"CMYK", b"Lab ", b"prtr", "toy press", {b"A2B0": lut})


def lab_to_srgb(lab: Array) -> Array:
    fy = (lab[0] + 16) / 116
    f = np.array([fy + lab[1] / 500, fy, fy - lab[2] / 200])
    xyz = D50 * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    return 255 * srgb_encode(np.linalg.solve(to_xyz(SRGB), xyz))


@pytest.mark.parametrize("ink", [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 1, 1, 0)])
def test_cmyk_goes_through_its_profile(ink: tuple[int, ...]) -> None:
    image = Image.new("CMYK", (256, 256), tuple(255 * i for i in ink))
    loaded = opened(image, "TIFF", icc_profile=cmyk_profile())
    assert np.abs(array(loaded)[0, 0] - lab_to_srgb(corner_lab(ink))).max() <= 3
    assert has_note(loaded, "from toy press to sRGB")


@pytest.mark.parametrize("format_name", ["JPEG", "TIFF"])  # JPEG stores CMYK inverted, as Adobe does
def test_cmyk_without_profile_warns(format_name: str) -> None:
    image = Image.new("CMYK", (256, 256), (200, 30, 10, 20))
    with pytest.warns(HiperWarning, match="CMYK was turned into RGB without a profile"):
        loaded = opened(image, format_name)
    expected = [(255 - ink) * (255 - 20) / 255 for ink in (200, 30, 10)]
    assert np.abs(array(loaded) - expected).max() <= 2


# Transparency


def test_hidden_colours_do_not_leak() -> None:
    image = Image.new("RGBA", (256, 256), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 128, 256))
    loaded = opened(image)
    assert (array(loaded)[:, 128:] == 255).all()
    assert (array(loaded)[:, :128] == (0, 0, 255)).all()
    assert has_note(loaded, "transparent parts were laid on rgb255,255,255")


def test_half_transparent_pixels_are_blended_with_the_background() -> None:
    image = Image.new("RGBA", (256, 256), (200, 100, 0, 51))
    loaded = open_image(image, background="#0000ff")
    assert np.abs(array(loaded) - np.array([200 * 0.2, 100 * 0.2, 255 * 0.8])).max() <= 1


def test_unknown_background_is_refused() -> None:
    with pytest.raises(OptionError, match="background is 'whitish'"):
        open_image(Image.new("RGBA", (256, 256)), background="whitish")


def test_opaque_alpha_is_not_mentioned() -> None:
    assert opened(soft_colours().resize((256, 256)).convert("RGBA")).notes == ()


def test_invisible_picture_is_refused() -> None:
    with pytest.raises(ImageError, match="transparent everywhere"):
        opened(Image.new("RGBA", (256, 256), (9, 9, 9, 0)))


def test_grey_with_alpha() -> None:
    image = Image.new("LA", (256, 256), (40, 255))
    image.paste((90, 0), (0, 0, 256, 100))
    assert (array(opened(image))[:100] == 255).all()
    assert (array(opened(image))[100:] == 40).all()


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 102])])
def test_palette_with_transparency(transparency: int | bytes) -> None:
    image = Image.new("P", (256, 256), 0)
    image.putpalette([10, 20, 30, 255, 0, 0, 50, 50, 50])
    image.paste(1, (0, 0, 256, 100))
    image.paste(2, (0, 100, 256, 200))
    loaded = opened(image, transparency=transparency)
    blended = 50 if transparency == 1 else 50 * 0.4 + 255 * 0.6
    assert (array(loaded)[:100] == 255).all()
    assert (array(loaded)[100:200] == blended).all()
    assert (array(loaded)[200:] == (10, 20, 30)).all()


@pytest.mark.parametrize(("mode", "shown", "key"), [("RGB", (9, 8, 7), (1, 2, 3)), ("L", 9, 3)])
def test_one_colour_that_means_transparent(mode: str, shown: int, key: int) -> None:
    image = Image.new(mode, (256, 256), shown)
    image.paste(key, (0, 0, 256, 100))
    loaded = opened(image, transparency=key)
    assert (array(loaded)[:100] == 255).all()
    assert (array(loaded)[100:] == shown).all()


# Depth


def deep_ramp() -> NDArray[np.uint16]:
    return np.arange(65536, dtype=np.uint16).reshape(256, 256)


@pytest.mark.parametrize("format_name", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_instead_of_clipped(format_name: str) -> None:
    loaded = opened(Image.fromarray(deep_ramp()), format_name)
    assert np.array_equal(array(loaded)[..., 0], np.rint(deep_ramp() / 257))
    assert array(loaded).mean() == pytest.approx(127.5, abs=0.01)
    assert has_note(loaded, "16-bit grey")


def test_sixteen_bits_with_the_large_end_first() -> None:
    big = Image.frombytes("I;16B", (256, 256), deep_ramp().astype(">u2").tobytes())
    assert np.array_equal(array(open_image(big))[..., 0], np.rint(deep_ramp() / 257))


def test_sixteen_bits_with_a_transparent_level() -> None:
    levels = np.full((256, 256), 30_000, np.uint16)
    levels[:100] = 30_001  # differs by less than an 8-bit level
    loaded = opened(Image.fromarray(levels), transparency=30_001)
    assert (array(loaded)[:100] == 255).all()
    assert (array(loaded)[100:] == 117).all()


def test_float_pixels_between_0_and_1_are_scaled() -> None:
    ramp = np.linspace(0, 1, 256 * 256, dtype=np.float32).reshape(256, 256)
    loaded = opened(Image.fromarray(ramp), "TIFF")
    assert np.abs(array(loaded)[..., 0] - ramp * 255).max() <= 0.5 + 1e-4
    assert has_note(loaded, "float pixels")


@pytest.mark.parametrize("values", [(0, 255), (-1, 1), (0, float("nan")), (0, float("inf"))])
def test_float_pixels_of_unknown_range_are_refused(values: tuple[float, float]) -> None:
    pixels = np.full((256, 256), values[0], np.float32)
    pixels[0, 0] = values[1]
    with pytest.raises(ImageError, match=r"float pixels reach from .* only 0..1 has a known meaning"):
        opened(Image.fromarray(pixels), "TIFF")


def test_integers_of_unknown_range_are_refused() -> None:
    with pytest.raises(ImageError, match="mode 'I' are not read: save the picture as 8-bit RGB"):
        opened(Image.fromarray(np.full((256, 256), 70_000, np.int32)), "TIFF")


def test_one_bit_and_grey() -> None:
    grey = Image.fromarray((deep_ramp() // 256).astype(np.uint8))
    assert np.array_equal(array(opened(grey))[..., 2], np.asarray(grey))
    bits = grey.point(lambda level: 255 if level > 99 else 0).convert("1")
    assert np.array_equal(array(opened(bits))[..., 1], np.asarray(bits) * 255)
