"""From a path to decoded, upright pixels, without trust in the file."""

from __future__ import annotations

import re
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO

from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from hiper.errors import ImageError
from hiper.files import HEAD_BYTES, RAW_SUFFIXES, looks_like, readable_formats
from hiper.images.png_chunks import slimmed, small_texts
from hiper.notes import Notes

MIN_SIDE = 64
"""Pixels of the shorter side below which a picture is refused."""

MAX_PIXELS = 64_000_000
"""Pixels above which a picture is refused, unless a call says otherwise."""

SMALL_SIDE = 256
"""Pixels of the shorter side below which a note is left."""

FAR_FROM_SQUARE = 2.0
"""Longer side over shorter side above which a centre crop drops more than half of a picture."""

_MAX_WEBP_PIXELS = 48_000_000
"""Its reader holds four copies of a picture at a time: a file of 38 bytes could take more than 1 GB."""

# What Pillow's readers raise on damaged files, found by feeding them files with flipped and missing bytes.
RAISED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
)


class _DamagedError(Exception):
    """What Pillow has raised while it read a file."""


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class _UnknownError(ImageError):
    """A file whose format is not recognised."""


def shown(path: str | Path) -> str:
    """Return a path as one printable line of at most 120 characters, quoted."""
    name = str(path)
    return repr(name if len(name) <= 120 else "..." + name[-117:])


def read_picture(
    path: str | Path,
    *,
    frame: int | None = None,
    allow_truncated: bool = False,
    max_pixels: int = MAX_PIXELS,
    notes: Notes,
) -> Image.Image:
    """Read a picture file: decoded and upright, in whatever mode it has.

    Args:
        path: A local file.
        frame: Which picture of several.
        allow_truncated: Use what is left of a file that was cut short.
        max_pixels: Larger pictures are refused.
        notes: Collects what is changed.

    Raises:
        ImageError: The file cannot be used.
    """
    with open_regular(path) as file, _pillow_warnings_as(notes), _without_bombs(max_pixels):
        head = file.read(HEAD_BYTES)
        if not head:
            raise ImageError("the file is empty: give a picture")
        if Path(path).suffix.lower() in RAW_SUFFIXES:
            raise ImageError(f"a camera raw file is not read: export it as one of {_allowed()}")
        try:
            return _decode(file, head, frame, max_pixels, notes)
        except (_DamagedError, _UnknownError) as error:
            picture = _decode_without_metadata(file, frame, max_pixels, notes)
            if picture is not None:
                return picture
            if isinstance(error, _UnknownError):
                raise
            if not allow_truncated:
                raise ImageError(
                    f"damaged or cut short ({error}): get the file again, "
                    "or accept what is left of it with allow-truncated"
                ) from error
        return _decode_what_is_left(file, head, frame, max_pixels, notes)


def decode_image(picture: Image.Image, *, max_pixels: int, notes: Notes) -> Image.Image:
    """Decode an image that the caller opened or made, upright; ImageError where that fails."""
    _check_size(picture, max_pixels, notes)
    try:
        with _pillow_warnings_as(notes):
            with _reading():
                picture.load()
            return _upright(picture, notes)
    except _DamagedError as error:
        file = getattr(picture, "fp", None)  # of a picture that was opened and not yet decoded
        bare = None
        if file is not None and not file.closed:
            bare = _decode_without_metadata(file, None, max_pixels, notes)
        if bare is None:
            raise ImageError(f"damaged or cut short ({error}): get the file again") from error
        return bare


