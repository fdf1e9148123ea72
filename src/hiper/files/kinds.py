"""Which picture files hiper reads, and what a file that it cannot read seems to be."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from pathlib import Path

HEAD_BYTES = 512
"""How much of a file `looks_like` reads."""

_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG", "a damaged PNG"),
    (b"\xff\xd8\xff", "a damaged JPEG"),
    (b"GIF8", "a damaged GIF"),
    (b"II*\x00", "a damaged TIFF or one of an unusual kind"),
    (b"MM\x00*", "a damaged TIFF or one of an unusual kind"),
    (b"BM", "a damaged BMP"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript file"),
    (b"8BPS", "a Photoshop file"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"FUJIFILM", "a camera raw file"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL picture"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 picture"),
    (b"version https://git-lfs", "a git-lfs pointer (run git lfs pull)"),
)
_TEXT_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"<!doctype html", "HTML"),
    (b"<html", "HTML"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "XML"),
    (b"{", "JSON"),
    (b"[", "JSON"),
)
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
RAW_SUFFIXES = frozenset({".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".rw2", ".srw"})
"""Of cameras' raw files, whose TIFF shell holds only a preview."""


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Return Pillow's names of the formats that are opened; all others are refused unread.

    HEIF is among them when pillow-heif (`hiper[heic]`) is installed; it is registered here.
    """
    formats = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")
    if importlib.util.find_spec("pillow_heif") is None:
        return formats
    importlib.import_module("pillow_heif").register_heif_opener()
    return (*formats, "HEIF")


@functools.cache
def picture_suffixes() -> frozenset[str]:
    """Return the file name endings, in lower case with their dot, of the formats that are opened."""
    formats = readable_formats()  # first, for it may register one
    known = importlib.import_module("PIL.Image").registered_extensions()
    return frozenset(suffix for suffix, name in known.items() if name in formats)


def is_hidden(name: str) -> bool:
    """Whether the system put an entry into a folder: ._dog.jpg, .DS_Store, __MACOSX, Thumbs.db."""
    return name.startswith(".") or name.casefold() in ("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini")


def path_in(folder: Path, name: str) -> Path:
    """Resolve a path that a file in `folder` names: relative to the folder, with `~` and `$NAME` expanded."""
    beside = folder / name
    if os.path.lexists(beside):
        return beside
    return folder / os.path.expanduser(os.path.expandvars(name))  # noqa: PTH111  # which leaves unknown users alone


def looks_like(head: bytes) -> str:
    """Name the kind of a file by its first bytes.

    Args:
        head: Its first `HEAD_BYTES` bytes.

    Returns:
        Such as "a PDF document"; "" if nothing is recognised.
    """
    if head[4:8] == b"ftyp":
        return _container(head[8:12])
    if head[:4] == b"RIFF":
        return {b"AVI ": "an AVI video", b"WEBP": "a damaged WebP"}.get(head[8:12], "")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<?xml") and b"<svg" in text:
        return "an SVG drawing"
    words = [what for start, what in _STARTS if head.startswith(start)]
    words += [what for start, what in _TEXT_STARTS if text.startswith(start)]
    return words[0] if words else ""


def _container(brand: bytes) -> str:
    """Name an ISO base media file (ISO/IEC 14496-12) by its major brand."""
    if brand in (b"avif", b"avis"):
        return "a damaged AVIF"
    if brand in _HEIC_BRANDS:
        installed = "HEIF" in readable_formats()
        return "a damaged HEIC" if installed else "HEIC (install hiper[heic] to read it)"
    return "a camera raw file" if brand == b"crx " else "a video (MP4 or MOV)"
