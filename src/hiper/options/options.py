"""Options of a method: one frozen dataclass, read alike by Python, command line and configuration files.

Every field says what it may be, so that a mistake is reported in one line before any work begins.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from hiper.errors import HiperWarning, OptionError
from hiper.options.earlier_names import current_names
from hiper.options.nearest import suggestion

Value = bool | int | float | str
O = TypeVar("O", bound="Options")  # noqa: E741

_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class Spec:
    """What an option does, and the range of a number, ends included; the annotation beside its type."""

    text: str
    low: float | None = None
    high: float | None = None


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
        for name, (kind, spec) in specs(type(self)).items():
            object.__setattr__(self, name, _checked(name, getattr(self, name), kind, spec))

    def as_mapping(self) -> dict[str, Value]:
        """Return what is set, name by name, for an artifact's header."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def specs(kind: type[Options]) -> dict[str, tuple[Any, Spec]]:
    """Return each option's type and `Spec`, in order of declaration."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        each.name: (hints[each.name].__origin__, hints[each.name].__metadata__[0]) for each in fields(kind)
    }


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
    if preset not in presets:
        raise OptionError(
            f"preset is {preset!r}; allowed are {', '.join(presets)}{suggestion(preset, presets)}"
        )
    names = list(specs(kind))
    notes: list[str] = []
    earlier = earlier_names(kind)
    values = current_names(values, earlier, notes)
    for note in notes:
        warnings.warn(note, HiperWarning, stacklevel=3)
    for name in values:
        if name not in names:
            raise OptionError(f"no option {name!r}{suggestion(name, names)}; allowed are {', '.join(names)}")
    return kind(**{**current_names(presets[preset], earlier), **values})


def earlier_names(kind: type[Options]) -> dict[str, str]:
    """Return the earlier names of the options that `kind` has: earlier name -> name."""
    names = specs(kind)
    return {old: new for old, new in kind.earlier.items() if new in names and old not in names}


def _checked(name: str, value: object, kind: Any, spec: Spec) -> object:
    if get_origin(kind) in (UnionType, Union):  # Literal[...] | None is the latter before Python 3.14
        if value is None or value == "none":
            return None
        kind = next(each for each in get_args(kind) if each is not NoneType)
    converted = _converted(value, kind)
    if converted is None or not _within(converted, spec):
        raise OptionError(f"{name} is {value!r}; allowed {_allowed(kind, spec)}")
    return converted


def _within(value: Value, spec: Spec) -> bool:
    if isinstance(value, (bool, str)):
        return True
    return (spec.low is None or value >= spec.low) and (spec.high is None or value <= spec.high)


def _converted(value: object, kind: Any) -> Value | None:
    """Return `value` as the kind asks, None when it is no such thing."""
    if get_origin(kind) is Literal:
        return value if isinstance(value, str) and value in get_args(kind) else None
    if kind is str:
        return " ".join(value.split()) or None if isinstance(value, str) else None
    if kind is bool:
        return value if isinstance(value, bool) else _WORDS.get(str(value).lower())
    if isinstance(value, bool):
        return None
    if kind is int:
        return _number(value, int)
    number = _number(value, float)
    return number if number is not None and math.isfinite(number) else None


def _number(value: object, kind: type[int] | type[float]) -> int | float | None:
    if not isinstance(value, (str, int) if kind is int else (str, int, float)):
        return None
    try:
        return kind(value)
    except (ValueError, OverflowError):
        return None


def _allowed(kind: Any, spec: Spec) -> str:
    if get_origin(kind) is Literal:
        return f"are {', '.join(get_args(kind))}"
    if kind is str:
        return "are texts that are not empty"
    if kind is bool:
        return "are true and false"
    noun = "whole numbers" if kind is int else "numbers"
    low = "" if spec.low is None else f" from {spec.low}"
    high = "" if spec.high is None else f" to {spec.high}"
    return f"are {noun}{low}{high}"
