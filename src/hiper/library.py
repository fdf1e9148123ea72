"""A library of subjects on disk: one folder each, with the tail and, where it is known, the picture it came from."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

from PIL import Image

from hiper import files
from hiper.artifact import Artifact
from hiper.errors import ArtifactError, OptionError, OutputError
from hiper.filetypes import is_hidden
from hiper.images import open_image, png_bytes

TAIL, SOURCE = "tail.safetensors", "source.png"
_THUMBNAIL_START = "data:image/jpeg;base64,"
_THUMBNAIL_SIDE = 256


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A subject of the library."""

    name: str
    """Of its folder; no path."""
    artifact: Artifact
    tail: Path
    picture: Image.Image | None
    """What it was fitted to, mode RGB: the picture itself, else the tail's thumbnail, else nothing."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """All subjects, the newest first, and one line for each that cannot be read."""

    entries: tuple[Entry, ...]
    damaged: tuple[str, ...]


@final
class Library:
    """The subjects below one folder, which is created with the first of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, artifact: Artifact, picture: Image.Image | None) -> Entry:
        """Keep a subject and return it; the same tail twice is kept once.

        OutputError when the folder cannot be written to.
        """
        data = artifact.to_bytes()
        name = f"{files.safe_slug(artifact.caption, limit=60)}-{hashlib.sha256(data).hexdigest()[:8]}"
        folder = self.folder / name
        files.make_folder(folder, within=self.folder)
        if picture is not None:
            files.atomic_write(folder / SOURCE, png_bytes(picture), overwrite=True)
        files.atomic_write(folder / TAIL, data, overwrite=True)  # last: a folder without it is no subject
        return self.open(name)

    def open(self, name: str) -> Entry:
        """Return a subject by its name.

        OptionError when there is none of that name, ArtifactError or ImageError when its files are damaged.
        """
        folder = self.folder / name
        tail = folder / TAIL
        if not re.fullmatch(r"[\w-]+", name) or not tail.is_file():
            raise OptionError(f"no subject {name[:80]!r} in the library; choose one that is listed")
        artifact = Artifact.load(tail)
        source = folder / SOURCE
        picture = open_image(source).image if source.is_file() else thumbnail(artifact)
        return Entry(name=name, artifact=artifact, tail=tail, picture=picture)

    def listing(self) -> Listing:
        """Read all subjects; one that is damaged keeps none of the others back."""
        entries, damaged = [], []
        for name in self._names():
            try:
                entries.append(self.open(name))
            except (ArtifactError, OSError) as error:
                damaged.append(str(error))
        entries.sort(key=lambda entry: (entry.artifact.created, entry.name), reverse=True)
        return Listing(entries=tuple(entries), damaged=tuple(damaged))

    def _names(self) -> Iterator[str]:
        if self.folder.is_dir():
            names = (each.parent.name for each in self.folder.glob(f"*/{TAIL}"))
            yield from sorted(name for name in names if not is_hidden(name))


def thumbnail(artifact: Artifact) -> Image.Image | None:
    """Return the small picture that a tail carries, mode RGB, None where there is none that can be shown."""
    if not artifact.thumbnail.startswith(_THUMBNAIL_START):
        return None
    try:
        data = base64.b64decode(artifact.thumbnail.removeprefix(_THUMBNAIL_START), validate=True)
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return image.convert("RGB") if max(image.size) <= _THUMBNAIL_SIDE else None
    except (ValueError, OSError, SyntaxError):  # a stranger's file; nothing depends on its thumbnail
        return None


def default_folder() -> Path:
    """`$HIPER_LIBRARY`, else `$XDG_DATA_HOME/hiper/library`, else `~/.local/share/hiper/library`.

    OutputError when none of the variables is set and the user has no home folder.
    """
    if own := os.environ.get("HIPER_LIBRARY"):
        return Path(own)
    if shared := os.environ.get("XDG_DATA_HOME"):
        return Path(shared) / "hiper" / "library"
    try:
        return Path.home() / ".local" / "share" / "hiper" / "library"
    except RuntimeError as error:
        raise OutputError("no home folder to keep a library in; name one by --library") from error
