"""Pictures on their way in and out: the only place where pixel ranges change.

Inside hiper a picture is either a PIL image of mode RGB (8 bits, sRGB, upright, opaque, no metadata) or a
float32 tensor [batch, 3, height, width] in [-1, 1].
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageColor, ImageOps, PngImagePlugin

from hiper.errors import HiperError, HiperWarning, ImageError, OptionError
from hiper.images.colour import bare, to_mask, to_srgb
from hiper.images.reading import FAR_FROM_SQUARE, MAX_PIXELS, decode_image, read_picture, shown
from hiper.notes import Notes

if TYPE_CHECKING:
    from torch import Tensor

_MAX_ENLARGEMENT = 2.0
_THUMBNAIL_CHARACTERS = 3000


@dataclass(frozen=True)
class LoadedImage:
    """A picture ready for use.

    Attributes:
        image: Mode RGB (a mask: L), upright, without metadata.
        notes: One line for each thing that was changed on the way in.
    """

    image: Image.Image
    notes: tuple[str, ...]


def open_image(
    source: str | Path | Image.Image,
    *,
    frame: int | None = None,
    background: str = "white",
    allow_truncated: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> LoadedImage:
    """Read a picture file, or convert a PIL image of any mode, to upright 8-bit sRGB.

    Args:
        source: A local file: PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF, or HEIC with hiper[heic]. Never a URL.
            Of an image, `frame` and `allow_truncated` are ignored.
        frame: Which picture of an animated or multi-page file, from 0; by default the first, with a warning.
        background: Colour (a name or "#rrggbb") that transparent parts are laid on.
        allow_truncated: Use what is left of a file that was cut short, with a warning. This sets Pillow's
            global switch while the file is read, so do not use it from several threads at once.
        max_pixels: Larger pictures are refused before memory is taken for them; Pillow's own limit of
            179 million pixels stays in force.

    Raises:
        ImageError: No such file, not a readable picture, damaged, too large, or a side under 64 pixels.
        OptionError: `background` is not a colour.
    """
    notes = Notes()
    name = _name(source, "picture")
    with _naming(name):
        colour = _colour(background)
        image = to_srgb(
            _decoded(source, notes, max_pixels, frame=frame, allow_truncated=allow_truncated), colour, notes
        )
    notes.issue(name)
    return LoadedImage(image=image, notes=notes.texts)


def open_mask(source: str | Path | Image.Image) -> LoadedImage:
    """Read a mask file, or convert a PIL image, to upright mode "L": 255 where the subject is.

    The transparency is the mask where there is any, else the grey.

    Raises:
        ImageError: As `open_image`, and where nothing is selected.
    """
    notes = Notes()
    name = _name(source, "mask")
    with _naming(name):
        mask = to_mask(_decoded(source, notes), notes)
    notes.issue(name)
    return LoadedImage(image=mask, notes=notes.texts)


def fit_square(image: Image.Image, size: int, *, how: Literal["crop", "pad"] = "crop") -> Image.Image:
    """Make a picture square, resampled by Lanczos.

    A HiperWarning is issued where a crop drops more than half of an RGB picture, and where one is enlarged more
    than twice, which for a model of 512 pixels means a side under 256.

    Args:
        image: Mode RGB or L, which is kept.
        size: Pixels of a side.
        how: "crop" cuts out the centre square; "pad" keeps everything and adds white (for a mask, L: 0).

    Raises:
        OptionError: Another `how`.
    """
    if how not in ("crop", "pad"):
        raise OptionError(f"how is {how!r}: choose crop or pad")
    if image.mode == "RGB":
        _warn_of_fit(image, size, how)
    if how == "crop":
        return ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    colour = "black" if image.mode == "L" else "white"
    return ImageOps.pad(image, (size, size), Image.Resampling.LANCZOS, color=colour)


def to_tensor(image: Image.Image) -> Tensor:
    """Return an RGB image as a tensor [1, 3, height, width], float32 in [-1, 1].

    Raises:
        ImageError: It has another mode.
    """
    # Here, so that a bad picture is refused without the seconds that importing torch takes.
    import torch

    check_rgb(image)
    levels = torch.from_numpy(np.array(image, dtype=np.float32))
    return (levels / 127.5 - 1).permute(2, 0, 1).unsqueeze(0).contiguous()


def check_rgb(image: Image.Image) -> None:
    """Raise ImageError for a picture of another mode than RGB."""
    if image.mode != "RGB":
        raise ImageError(f"the picture has mode {image.mode}, allowed is RGB: pass it through open_image")


def to_images(x: Tensor) -> list[Image.Image]:
    """Return a tensor [batch, 3, height, width] in [-1, 1] as RGB images; values beyond are clipped.

    Levels are rounded, for truncation would darken each picture by half a level.

    Raises:
        HiperError: A value is not finite.
    """
    values = x.detach().float().cpu().permute(0, 2, 3, 1).numpy()
    if not np.isfinite(values).all():
        raise HiperError(
            "the model drew a picture with values that are not finite: use bfloat16 or float32, "
            "or a lower strength or guidance"
        )
    levels = np.rint((values.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    return [Image.fromarray(picture) for picture in levels]


def png_bytes(image: Image.Image, *, metadata: Mapping[str, str] | None = None) -> bytes:
    """Encode a picture as PNG, with `metadata` as its text chunks and without EXIF, GPS or profile."""
    texts = PngImagePlugin.PngInfo()
    for key, text in (metadata or {}).items():
        texts.add_text(key, text.encode(errors="backslashreplace").decode())  # a model's path may be no text
    buffer = io.BytesIO()
    bare(image).save(buffer, "PNG", pnginfo=texts)
    return buffer.getvalue()


def thumbnail_data_url(image: Image.Image, size: int = 64, *, limit: int = _THUMBNAIL_CHARACTERS) -> str:
    """Return a JPEG of at most `size` pixels a side as "data:image/jpeg;base64,...".

    Args:
        image: The picture, of any mode.
        size: Pixels of the longer side, at most.
        limit: Characters of the URL: the best of four qualities that stays within is taken. The lowest is taken
            if none does, which at 3000 takes a `size` above 64.
    """
    for quality in (80, 60, 40, 20):
        url = jpeg_data_url(image, size, quality=quality, optimize=True)
        if len(url) <= limit:
            break
    return url


def jpeg_data_url(image: Image.Image, size: int, **encoding: int) -> str:
    """Return a picture as "data:image/jpeg;base64,...", at most `size` pixels a side, without metadata.

    Args:
        image: The picture, of any mode.
        size: Pixels of the longer side, at most.
        **encoding: Options of Pillow's JPEG encoder.
    """
    small = bare(image.convert("RGB"))
    small.thumbnail((size, size), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", **encoding)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _name(source: object, what: str) -> str:
    """Return how messages call what is read; ImageError if it is neither a path nor a PIL image."""
    if isinstance(source, Image.Image):
        return f"the {what}"
    if not isinstance(source, (str, Path)):
        raise ImageError(f"the {what} is of type {type(source).__name__}; give a path or a PIL image")
    return shown(source)


def _decoded(
    source: str | Path | Image.Image,
    notes: Notes,
    max_pixels: int = MAX_PIXELS,
    *,
    frame: int | None = None,
    allow_truncated: bool = False,
) -> Image.Image:
    """Read a file or take an image.

    Pass the result on without giving it a name: a large picture and its copy do not fit into memory together.
    """
    if isinstance(source, Image.Image):
        return decode_image(source, max_pixels=max_pixels, notes=notes)
    return read_picture(
        source, frame=frame, allow_truncated=allow_truncated, max_pixels=max_pixels, notes=notes
    )


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Let errors begin with the name of what they are about, and stay on one line."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{name}: {' '.join(str(error).split())}") from error


def _colour(background: str) -> tuple[int, int, int]:
    try:
        red, green, blue = ImageColor.getrgb(background)[:3]
    except ValueError as error:
        raise OptionError(
            f'background is {background!r}: give a colour name such as "white", or "#rrggbb"'
        ) from error
    return red, green, blue


def _warn_of_fit(image: Image.Image, size: int, how: str) -> None:
    short, long = sorted(image.size)
    shape = f"the picture is {image.width}x{image.height} pixels"
    if how == "crop" and long > FAR_FROM_SQUARE * short:
        warnings.warn(
            f"{shape}, the square crop keeps {short / long:.0%} of it: cut out the subject yourself, or pad",
            HiperWarning,
            stacklevel=3,
        )
    enlargement = size / (short if how == "crop" else long)
    if enlargement > _MAX_ENLARGEMENT:
        warnings.warn(
            f"{shape}, the model's {size}x{size} enlarge it {enlargement:.1f} times: give a larger picture",
            HiperWarning,
            stacklevel=3,
        )
