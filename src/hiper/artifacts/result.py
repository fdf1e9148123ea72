"""What an edit returns."""

from __future__ import annotations

from dataclasses import dataclass

import PIL.Image

from hiper.options import EditSettings


@dataclass(frozen=True, kw_only=True)
class EditResult:
    """Pictures in the order of their seeds, and all that is needed to draw them again.

    batch_size: pictures drawn at a time; the last bits of a picture depend on its batch
    flagged: seeds whose picture the model's safety checker blackened; notes: what the user should know.
    """

    images: list[PIL.Image.Image]
    prompt: str
    seeds: tuple[int, ...]
    settings: EditSettings
    batch_size: int
    flagged: tuple[int, ...]
    notes: tuple[str, ...]
