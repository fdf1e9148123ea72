"""Text from outside: decoding it, showing it so that nothing in it acts on a terminal or a page."""

from __future__ import annotations

import codecs
import json
import math
import re
import stat
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hiper.errors import OptionError

_BIDI_CONTROLS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
# Marks of direction, zero-width space, word joiner and byte order mark. The zero-width joiners stay: emoji
# and several scripts need them.
_INVISIBLE = frozenset("\u200e\u200f\u061c\u200b\u2060\ufeff")

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as the mark of UTF-16 does
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_FILE_NAME = re.compile(
    r"\S*[/\\]\S*|\S*[^\s.]\.[A-Za-z]\w{0,9}|.*\.(txt|caption|jpe?g|png|webp|json|csv)", re.I
)


def is_invisible(character: str) -> bool:
    """Whether a character has no glyph: controls, lone surrogates, and what changes the direction of writing."""
    return (
        unicodedata.category(character) in ("Cc", "Cs")
        or unicodedata.bidirectional(character) in _BIDI_CONTROLS
        or character in _INVISIBLE
    )


def visible(text: str) -> str:
    r"""Return `text` with its invisible characters as escapes such as \x1b and \u202e; tabs and line ends stay."""
    if text.isprintable():
        return text
    return "".join(ascii(c)[1:-1] if c not in "\t\n" and is_invisible(c) else c for c in text)


def decoded(data: bytes) -> str:
    """Decode a text file, UTF-8 or what its byte order mark says; line ends become single line feeds.

    Raises:
        OptionError: It is in another encoding; the message does not name the file.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise OptionError(
            f"it is not {encoding.upper().removesuffix('-SIG')} (byte {error.start} is 0x{data[error.start]:02x});"
            " save it as UTF-8, which Excel calls CSV UTF-8"
        ) from error


def parse_json(text: str | bytes, pairs: Callable[[Iterable[tuple[str, Any]]], Any] | None = None) -> Any:
    """Parse a stranger's JSON, without the NaN and infinite numbers that Python reads and JSON lacks.

    Args:
        text: What to parse.
        pairs: Makes an object of its names and values, as `object_pairs_hook` of `json.loads`.

    Raises:
        ValueError: It is no JSON, or a number is not finite.
    """
    return json.loads(text, parse_constant=_finite, parse_float=_finite, object_pairs_hook=pairs)


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number[:20]} is no finite number")
    return value


def read_text(path: Path, most: int) -> str:
    """Read a text file, as `decoded` does.

    Args:
        path: The file.
        most: Bytes that it may have.

    Raises:
        OptionError: It is larger, in another encoding, or a pipe or a device, which may never end. The message
            does not name the file.
        OSError: It cannot be read.
    """
    status = path.stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):  # reading a folder is an OSError
        raise OptionError("it is no ordinary file; give a file")
    if status.st_size > most:
        raise OptionError(f"it is larger than {most} bytes; split it")
    return decoded(path.read_bytes())


def names_file(text: str) -> bool:
    """Whether a caption or prompt reads like a file name, or is the name of a file in the working folder."""
    if _FILE_NAME.fullmatch(text):
        return True
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # a sentence is longer than any name
        return False
