"""Drawn pictures as files that a visitor can look at and download."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hiper import files
from hiper.artifacts import Artifact, EditResult
from hiper.backbones import Backbone
from hiper.images import png_bytes
from hiper.inference import masks_of, overlaid, settings_of, text_chunks


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG and the line below it: a drawing with its settings, or where that could change."""

    path: Path
    caption: str
    is_mask: bool = False


def write_pictures(
    backbone: Backbone,
    artifact: Artifact,
    result: EditResult,
    folder: Path,
    *,
    remarks: Sequence[str] = (),
    show_mask: bool = False,
) -> list[Picture]:
    """Write each picture of an edit into a folder, and its mask if `show_mask`; `remarks`, one each, go below it."""
    pictures = []
    slug = files.safe_slug(result.prompt)
    drawn = zip(result.seeds, result.images, masks_of(result), strict=True)
    for number, (seed, image, mask) in enumerate(drawn):
        path = folder / f"{slug}-{seed}.png"
        chunks = text_chunks(settings_of(backbone, artifact, result, seed), artifact)
        files.atomic_write(path, png_bytes(image, metadata=chunks), overwrite=True)
        parts = [result.prompt, f"seed {seed}", *remarks[number : number + 1]]
        pictures.append(Picture(path=path, caption=" · ".join(parts)))
        if show_mask:
            shown = path.with_name(f"{path.stem}-mask.png")
            files.atomic_write(shown, png_bytes(overlaid(image, mask)), overwrite=True)
            words = f"where it could change · seed {seed}"
            pictures.append(Picture(path=shown, caption=words, is_mask=True))
    return pictures


def archive(pictures: Sequence[Picture], path: Path) -> Path:
    """Write all pictures into one ZIP file, in their order, and return its path."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        for number, picture in enumerate(pictures, start=1):
            bundle.write(picture.path, f"{number:02}-{picture.path.name}")
    files.atomic_write(path, buffer.getvalue(), overwrite=True)
    return path
