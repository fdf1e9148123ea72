"""Subject: what is to be learnt, one picture and the caption that describes it, checked once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from hiper.errors import CaptionError, ImageError
from hiper.files import is_invisible, names_file
from hiper.images.convert import LoadedImage, open_image, open_mask
from hiper.notes import Notes
from hiper.options import prompt_syntax

MAX_CHARACTERS = 10_000
"""Length of the longest caption or prompt; a text encoder reads some 300 characters."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One picture, its caption and, if wanted, a mask; made by `open` or `from_image`.

    Two subjects are equal if pixels, mask and caption are.

    Attributes:
        image: Mode RGB, upright, sRGB.
        caption: Without invisible characters; may be empty.
        mask: Mode L, of the image's size, 255 where the subject is.
        sha256: Of size and RGB pixels, and of the mask's if there is one; hexadecimal.
        notes: One line for each thing that was changed on the way in.
    """

    image: Image.Image = field(compare=False)
    caption: str
    mask: Image.Image | None = field(compare=False)
    sha256: str
    notes: tuple[str, ...] = field(compare=False)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        caption: str,
        mask: str | Path | None = None,
        frame: int | None = None,
        background: str = "white",
        allow_truncated: bool = False,
    ) -> Subject:
        """Read a picture file and, if given, a mask file of the same size.

        Args:
            path: A local file: PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF, or HEIC with `hiper[heic]`.
            caption: Describes the picture.
            mask: White (255) where the subject is, black elsewhere; transparency is used where there is any.
            frame: Which picture of an animated or multi-page file, from 0; by default the first, with a warning.
            background: Colour (a name or "#rrggbb") that transparent parts are laid on.
            allow_truncated: Use what is left of a file that was cut short, with a warning.

        Raises:
            ImageError: The picture or the mask cannot be used.
            CaptionError: The caption is longer than 10 000 characters.
            OptionError: `background` is not a colour.
        """
        cleaned = _clean(caption, "caption")
        image = open_image(path, frame=frame, background=background, allow_truncated=allow_truncated)
        return cls._of(image, None if mask is None else open_mask(mask), cleaned)

    @classmethod
    def from_image(cls, image: Image.Image, *, caption: str, mask: Image.Image | None = None) -> Subject:
        """Take PIL images instead of files; arguments and errors are those of `open`."""
        cleaned = _clean(caption, "caption")
        return cls._of(open_image(image), None if mask is None else open_mask(mask), cleaned)

    @classmethod
    def _of(cls, image: LoadedImage, mask: LoadedImage | None, caption: tuple[str, Notes]) -> Subject:
        if mask is not None and mask.image.size != image.image.size:
            raise ImageError(
                "the mask has {}x{} pixels, the picture {}x{}: give both the same size".format(
                    *mask.image.size, *image.image.size
                )
            )
        text, notes = caption
        notes.issue()
        return cls(
            image=image.image,
            caption=text,
            mask=mask.image if mask else None,
            sha256=pixels_sha256(image.image, mask.image if mask else None),
            notes=(*image.notes, *(f"mask: {note}" for note in (mask.notes if mask else ())), *notes.texts),
        )


def clean_text(text: str, *, what: str, may_be_empty: bool = False, notes: list[str] | None = None) -> str:
    """Return a text without invisible characters, its white space folded to single blanks.

    Removed are control characters (NUL among them), lone surrogates, and all that changes the direction of
    writing. A HiperWarning is issued if any were, if the text is the name of a file or has another program's syntax,
    and if nothing is left.

    Args:
        text: A caption or prompt.
        what: Names the text in messages.
        may_be_empty: Do not warn where nothing is left.
        notes: Collects the messages instead of warnings.

    Raises:
        CaptionError: It is no text, or longer than 10 000 characters.
    """
    cleaned, found = _clean(text, what, may_be_empty=may_be_empty)
    if notes is None:
        found.issue()
    else:
        notes += found.texts
    return cleaned


def _clean(text: str, what: str, *, may_be_empty: bool = False) -> tuple[str, Notes]:
    if not isinstance(text, str):
        raise CaptionError(f"the {what} is of type {type(text).__name__}, allowed is one text")
    if len(text) > MAX_CHARACTERS:
        raise CaptionError(
            f"the {what} has {len(text)} characters, at most {MAX_CHARACTERS} are allowed: shorten it"
        )
    notes = Notes()
    kept = [c for c in text if c.isspace() or not is_invisible(c)]
    if len(kept) < len(text):
        removed = len(text) - len(kept)
        notes.add(f"the {what} lost its invisible control characters ({removed} of them)", warn=True)
    cleaned = " ".join("".join(kept).split())
    found = prompt_syntax(cleaned)
    if found:
        notes.add(
            f"the {what} has {found!r}, the syntax of another program; hiper reads it as plain words: leave it out",
            warn=True,
        )
    if cleaned and names_file(cleaned):
        notes.add(
            f"the {what} is {cleaned[:80]!r}, which reads like a file's name; write the words instead",
            warn=True,
        )
    if not cleaned and not may_be_empty:
        notes.add(f"the {what} is empty", warn=True)
    return cleaned, notes


def pixels_sha256(image: Image.Image, mask: Image.Image | None = None) -> str:
    """Hash size and pixels of an RGB picture, and the pixels of its mask if it has one; hexadecimal."""
    digest = hashlib.sha256(b"RGB %dx%d\n" % image.size)
    digest.update(image.tobytes())
    if mask is not None:
        digest.update(b"mask\n")
        digest.update(mask.tobytes())
    return digest.hexdigest()
