"""The contact sheet of the demo: a row per edit, enlarged, with its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

COLUMNS = ("source", "true answer", "prompt alone", "new picture (keep 0)", "edit (keep 0.5)")
CELL, GAP, HEADER, LABEL = 224, 14, 92, 34
INK, FAINT, PAPER = (38, 34, 40), (120, 114, 122), (252, 250, 246)


@dataclass(frozen=True, kw_only=True)
class SheetRow:
    """One edit: its kind, its prompt, and one picture per column."""

    kind: str
    prompt: str
    pictures: tuple[Image.Image, ...]


def contact_sheet(caption: str, rows: Sequence[SheetRow]) -> Image.Image:
    """Draw an RGB sheet: a header with the caption that was fitted, then one labelled row of pictures per edit."""
    width = GAP + len(COLUMNS) * (CELL + GAP)
    sheet = Image.new("RGB", (width, HEADER + len(rows) * (CELL + LABEL) + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 12), f"one fit: the source and its caption “{caption}”", INK, ImageFont.load_default(22))
    for column, title in enumerate(COLUMNS):
        x = GAP + column * (CELL + GAP)
        draw.text((x, HEADER - 34), title, INK, ImageFont.load_default(18))
    for number, row in enumerate(rows):
        top = HEADER + number * (CELL + LABEL)
        for column, picture in enumerate(row.pictures):
            large = picture.resize((CELL, CELL), Image.Resampling.LANCZOS)
            sheet.paste(large, (GAP + column * (CELL + GAP), top))
        draw.text((GAP, top + CELL + 5), f"{row.kind}:", FAINT, ImageFont.load_default(17))
        draw.text((GAP + 120, top + CELL + 5), f"“{row.prompt}”", INK, ImageFont.load_default(17))
    return sheet
