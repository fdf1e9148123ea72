"""A PNG without the metadata for which Pillow refuses the whole file: workflows of megabytes, damaged texts.

Chunks as in the PNG specification, third edition, sections 5 and 11.3.3.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_TEXT = 1_000_000
"""Bytes of all texts together, unpacked, that are kept; Pillow refuses a file for a packed one of a MiB."""
MAX_PROFILE = 16_000_000
"""Bytes of a colour profile, unpacked; those of printers have some 3 MB."""

_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_SEEN = (b"tRNS", b"iCCP", b"fdAT")
"""Chunks without which a picture looks different, though a reader may leave out all of a small first letter."""
_LENGTHS = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9, b"acTL": 8, b"fcTL": 26}
"""Bytes of chunks beside the pixels that Pillow takes apart; it refuses the file for other lengths."""

Keep = Callable[[bytes, bytes], bool]
"""Says of a text chunk, by its kind and data, whether it is kept."""


@dataclass(frozen=True, kw_only=True)
class Slimmed:
    """A PNG in memory, without some of its metadata.

    Attributes:
        file: The PNG.
        dropped: How many chunks were left out.
        profile: The colour profile, which is left out as well: None where the file has none, b"" for one that cannot
            be unpacked.
    """

    file: IO[bytes]
    dropped: int
    profile: bytes | None


def slimmed(file: IO[bytes], keep: Keep, *, pixels: bool = True) -> Slimmed | None:
    """Copy a PNG without its colour profile, and without data beside the pixels whose checksum or length is wrong.

    Args:
        file: Read from its beginning.
        keep: Says of a text chunk whether it is kept.
        pixels: False ends the copy where the pixels begin.

    Returns:
        The copy, whose damaged pixels stay as they are; None if the file is no PNG.
    """
    file.seek(0)
    if file.read(len(SIGNATURE)) != SIGNATURE:
        return None
    copy, dropped, profile = io.BytesIO(), 0, None
    copy.write(SIGNATURE)
    for length, kind, data, checksum in _chunks(file):
        beside = kind[:1].islower() and kind not in _SEEN
        if beside and not (_is_whole(kind, data, checksum) and (kind not in _TEXTS or keep(kind, data))):
            dropped += 1
        elif kind == b"iCCP":
            profile = _unpacked(data.partition(b"\0")[2][1:], MAX_PROFILE) or b""
        else:
            copy.write(length + kind + data + checksum)
            if kind == b"IDAT" and not pixels:
                break
    copy.seek(0)
    return Slimmed(file=copy, dropped=dropped, profile=profile)


def keyword(data: bytes) -> str:
    """Return the name of a text chunk."""
    return data[:80].partition(b"\0")[0].decode("latin-1")


def small_texts() -> Keep:
    """Keep texts (some hold the orientation of the picture) until they take `MAX_TEXT` bytes together."""
    room = MAX_TEXT

    def keep(kind: bytes, data: bytes) -> bool:
        nonlocal room
        text = _text(kind, data, room)
        room -= 0 if text is None else len(text)
        return text is not None

    return keep


def _chunks(file: IO[bytes]) -> Iterator[tuple[bytes, bytes, bytes, bytes]]:
    """Yield length, kind, data and checksum of each; no more is read than there is, whatever a length claims."""
    here = file.tell()
    left = file.seek(0, io.SEEK_END) - here
    file.seek(here)
    while head := file.read(8):
        left -= 8
        size = int.from_bytes(head[:4], "big")
        data = file.read(min(size, max(0, left)))
        checksum = file.read(4)
        left -= len(data) + 4
        yield head[:4], head[4:], data, checksum


def _is_whole(kind: bytes, data: bytes, checksum: bytes) -> bool:
    right_length = _LENGTHS.get(kind, len(data)) == len(data)
    return right_length and zlib.crc32(kind + data).to_bytes(4, "big") == checksum


def _text(kind: bytes, data: bytes, most: int) -> bytes | None:
    """Return what a text chunk says, None when that is more than `most` bytes or cannot be unpacked."""
    _, _, text = data.partition(b"\0")
    packed = kind == b"zTXt"
    if packed:
        text = text[1:]
    elif kind == b"iTXt":
        packed = text[:1] == b"\1"
        text = b"\0".join(text[2:].split(b"\0", 2)[2:])
    if packed:
        return _unpacked(text, most)
    return text if len(text) <= most else None


def _unpacked(data: bytes, most: int) -> bytes | None:
    unpacker = zlib.decompressobj()
    try:
        found = unpacker.decompress(data, most + 1)
    except zlib.error:
        return None
    return found if len(found) <= most else None
