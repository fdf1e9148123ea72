"""The one validator: whether values are of a type, in a range, or among names, and errors of one line where not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from hiper.errors import OptionError
from hiper.options.nearest import suggestion

Value = bool | int | float | str
T = TypeVar("T")

_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class Spec:
    """What an option does, and the range of a number, ends included; the annotation beside its type."""

    text: str = ""
    low: float | None = None
    high: float | None = None


def check_whole(name: str, value: object, low: int, high: int | None = None) -> int:
    """Return a whole number from `low` to `high`; OptionError for anything else."""
    return int(_strict(name, value, int, Spec(low=low, high=high)))


def check_number(name: str, value: object, low: float, high: float) -> float:
    """Return a number from `low` to `high`; OptionError for anything else, NaN included."""
    return float(_strict(name, value, float, Spec(low=low, high=high)))


def check_choice(name: str, value: object, choices: Iterable[str]) -> str:
    """Return one of the choices; OptionError, with the nearest one, for anything else."""
    known = list(choices)
    if isinstance(value, str) and value in known:
        return value
    raise unknown_choice(name, value, known)


def unknown_choice(name: str, value: object, choices: Iterable[str], also: str = "") -> OptionError:
    """Return the error for a value that is none of the choices; `also` ends the list of these."""
    known = list(choices)
    return OptionError(
        f"{name} is {value!r}; allowed are {', '.join(known)}{also}{suggestion(str(value), known)}"
    )


def check_names(given: Iterable[str], known: Iterable[str], what: str = "option") -> None:
    """Raise OptionError, with the nearest name, for a name that is not known."""
    allowed = list(known)
    for name in given:
        if name not in allowed:
            raise OptionError(
                f"no {what} {name!r}{suggestion(name, allowed)}; allowed are {', '.join(allowed)}"
            )


def check_fields(settings: Any) -> None:
    """Convert the fields of a frozen dataclass beside whose type a `Spec` stands; text becomes a number or a choice.

    Raises:
        OptionError: A value is not of its type, or out of range.
    """
    for name, (kind, spec) in specs(type(settings)).items():
        object.__setattr__(settings, name, _converted(name, getattr(settings, name), kind, spec))


def specs(kind: type[Any]) -> dict[str, tuple[Any, Spec]]:
    """Return the type and `Spec` of each field that has one, in order of declaration."""
    hints = get_type_hints(kind, include_extras=True)
    found = ((each.name, hints[each.name]) for each in fields(kind))
    return {name: (hint.__origin__, hint.__metadata__[0]) for name, hint in found if _has_spec(hint)}


def read_fields(kind: type[T], values: object, *, what: str = "field") -> T:
    """Make a dataclass of a table from JSON or TOML, whose values are taken as they are.

    Args:
        kind: The dataclass.
        values: The table.
        what: A field is called.

    Raises:
        OptionError: It is no table, a name is missing or unknown, or a value is not of its field's type.
    """
    hints = get_type_hints(kind, include_extras=True)
    if not isinstance(values, dict):
        raise OptionError(f"is {values!r}; write a table of {', '.join(hints)}")
    check_names(values, hints, what)
    for name in _required(kind):
        if name not in values:
            raise OptionError(f"no {name} is given; write one")
    for name, value in values.items():
        check_type(name, value, hints[name])
    return kind(**values)


def check_type(name: str, value: object, kind: Any) -> None:
    """Raise OptionError for a value from JSON or TOML that does not conform to a type."""
    if not conforms(value, kind):
        raise OptionError(f"{name} is {value!r}; allowed {_allowed(kind)}")


def conforms(value: object, kind: Any) -> bool:
    """Whether a value from JSON is of a type; whole numbers must be below 2**63.

    Args:
        value: The value.
        kind: A dataclass, Mapping, Sequence, tuple[X, ...] of one or more, Literal, a union of these, or a scalar; a
            `Spec` beside a number bounds it.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if is_dataclass(kind):
        hints = get_type_hints(kind, include_extras=True)
        return (
            isinstance(value, dict)
            and _required(kind) <= value.keys() <= hints.keys()
            and all(conforms(each, hints[name]) for name, each in value.items())
        )
    if origin is Annotated:
        return conforms(value, arguments[0]) and (not _has_spec(kind) or _within(value, arguments[1]))
    if origin in (Union, UnionType):
        return any(conforms(value, each) for each in arguments)
    if origin is Literal:
        return value in arguments
    if origin is Mapping:
        return isinstance(value, dict) and all(conforms(each, arguments[1]) for each in value.values())
    if origin in (Sequence, tuple):
        filled = origin is Sequence or bool(value)
        return isinstance(value, list) and filled and all(conforms(each, arguments[0]) for each in value)
    return _is_scalar(value, kind)


def _required(kind: Any) -> set[str]:
    return {each.name for each in fields(kind) if each.default is each.default_factory is MISSING}


def _has_spec(hint: Any) -> bool:
    return isinstance(next(iter(getattr(hint, "__metadata__", ())), None), Spec)


def _is_scalar(value: object, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if isinstance(value, int) and abs(value) >= 2**63:
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _strict(name: str, value: object, kind: type, spec: Spec) -> Any:
    if not (_is_scalar(value, kind) and _within(value, spec)):
        raise OptionError(f"{name} is {value!r}; allowed {_allowed(kind, spec)}")
    return value


def _converted(name: str, value: object, kind: Any, spec: Spec) -> object:
    if get_origin(kind) in (UnionType, Union):  # Literal[...] | None is the latter before Python 3.14
        if value is None or value == "none":
            return None
        kind = next(each for each in get_args(kind) if each is not NoneType)
    converted = _parsed(value, kind)
    if converted is None or not _within(converted, spec):
        filled = " that are not empty" if kind is str else ""
        raise OptionError(f"{name} is {value!r}; allowed {_allowed(kind, spec)}{filled}")
    return converted


def _within(value: Any, spec: Spec) -> bool:
    if isinstance(value, (bool, str)):
        return True
    return (spec.low is None or value >= spec.low) and (spec.high is None or value <= spec.high)


def _parsed(value: object, kind: Any) -> Value | None:
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


def _allowed(kind: Any, spec: Spec = Spec()) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _allowed(arguments[0], arguments[1])
    if origin in (Union, UnionType):
        return _allowed(next(each for each in arguments if each is not NoneType), spec)
    if origin is Literal:
        return f"are {', '.join(arguments)}"
    if origin is Mapping:
        return "is an object of names and values"
    if origin in (Sequence, tuple):
        return f"is a list of {_allowed(arguments[0]).removeprefix('are ')}"
    if kind is str:
        return "are texts"
    if kind is bool:
        return "are true and false"
    noun = "whole numbers" if kind is int else "numbers"
    low = "" if spec.low is None else f" from {spec.low}"
    high = "" if spec.high is None else f" to {spec.high}"
    return f"are {noun}{low}{high}" + (" upwards" if low and not high else "")