def open_regular(path: str | Path) -> BufferedReader:
    """Open an ordinary local file.

    Raises:
        ImageError: It is a URL, a folder or a pipe, or cannot be read.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/|data:", str(path)):
        raise ImageError("a URL is never fetched: download the picture and give its path")
    try:
        # Before opening, because opening a pipe waits for its writer.
        mode = Path(path).stat().st_mode
        if stat.S_ISREG(mode):
            return Path(path).open("rb")
    except FileNotFoundError as error:
        raise ImageError("no such file: check the path") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"cannot be read ({reason}): check the path and its permissions") from error
    kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
    raise ImageError(f"{kind}: give the path of one picture")


@contextmanager
def _reading() -> Iterator[None]:
    """Report what Pillow raises as damage; nothing but calls of Pillow may stand in the block."""
    try:
        yield
    except RAISED as error:
        raise _DamagedError(str(error) or type(error).__name__) from error


@contextmanager
def _pillow_warnings_as(notes: Notes) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as collected_warnings:
        warnings.simplefilter("always")
        # The number of pixels is checked here, against the caller's own limit.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield
    for warning in collected_warnings:
        notes.add(" ".join(str(warning.message).split()))


@contextmanager
def _without_bombs(max_pixels: int) -> Iterator[None]:
    try:
        yield
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"too many pixels ({str(error).rstrip('.')}), at most {max_pixels / 1e6:g} million are allowed: "
            "shrink the picture"
        ) from error


def _decode(file: IO[bytes], head: bytes, frame: int | None, max_pixels: int, notes: Notes) -> Image.Image:
    picture = _identify(file, head)
    _check_pixels(picture, max_pixels)
    _choose_frame(picture, frame, notes)
    _check_size(picture, max_pixels, notes)
    with _reading():
        picture.load()
    return _upright(picture, notes)


def _decode_without_metadata(
    file: IO[bytes], frame: int | None, max_pixels: int, notes: Notes
) -> Image.Image | None:
    """Read an intact PNG whose metadata Pillow cannot or will not read; None for another file, and damaged pixels."""
    slim = slimmed(file, small_texts())
    if slim is None:
        return None
    try:
        picture = _decode(slim.file, slim.file.read(HEAD_BYTES), frame, max_pixels, notes)
    except (_DamagedError, _UnknownError):
        return None
    if slim.dropped:
        notes.add(
            f"texts beside the pixels were left out, or other data, too large or damaged ({slim.dropped} of them)"
        )
    if slim.profile is not None:
        picture.info["icc_profile"] = slim.profile
    return picture


def _decode_what_is_left(
    file: IO[bytes], head: bytes, frame: int | None, max_pixels: int, notes: Notes
) -> Image.Image:
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        picture = _decode(file, head, frame, max_pixels, notes)
    except _DamagedError as error:
        raise ImageError(f"damaged, nothing of it can be used ({error}): get the file again") from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
    notes.add("the file is damaged or cut short, parts of the picture are missing", warn=True)
    return picture


def _identify(file: IO[bytes], head: bytes) -> Image.Image:
    file.seek(0)
    formats = readable_formats()
    try:
        with _reading():
            return Image.open(file, formats=formats)
    except _DamagedError as error:
        if not isinstance(error.__cause__, UnidentifiedImageError):
            raise
        kind = looks_like(head)
        what = f"it looks like {kind}" if kind else "its first bytes are those of no known format"
        raise _UnknownError(f"not a picture hiper reads, {what}: give one of {_allowed()}") from error


def _allowed() -> str:
    return ", ".join(name.replace("HEIF", "HEIC") for name in readable_formats())


def _check_pixels(picture: Image.Image, max_pixels: int) -> None:
    if picture.format == "WEBP":
        max_pixels = min(max_pixels, _MAX_WEBP_PIXELS)
    if picture.width * picture.height > max_pixels:
        raise ImageError(
            f"{picture.width}x{picture.height} pixels, at most {max_pixels / 1e6:g} million are allowed: "
            "shrink the picture"
        )


def _check_size(picture: Image.Image, max_pixels: int, notes: Notes) -> None:
    _check_pixels(picture, max_pixels)
    short, long = sorted(picture.size)
    shape = f"{picture.width}x{picture.height} pixels"
    if short < MIN_SIDE:
        raise ImageError(f"only {shape}, each side must have at least {MIN_SIDE}: give a larger picture")
    if short < SMALL_SIDE:
        notes.add(f"only {shape}: a model that draws larger pictures sees it enlarged")
    if long > FAR_FROM_SQUARE * short:
        notes.add(f"{shape} are far from square: a centre crop keeps {short / long:.0%}, padding keeps all")


def _choose_frame(picture: Image.Image, frame: int | None, notes: Notes) -> None:
    with _reading():
        count = getattr(picture, "n_frames", 1)
    if frame is not None:
        if not 0 <= frame < count:
            raise ImageError(f"frame {frame} was asked for, the file has {count}: choose 0 to {count - 1}")
        with _reading():
            picture.seek(frame)
    if count > 1:
        # The second picture of an MPO, which phones write as .jpg, is a preview or a depth map.
        surprising = frame is None and picture.format not in ("MPO", "HEIF")
        text = f"frame {picture.tell()} of {count} is used, choose another by frame 0 to {count - 1}"
        notes.add(text, warn=surprising)


def _upright(picture: Image.Image, notes: Notes) -> Image.Image:
    try:
        with _reading():
            orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except _DamagedError as error:
        notes.add(f"its EXIF data are damaged, the picture may lie on its side ({error})", warn=True)
        return picture
    if orientation not in _TURNS:
        return picture
    notes.add(f"turned upright (EXIF orientation {orientation})")
    return picture.transpose(_TURNS[orientation])
