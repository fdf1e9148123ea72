"""Checking values from JSON against type annotations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def conforms(value: object, kind: Any) -> bool:
    """Whether a value from JSON is of a type; numbers must be finite and below 2**63.

    Args:
        value: The value.
        kind: A dataclass, Mapping, Sequence, Literal, a union of these, or a scalar.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        needed = {each.name for each in fields(kind) if each.default is each.default_factory is MISSING}
        return isinstance(value, dict) and needed <= value.keys() <= hints.keys() and _all(value, hints)
    if origin in (Union, UnionType):
        return any(conforms(value, each) for each in arguments)
    if origin is Literal:
        return value in arguments
    if origin is Mapping:
        return isinstance(value, dict) and all(conforms(each, arguments[1]) for each in value.values())
    if origin is Sequence:
        return isinstance(value, list) and all(conforms(each, arguments[0]) for each in value)
    return _is_scalar(value, kind)


def _all(values: Mapping[str, object], kinds: Mapping[str, Any]) -> bool:
    return all(conforms(value, kinds[name]) for name, value in values.items())


def _is_scalar(value: object, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if isinstance(value, int) and abs(value) >= 2**63:
        return False
    if kind is float:
        return isinstance(value, (int, float)) and math.isfinite(value)
    return isinstance(value, kind)
