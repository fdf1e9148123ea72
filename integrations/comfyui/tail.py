"""The tail: what a fit has learnt, its file, and its place in a conditioning.

The file is hiper's own artifact (a safetensors file whose header explains itself), read and written here without
hiper, so that ComfyUI needs nothing more than it has. Every error is a ValueError of one line.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

Placement = Literal["replace", "append"]
PLACEMENTS = ("replace", "append")
Conditioning = list[list[Any]]
"""[[rows [1, length, embed], {"pooled_output": ...}], ...], as ComfyUI has it."""

PREFIX, TAIL, GUARD = "hiper.", "hiper.tail", "hiper.!not-a-textual-inversion"
SCHEMA = 1
LARGEST_FILE, LARGEST_TAIL = 64_000_000, 64
FAMILIES = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""Width of the text rows -> family, for the models that the fit node takes."""


@dataclass(frozen=True)
class Tail:
    """rows: [tail, embed], float32, on the CPU; header: the file's entries, text by text."""

    rows: Tensor
    header: Mapping[str, str]

    @property
    def family(self) -> str:
        """The family of models it was fitted on, as hiper names it."""
        return self.header[f"{PREFIX}family"]

    @property
    def placement(self) -> Placement:
        """Where the fit put it."""
        return "append" if _json(self.header, "options").get("placement") == "append" else "replace"


def place_tail(conditioning: Conditioning, tail: Tail, strength: float, placement: Placement) -> Conditioning:
    """Return a copy of a conditioning with the tail times `strength` in it.

    replace: instead of the last rows, those of the last chunk when a long prompt has several of 77
    append: behind all rows, so that no word is ever overwritten; the length grows
    """
    return [[_placed(rows, tail, strength, placement), dict(more)] for rows, more in conditioning]


def _placed(rows: Tensor, tail: Tail, strength: float, placement: Placement) -> Tensor:
    count, embed = tail.rows.shape
    if rows.shape[-1] != embed:
        raise ValueError(
            f"the tail is for {tail.family} models, rows of {embed} numbers, and this conditioning has rows of"
            f" {rows.shape[-1]}; use the text encoder of the model it was fitted on"
        )
    if placement == "replace" and rows.shape[1] <= count:
        raise ValueError(f"a tail of {count} rows cannot replace the end of {rows.shape[1]} rows; append it")
    head = rows if placement == "append" else rows[:, :-count]
    end = (tail.rows * strength).to(rows.device, rows.dtype)
    return torch.cat([head, end.expand(rows.shape[0], -1, -1)], dim=1)


def load_tail(path: Path) -> Tail:
    """Read a file that hiper or the save node wrote."""
    name = path.name
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{name}: larger than {LARGEST_FILE} bytes; this is no tail")
    try:
        with safe_open(path, framework="pt") as file:
            header, names = file.metadata() or {}, set(file.keys()) - {GUARD}
            rows = file.get_tensor(TAIL) if names == {TAIL} else None
    except SafetensorError as error:
        raise ValueError(f"{name}: no safetensors file, or damaged ({error})") from error
    return _checked(name, header, rows)


def _checked(name: str, header: Mapping[str, str], rows: Tensor | None) -> Tail:
    schema, method = header.get(f"{PREFIX}schema"), header.get(f"{PREFIX}method")
    if schema is None:
        raise ValueError(f"{name}: not made by hiper; a textual inversion belongs into models/embeddings")
    if schema != str(SCHEMA):
        raise ValueError(f"{name}: schema {schema[:20]}, these nodes read {SCHEMA}; update them")
    if method != "hiper" or rows is None:
        raise ValueError(
            f"{name}: learnt by {str(method)[:40]}; these nodes take tails of the method hiper alone"
        )
    if rows.ndim != 2 or not 1 <= len(rows) <= LARGEST_TAIL or not rows.is_floating_point():
        raise ValueError(f"{name}: its tail is no table of 1 to {LARGEST_TAIL} rows")
    if not bool(rows.isfinite().all()):
        raise ValueError(f"{name}: its tail holds NaN or infinity, which draw black pictures; fit again")
    tail = Tail(rows=rows.float(), header=dict(header))
    _json(header, "options")
    if f"{PREFIX}family" not in header:
        raise ValueError(f"{name}: its header names no family of models; fit again")
    return tail


def _json(header: Mapping[str, str], name: str) -> dict[str, Any]:
    try:
        values = json.loads(header.get(f"{PREFIX}{name}", "{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"damaged: its header entry {PREFIX}{name} cannot be read") from error
    if not isinstance(values, dict):
        raise ValueError(f"damaged: its header entry {PREFIX}{name} is no table")
    return values


def save_tail(tail: Tail, folder: Path, prefix: str) -> Path:
    """Write `prefix_00001.safetensors`, or the next free number, in one step, and return its path."""
    if not prefix or prefix != Path(prefix).name or "\\" in prefix or prefix.startswith("."):
        raise ValueError(f"the file name is {prefix!r}; give a plain name without a folder")
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder, prefix=".hiper-", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        save_file({GUARD: torch.zeros(1), TAIL: tail.rows.contiguous()}, temporary, dict(tail.header))
        return _named(temporary, folder, prefix)
    finally:
        temporary.unlink()


def _named(temporary: Path, folder: Path, prefix: str) -> Path:
    """Give the file the first free number; a link never replaces a file, whoever else is writing."""
    number = 1
    while True:
        path = folder / f"{prefix}_{number:05}.safetensors"
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            number += 1
        else:
            return path
