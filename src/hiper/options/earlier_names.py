"""Names of settings in earlier releases: they stay readable wherever settings are given by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar, cast

from hiper.errors import OptionError

V = TypeVar("V")

EARLIER_SAMPLING: Mapping[str, str] = {"guidance": "guidance_scale", "steps": "num_inference_steps"}
"""Sampling settings: earlier name -> name."""

EARLIER_FIT: Mapping[str, str] = {
    "guidance": "guidance_scale",
    "edit_steps": "num_inference_steps",
    "steps": "num_train_steps",
    "initial": "init",
}
"""Options of methods: earlier name -> name."""


EARLIER_VALUES: Mapping[tuple[str, str], str] = {("unit", "rows"): "embedding_rms"}
"""Values of settings: name and earlier value -> value."""


def current_names(
    values: Mapping[str, V], earlier: Mapping[str, str], notes: list[str] | None = None
) -> dict[str, V]:
    """Return settings under their present names, and with the present names of their values.

    Args:
        values: By name, present or earlier.
        earlier: Earlier name -> name.
        notes: Receives a note for each earlier name; None for a file that hiper wrote, where a note would help nobody.

    Raises:
        OptionError: A setting is given under both names.
    """
    current: dict[str, V] = {}
    for name, value in values.items():
        new = earlier.get(name, name)
        if new in current or (new != name and new in values):
            raise OptionError(f"{new} is given twice, also as {name}, its earlier name; keep one of them")
        if new != name and notes is not None:
            notes.append(f"{name} is now called {new}; use the new name")
        current[new] = _current_value(new, value, notes)
    return current


def _current_value(name: str, value: V, notes: list[str] | None) -> V:
    new = EARLIER_VALUES.get((name, value)) if isinstance(value, str) else None
    if new is None:
        return value
    if notes is not None:
        notes.append(f"{name}={value} is now called {name}={new}; use the new name")
    return cast(V, new)
