"""Pages without network or scripts: pictures are inside, and every text of a stranger is escaped."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from html import escape as _escape

from PIL import Image

from hiper.files import visible
from hiper.images import RAISED, jpeg_data_url

SIDE = 256
"""Pixels of the longer side of a picture on a page, at most."""

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
table { border-collapse: collapse; display: block; margin: .8rem 0; overflow-x: auto; }
th, td { padding: .3rem .6rem; text-align: left; border-bottom: 1px solid #ccc; vertical-align: top; }
img { width: 8rem; image-rendering: auto; display: block; }
figure { display: inline-block; margin: 0 .6rem .6rem 0; width: 8rem; vertical-align: top; }
figcaption { font-size: 12px; line-height: 1.3; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
svg { max-width: 100%; height: auto; }
.note { font-weight: bold; }
"""


def escape(text: str) -> str:
    """Return a stranger's text as HTML: tags, quotes and invisible characters are escaped."""
    return _escape(visible(text))


def document(title: str, parts: Iterable[str]) -> str:
    """Return a whole page; `parts` are pieces of HTML."""
    head = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>",
    ]
    return "\n".join([*head, *parts, "</body></html>"]) + "\n"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table of plain text; the first row is its head."""
    head, *others = rows
    return "\n".join(
        ["<table>", table_row("th", head), *(table_row("td", row) for row in others), "</table>"]
    )


def table_row(tag: str, cells: Iterable[str]) -> str:
    """Return one line of a table of plain text; tag: td, or th for a head."""
    return html_row(tag, map(escape, cells))


def html_row(tag: str, cells: Iterable[str]) -> str:
    """Return one line of a table whose cells are HTML already."""
    return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"


def figure(shown: Image.Image | bytes, caption: str) -> str:
    """Return a picture, or a file of one, with a caption of plain text below."""
    return f"<figure>{picture(shown, caption)}<figcaption>{escape(caption)}</figcaption></figure>"


def picture(shown: Image.Image | bytes, alt: str) -> str:
    """Return a picture as part of the page, at most `SIDE` pixels large.

    A file that has been damaged since it was written keeps nothing else off the page: it is named in its place.

    Args:
        shown: A picture, or the bytes of a PNG file.
        alt: Its description in plain text.
    """
    if isinstance(shown, bytes):
        try:
            shown = Image.open(io.BytesIO(shown), formats=["PNG"])
            shown.load()
        except (*RAISED, Image.DecompressionBombError):
            return f'<p class="note">damaged: {escape(alt)}</p>'
    return f'<img alt="{escape(alt)}" src="{jpeg_data_url(shown, SIDE, quality=90, subsampling=0)}">'
