"""Options of a method: one frozen dataclass, read alike by Python, command line and configuration files.

Every field says what it may be, so that a mistake is reported in one line before any work begins.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, TypeVar

from hiper.errors import HiperWarning
from hiper.options.earlier_names import current_names
from hiper.options.validation import Value, check_choice, check_fields, check_names, specs

O = TypeVar("O", bound="Options")  # noqa: E741


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of the options of all methods, which are checked on construction.

    Attributes:
        earlier: Earlier name to name; `resolve` reads both.

    Raises:
        OptionError: A value is not allowed.
    """

    earlier: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        check_fields(self)

    def as_mapping(self) -> dict[str, Value]:
        """Return what is set, name by name, for an artifact's header."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def resolve(
    kind: type[O], presets: Mapping[str, Mapping[str, object]], preset: str, values: Mapping[str, object]
) -> O:
    """Build options from a preset and the values that differ from it; text is converted to the field's type.

    A HiperWarning is issued for a name that an earlier release used.

    Args:
        kind: The class of the options.
        presets: Name to values.
        preset: Its name.
        values: By the name of the option.

    Raises:
        OptionError: A preset or name is unknown (with the nearest one), or a value not allowed.
    """
    check_choice("preset", preset, presets)
    notes: list[str] = []
    earlier = earlier_options(kind)
    values = current_names(values, earlier, notes)
    for note in notes:
        warnings.warn(note, HiperWarning, stacklevel=3)
    check_names(values, specs(kind))
    return kind(**{**current_names(presets[preset], earlier), **values})


def earlier_options(kind: type[Options]) -> dict[str, str]:
    """Return the earlier names of the options that `kind` has: earlier name -> name."""
    names = specs(kind)
    return {old: new for old, new in kind.earlier.items() if new in names and old not in names}
