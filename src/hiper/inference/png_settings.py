"""Read the settings out of a PNG from a stranger: limits first, nothing unpickled, no pixel decoded."""

from __future__ import annotations

import base64
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from hiper.artifacts import Artifact, content_sha256
from hiper.errors import ArtifactError, ImageError
from hiper.images import SIGNATURE, keyword, open_regular, shown, slimmed
from hiper.inference.picture_settings import (
    ARTIFACT,
    DEMO,
    LARGEST_ARTIFACT,
    LARGEST_SOURCE_BYTES,
    SETTINGS,
    PictureSettings,
    parse_settings,
)

LARGEST_TEXT = 1_000_000
"""Characters of one text chunk; Pillow itself unpacks at most 1 MB of a compressed one."""

_DAMAGE = (OSError, SyntaxError, ValueError, struct.error, zlib.error, Image.DecompressionBombError)


@dataclass(frozen=True, kw_only=True)
class DrawnPicture:
    """A picture that tells how it was drawn; artifact: the copy it carries, None if it carries none."""

    path: Path
    settings: PictureSettings
    artifact: Artifact | None


def is_png(path: Path) -> bool:
    """Whether a file that can be read starts as every PNG does."""
    try:
        with open_regular(path) as file:
            return file.read(len(SIGNATURE)) == SIGNATURE
    except (OSError, ImageError):
        return False  # whoever reads it next says why


def read_drawn(path: Path) -> DrawnPicture:
    """Read the settings of a PNG that hiper drew, and the artifact it carries.

    Raises:
        ImageError: It is no picture, none of hiper's, has no settings, or is damaged or changed.
    """
    with _named(path):
        size, texts = _texts(path)
        if SETTINGS not in texts:
            raise ImageError(_no_settings(texts.get(DEMO)))
        settings = parse_settings(_limited(texts, SETTINGS))
        if size != (settings.width, settings.height) and not settings.given:
            raise ImageError(
                f"it has {size[0]}x{size[1]} pixels and its settings say {settings.width}x{settings.height}:"
                " it was resized or put together since; take the picture as it was drawn"
            )
        artifact = _artifact(_limited(texts, ARTIFACT)) if ARTIFACT in texts else None
        if artifact is not None:
            check_artifact(artifact, settings)
    return DrawnPicture(path=path, settings=settings, artifact=artifact)


def read_pixels(drawn: DrawnPicture) -> NDArray[np.int16]:
    """Decode the picture, [height, width, 3] of 0..255; ImageError when it is damaged."""
    with _named(drawn.path), open_regular(drawn.path) as file:
        bare = slimmed(file, lambda kind, data: False)
        with _reading():
            pixels = Image.open(bare.file if bare is not None else file, formats=["PNG"]).convert("RGB")
        return np.asarray(pixels, np.int16)


def check_artifact(artifact: Artifact, settings: PictureSettings) -> None:
    """ImageError for another artifact than the one that the picture was drawn with."""
    found = content_sha256(artifact)
    if found != settings.artifact_sha256:
        raise ImageError(
            f"it was drawn with the artifact {settings.artifact_sha256[:10]}, and this one is {found[:10]};"
            " name the file it was drawn with by --artifact"
        )


def _texts(path: Path) -> tuple[tuple[int, int], dict[str, object]]:
    with open_regular(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # no pixel is decoded
        own = slimmed(file, lambda _, data: keyword(data) in (SETTINGS, ARTIFACT, DEMO), pixels=False)
        with _reading():
            image = Image.open(own.file if own is not None else file, formats=["PNG"])
        return image.size, {str(name): value for name, value in image.info.items()}


def _no_settings(demo: object) -> str:
    if isinstance(demo, str) and demo.isascii() and demo.isdecimal() and len(demo) < 10:
        return f"a sheet or source of the demo; hiper demo --seed {int(demo)} draws it again"
    return "it carries no settings: not drawn by hiper, or with --no-metadata, or saved anew since"


def _limited(texts: dict[str, object], name: str) -> str:
    text = texts[name]
    if not isinstance(text, str) or len(text) > LARGEST_TEXT:
        raise ImageError(
            f"its chunk {name!r} is no text of at most {LARGEST_TEXT} characters; hiper wrote none such"
        )
    return text


def _artifact(text: str) -> Artifact:
    try:
        return Artifact.parse(_unpacked(text))
    except ArtifactError as error:
        raise ImageError(
            f"the artifact it carries cannot be used ({error}); name yours by --artifact"
        ) from error


def _unpacked(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:  # binascii's own is one, and a letter beyond ASCII
        raise ArtifactError(str(error)) from error
    if len(data) > LARGEST_ARTIFACT + LARGEST_SOURCE_BYTES:
        raise ArtifactError(
            f"{len(data)} bytes; at most {LARGEST_ARTIFACT + LARGEST_SOURCE_BYTES} are embedded"
        )
    return data


@contextmanager
def _reading() -> Iterator[None]:
    """Tell what Pillow raises, whose calls alone stand in the block, as damage."""
    try:
        yield
    except UnidentifiedImageError as error:  # its own message shows our handle
        raise ImageError("no PNG, or damaged at its start; give a picture that hiper drew") from error
    except _DAMAGE as error:
        raise ImageError(f"no PNG, or damaged ({error}); get the file again") from error


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{shown(path)}: {error}") from error
