"""Where Save Tail writes: numbered files in models/hiper and folders below it, never over another file."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

import torch
from safetensors.torch import save

from .tail import GUARD, SOURCE, TAIL, Tail

_PART = re.compile(r"""[^\x00-\x1f\x7f<>:"|?*.\ud800-\udfff][^\x00-\x1f\x7f<>:"|?*\ud800-\udfff]*(?<![. ])""")
LONGEST = 200
"""Bytes of one part of a name; file systems take 255, and number and ending are still to come."""


def save_tail(tail: Tail, folder: Path, name: str) -> Path:
    """Write `name_00001.safetensors`, or the next free number, in one step, and return its path.

    Raises:
        ValueError: the name leads out of the folder, or no file can be called so.
        OSError: the file cannot be written.
    """
    target = destination(folder, name)
    picture = {} if tail.source is None else {SOURCE: tail.source.contiguous()}
    data = save({GUARD: torch.zeros(1), TAIL: tail.embeddings.contiguous(), **picture}, dict(tail.header))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".hiper-{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_bytes(data)
        return _numbered(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def destination(folder: Path, name: str) -> Path:
    """Return the path of `name` below `folder`, without number and ending.

    Raises:
        ValueError: one line that says what is wrong with the name or the place.
    """
    parts = name.replace("\\", "/").split("/")
    wrong = next((part for part in parts if not _PART.fullmatch(part) or len(part.encode()) > LONGEST), None)
    if wrong is not None:
        raise ValueError(
            f"the name is {name[:80]!r}; give a file name, or folders and a file name with slashes between, each of"
            f' at most {LONGEST} bytes, without a dot in front and without any of : * ? " < > |'
        )
    target = folder.joinpath(*parts)
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"the name is {name!r}, and a link leads out of {folder.name} there; choose another")
    nearest = next(each for each in target.parents if each.exists())
    if not nearest.is_dir():
        raise ValueError(f"the name is {name!r}, but {nearest.name} is a file; choose another folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"the folder {nearest} may not be written to; mend its permissions")
    return target


def _numbered(temporary: Path, target: Path) -> Path:
    """Give the file the first free number, whoever else is writing."""
    number = 1
    while True:
        path = target.with_name(f"{target.name}_{number:05}.safetensors")
        try:
            _name(temporary, path)
        except FileExistsError:
            number += 1
        else:
            return path


def _name(temporary: Path, path: Path) -> None:
    """Name the file `path`; FileExistsError when there is one, which stays."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # exFAT and some mounts have no hard links: take the name first, then replace our own
        path.touch(exist_ok=False)
        try:
            temporary.replace(path)
        except OSError:
            path.unlink()
            raise
