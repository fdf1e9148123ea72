"""A library of subjects on disk: one folder each, with the tail and, where it is known, the picture it came from."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

from PIL import Image

from hiper import files
from hiper.artifacts.artifact import Artifact
from hiper.errors import OptionError, OutputError, UserError
from hiper.files import is_hidden
from hiper.images import open_image, png_bytes, shown

TAIL, SOURCE = "tail.safetensors", "source.png"
_THUMBNAIL_START = "data:image/jpeg;base64,"
_THUMBNAIL_SIDE = 256
_NAME = re.compile(r"[\w-]+")


@dataclass(frozen=True, kw_only=True)
class LibraryEntry:
    """A subject of the library.

    Attributes:
        name: Of its folder; no path.
        artifact: What was learnt.
        tail: The artifact's file.
        picture: What it was fitted to, mode RGB: the picture itself, else the artifact's thumbnail, else None.
        is_thumbnail: Whether the picture is no more than that.
    """

    name: str
    artifact: Artifact
    tail: Path
    picture: Image.Image | None
    is_thumbnail: bool = False


@dataclass(frozen=True, kw_only=True)
class Listing:
    """All subjects, the newest first, and one line for each that cannot be read."""

    entries: tuple[LibraryEntry, ...]
    damaged: tuple[str, ...]


@final
class Library:
    """The subjects below one folder, which is created with the first of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, artifact: Artifact, picture: Image.Image | None) -> LibraryEntry:
        """Add a subject; the same artifact twice is kept once.

        Args:
            artifact: What was learnt.
            picture: From which; mode RGB.

        Returns:
            The new entry.

        Raises:
            OutputError: The folder cannot be written to.
        """
        data = artifact.to_bytes()
        name = f"{files.safe_slug(artifact.caption, limit=60)}-{hashlib.sha256(data).hexdigest()[:8]}"
        folder = self.folder / name
        files.make_folder(folder, within=self.folder)
        if picture is not None:
            files.atomic_write(folder / SOURCE, png_bytes(picture), overwrite=True)
        files.atomic_write(folder / TAIL, data, overwrite=True)  # last: a folder without it is no subject
        return self.open(name)

    def open(self, name: str) -> LibraryEntry:
        """Return a subject by its name.

        Raises:
            OptionError: There is none of that name.
            ArtifactError: Its artifact is damaged.
            ImageError: Its picture is damaged.
            OutputError: Its files cannot be read.
        """
        folder = self.folder / name
        tail, source = folder / TAIL, folder / SOURCE
        with _readable(folder):
            if not _NAME.fullmatch(name) or not os.path.lexists(tail):
                raise OptionError(f"no subject {name[:80]!r} in the library; choose one that is listed")
            artifact = Artifact.load(tail)
            is_thumbnail = not os.path.lexists(source)
            picture = thumbnail(artifact) if is_thumbnail else open_image(source).image
        return LibraryEntry(
            name=name, artifact=artifact, tail=tail, picture=picture, is_thumbnail=is_thumbnail
        )

    def listing(self) -> Listing:
        """Read all subjects; what is none, or is damaged, is named and does not keep the others back."""
        entries, damaged = [], []
        for name in self._names():
            try:
                self._check(name)
                entries.append(self.open(name))
            except UserError as error:
                reason = str(error).replace(f"{self.folder}{os.sep}", "")
                damaged.append(f"left out of the library: {reason}")
        entries.sort(key=lambda entry: (entry.artifact.created, entry.name), reverse=True)
        return Listing(entries=tuple(entries), damaged=tuple(damaged))

    def _names(self) -> list[str]:
        """Return the names of all entries of the folder that are not hidden."""
        if not os.path.lexists(self.folder):
            return []
        with _readable(self.folder):
            names = sorted(path.name for path in self.folder.iterdir())
        return [name for name in names if not is_hidden(name)]

    def _check(self, name: str) -> None:
        """Raise OptionError, with what to do, for what lies in the library and is no subject."""
        folder = self.folder / name
        with _readable(folder):
            if not folder.is_dir():
                raise OptionError(f"{shown(name)} is no folder of a subject; move it away")
            if not _NAME.fullmatch(name):
                raise OptionError(
                    f"{shown(name)} has more than letters, digits, '-' and '_'; rename it, or delete a copy"
                )
            if folder / TAIL not in folder.iterdir():
                raise OptionError(f"{shown(name)} holds no {TAIL}; put the file back, or delete the folder")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raise OutputError for what the system does not let us read."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot read {shown(path)}: {error.strerror}; mend its permissions, or move it away"
        ) from error


def thumbnail(artifact: Artifact) -> Image.Image | None:
    """Return the thumbnail of an artifact, mode RGB; None where there is none that can be shown."""
    if not artifact.thumbnail.startswith(_THUMBNAIL_START):
        return None
    try:
        data = base64.b64decode(artifact.thumbnail.removeprefix(_THUMBNAIL_START), validate=True)
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return image.convert("RGB") if max(image.size) <= _THUMBNAIL_SIDE else None
    # A stranger's file; nothing depends on its thumbnail.
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError):
        return None


def default_folder() -> Path:
    """Return `$HIPER_LIBRARY`, else `$XDG_DATA_HOME/hiper/library`, else `~/.local/share/hiper/library`.

    Raises:
        OutputError: None of the variables is set, and the user has no home folder.
    """
    if own := os.environ.get("HIPER_LIBRARY"):
        return Path(own)
    return files.user_folder("XDG_DATA_HOME", ".local/share", "name a library by --library") / "library"
