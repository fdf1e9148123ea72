"""The tail: what a fit has learnt, and the file it is read from.

The file is hiper's own artifact (a safetensors file whose header explains itself), read here without hiper, so that
ComfyUI needs nothing more than it has. Every error is a ValueError of one line that names the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open
from torch import Tensor

Placement = Literal["replace", "append"]
PLACEMENTS = ("replace", "append")

PREFIX, TAIL, GUARD = "hiper.", "hiper.tail", "hiper.!not-a-textual-inversion"
SOURCE = "hiper.source"
"""Latents of the picture, which edits may start from."""
SCHEMA = 1
LARGEST_FILE, LARGEST_TAIL, LARGEST_SOURCE = 64_000_000, 64, 2**22


@dataclass(frozen=True)
class Tail:
    """What a fit has learnt.

    Attributes:
        embeddings: [tail, embed], float32, on the CPU.
        header: The file's entries, text by text.
        source: Latents of the picture, [1, channels, height, width], float16, in the model's scale; None where the
            file has none.
    """

    embeddings: Tensor
    header: Mapping[str, str]
    source: Tensor | None = None

    @property
    def family(self) -> str:
        """The family of models it was fitted on, as hiper names it."""
        return self.header[f"{PREFIX}family"]

    @property
    def placement(self) -> str:
        """Where the fit put it; hiper knows places that these nodes do not (`after-words`, `random`)."""
        return str(read_table(self.header, "options").get("placement", "replace"))


def load_tail(path: Path) -> Tail:
    """Read a file that hiper or the save node wrote.

    Raises:
        ValueError: it is no tail of hiper, or it is damaged.
    """
    name = path.name
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{name}: larger than {LARGEST_FILE} bytes; this is no tail")
    try:
        with safe_open(path, framework="pt") as file:
            header, names = file.metadata() or {}, set(file.keys()) - {GUARD}
            embeddings, source = (file.get_tensor(name) if name in names else None for name in (TAIL, SOURCE))
    except SafetensorError as error:
        raise ValueError(f"{name}: no safetensors file, or damaged ({error})") from error
    try:
        return _checked(header, embeddings, source, names - {SOURCE})
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _checked(
    header: Mapping[str, str], embeddings: Tensor | None, source: Tensor | None, names: set[str]
) -> Tail:
    schema, method = header.get(f"{PREFIX}schema"), header.get(f"{PREFIX}method")
    if schema is None:
        raise ValueError("not made by hiper; a textual inversion belongs into models/embeddings")
    if schema != str(SCHEMA):
        raise ValueError(f"schema {schema[:20]}, these nodes read {SCHEMA}; update them")
    if method != "hiper":
        raise ValueError(f"learnt by {str(method)[:40]}; these nodes take tails of the method hiper alone")
    if embeddings is None or names != {TAIL}:
        found = ", ".join(sorted(names))[:100]
        raise ValueError(f"holds {found or 'no tensors'}; these nodes take a file of one tensor, {TAIL}")
    if embeddings.ndim != 2 or not 1 <= len(embeddings) <= LARGEST_TAIL or not embeddings.is_floating_point():
        raise ValueError(f"its tail is no table of 1 to {LARGEST_TAIL} token embeddings")
    if not bool(embeddings.isfinite().all()):
        raise ValueError("its tail holds NaN or infinity, which draw black pictures; fit again")
    if source is not None and not _is_picture(source):
        raise ValueError("its picture is no latents of finite numbers; fit again")
    if f"{PREFIX}family" not in header:
        raise ValueError("its header names no family of models; fit again")
    read_table(header, "options")
    return Tail(embeddings=embeddings.float(), header=dict(header), source=source)


def _is_picture(source: Tensor) -> bool:
    fits = source.ndim == 4 and len(source) == 1 and 0 < source.numel() <= LARGEST_SOURCE
    return fits and source.is_floating_point() and bool(source.isfinite().all())


def read_table(header: Mapping[str, str], name: str) -> dict[str, Any]:
    """Return the header's JSON table `name`, empty if there is none; ValueError when it cannot be read."""
    try:
        values = json.loads(header.get(f"{PREFIX}{name}", "{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"damaged: its header entry {PREFIX}{name} cannot be read") from error
    if not isinstance(values, dict):
        raise ValueError(f"damaged: its header entry {PREFIX}{name} is no table")
    return values
