"""Any Pillow mode to 8-bit sRGB on an opaque background.

A picture of the largest size allowed takes 256 MB in memory, so copies are made sparingly and let go early.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageChops, ImageCms

from hiper.errors import ImageError
from hiper.notes import Notes

_GREY = ("1", "L", "LA")
_EIGHT_BITS = (*_GREY, "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B")
_ROWS = 256
"""Rows that are worked on at a time where that saves memory."""


def to_srgb(picture: Image.Image, background: tuple[int, int, int], notes: Notes) -> Image.Image:
    """Convert a picture to plain RGB: 8 bits, sRGB, composited on `background`, without metadata.

    Raises:
        ImageError: Its pixels have no known range, or it is transparent everywhere.
    """
    profile = picture.info.get("icc_profile")
    picture = _to_eight_bits(picture, notes)
    alpha = _alpha(picture)
    picture = _without_alpha(picture)  # what came in is let go, unless the caller keeps it
    srgb = _without_profile(picture, profile, notes)
    if alpha is not None and alpha.getextrema() != (255, 255):
        if alpha.getextrema() == (0, 0):
            raise ImageError("the picture is transparent everywhere: give one that shows something")
        srgb.paste(background, mask=ImageChops.invert(alpha))
        notes.add("transparent parts were laid on rgb{},{},{}".format(*background))
    srgb.info.clear()
    return srgb


def to_mask(picture: Image.Image, notes: Notes) -> Image.Image:
    """Convert a picture to mode "L", 255 where the subject is: its transparency if it has any, else its grey.

    Raises:
        ImageError: No pixel reaches 128, which means that nothing was selected.
    """
    eight_bits = _to_eight_bits(picture, notes)
    alpha = _alpha(eight_bits)
    if alpha is not None and alpha.getextrema() != (255, 255):
        notes.add("the mask is what is opaque in its file")
        mask = alpha
    else:
        mask = _without_alpha(eight_bits).convert("L")
    brightest = int(np.asarray(mask).max())
    if brightest < 128:
        raise ImageError(
            f"the mask's brightest pixel is {brightest} of 255, so it selects nothing: "
            "paint the subject white (255) and all else black"
        )
    return bare(mask)


def _to_eight_bits(picture: Image.Image, notes: Notes) -> Image.Image:
    if picture.mode in _EIGHT_BITS:
        return picture
    if picture.mode in _SIXTEEN_BITS:
        notes.add("16-bit grey was scaled to 8 bits")
        return _sixteen_to_eight_bits(picture)
    if picture.mode == "F":
        notes.add("float pixels in 0..1 were scaled to 0..255")
        return _float_to_eight_bits(picture)
    raise ImageError(f"pixels of Pillow mode {picture.mode!r} are not read: save the picture as 8-bit RGB")


def _sixteen_to_eight_bits(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture)
    levels = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), _ROWS):
        levels[start : start + _ROWS] = np.rint(values[start : start + _ROWS] / 257)
    grey = Image.fromarray(levels)
    see_through = picture.info.get("transparency")
    if see_through is not None:
        grey.putalpha(Image.fromarray(np.where(values == see_through, 0, 255).astype(np.uint8)))
    return grey


def _float_to_eight_bits(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):
        raise ImageError(
            f"float pixels reach from {low:g} to {high:g}, only 0..1 has a known meaning: "
            "scale them, or save the picture as 8-bit RGB"
        )
    return Image.fromarray(np.rint(values * 255).astype(np.uint8))


def _alpha(picture: Image.Image) -> Image.Image | None:
    return _as_rgba(picture).getchannel("A") if picture.has_transparency_data else None


def _as_rgba(picture: Image.Image) -> Image.Image:
    return picture if picture.mode == "RGBA" else picture.convert("RGBA")


def _without_alpha(picture: Image.Image) -> Image.Image:
    """Return a copy without transparency, in the colour space of an embedded profile: L, CMYK or RGB."""
    space = "L" if picture.mode in _GREY else "CMYK" if picture.mode == "CMYK" else "RGB"
    # By way of RGBA because Pillow warns of palettes with several degrees of transparency otherwise.
    return (_as_rgba(picture) if picture.has_transparency_data else picture).convert(space)


def _without_profile(colours: Image.Image, profile: bytes | None, notes: Notes) -> Image.Image:
    plain = colours if colours.mode == "RGB" else colours.convert("RGB")
    if profile is not None:
        try:
            return _through_profile(colours, profile, plain, notes)
        except (ImageCms.PyCMSError, OSError) as error:
            notes.add(f"the embedded colour profile was ignored, it cannot be used ({error})", warn=True)
    if colours.mode == "CMYK":
        notes.add("CMYK was turned into RGB without a profile, colours are approximate", warn=True)
    return plain


def _through_profile(colours: Image.Image, profile: bytes, plain: Image.Image, notes: Notes) -> Image.Image:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    # Many programs give grey pictures an RGB profile.
    pixels = plain if source.profile.xcolor_space.strip() == "RGB" and colours.mode == "L" else colours
    srgb = ImageCms.profileToProfile(pixels, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    if srgb is None:
        raise ImageCms.PyCMSError("no picture came back")
    # The variants of sRGB in use differ from each other by one level at most.
    if _largest_difference(srgb, plain) <= 1:
        return plain
    notes.add(f"colours were converted from {ImageCms.getProfileDescription(source).strip()} to sRGB")
    return srgb


def _largest_difference(one: Image.Image, other: Image.Image) -> int:
    rows = [(0, top, one.width, min(top + _ROWS, one.height)) for top in range(0, one.height, _ROWS)]
    strips = (ImageChops.difference(one.crop(box), other.crop(box)) for box in rows)
    return max(int(np.asarray(strip).max()) for strip in strips)


def bare(picture: Image.Image) -> Image.Image:
    """Return a copy of the pixels alone: no EXIF, GPS, XMP, comment or profile to leak into outputs."""
    copy = picture.copy()
    copy.info.clear()
    return copy
