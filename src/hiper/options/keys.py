"""The key of a result: all that decides it, by name; for a kept fit, a checkpoint, a batch and a benchmark alike.

Two runs whose keys are equal have the same result; whatever else differs between them does not matter. A record keeps
the whole key where it may have to say what has changed, and its `digest` where that names a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hiper.options.options import Options

Key = Mapping[str, str | int | float | bool]

LIBRARIES = ("hiper", "torch", "diffusers", "transformers")
"""Those whose arithmetic ends up in a result; others load, place and decode, which the hashes in a key see."""


def versions() -> dict[str, str]:
    """Return the installed releases of the libraries that decide results."""
    return {name: version(name) for name in LIBRARIES}


def digest(record: Mapping[str, object]) -> str:
    """Return the SHA-256 of a record of plain data, hexadecimal, whatever the order of its names."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def fit_key(
    method: str, model: Key, *, picture: str, caption: str, options: Options, leaving: Collection[str] = ()
) -> Key:
    """Return everything that decides what is learnt.

    Args:
        method: Its name.
        model: What `Backbone.model_key` returned.
        picture: A hash of the picture and its mask.
        caption: As the model reads it.
        options: Of the method.
        leaving: Names of options that do not count, such as those that only an edit uses.
    """
    chosen = {name: value for name, value in options.as_mapping().items() if name not in leaving}
    return {**model, "method": method, "image": picture, "caption": caption, **chosen}


def differences(old: Key, new: Key) -> list[str]:
    """Say of each name whose values differ what it was and what it is."""
    return [
        f"{name} was {old.get(name)!r} and is {new.get(name)!r}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
