"""Numbers as options: whole, or any, within bounds."""

from __future__ import annotations

from hiper.errors import OptionError


def check_whole(name: str, value: object, low: int, high: int) -> int:
    """Return a whole number from `low` to `high`; OptionError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return value
    raise OptionError(f"{name} is {value!r}; allowed are whole numbers from {low} to {high}")


def check_number(name: str, value: object, low: float, high: float) -> float:
    """Return a number from `low` to `high`; OptionError for anything else, NaN included."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high:
        return float(value)
    raise OptionError(f"{name} is {value!r}; allowed are numbers from {low} to {high}")
