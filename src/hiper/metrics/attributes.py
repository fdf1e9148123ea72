"""Scores from the attributes that a reader finds: was the edit made, was the rest kept, is it the same animal.

All take mappings of attribute to value: those found in the drawn picture, in the source, and in the true answer.
"""

from __future__ import annotations

from collections.abc import Mapping

Values = Mapping[str, str]


def asked(source: Values, target: Values) -> set[str]:
    """Return the attributes that the edit changes."""
    return {name for name in target if source[name] != target[name]}


def edit_success(found: Values, source: Values, target: Values) -> float:
    """Return 1 when every attribute that the edit changes has its new value, else 0; the mean over cases is a share.

    Range 0 to 1, higher is better. The unchanged source scores 0.
    """
    return float(all(found[name] == target[name] for name in asked(source, target)))


def preservation(found: Values, source: Values, target: Values) -> float:
    """Return the share of the other attributes that kept their value: 0 to 1, higher is better."""
    kept = target.keys() - asked(source, target)
    return sum(found[name] == target[name] for name in kept) / len(kept) if kept else 1.0


def source_leak(found: Values, source: Values, target: Values) -> float:
    """Return the share of the attributes to change that came back as in the source: 0 to 1, lower is better.

    The unchanged source scores 1. A failed edit need not leak: it may show a third value.
    """
    changed = asked(source, target)
    return sum(found[name] == source[name] for name in changed) / len(changed) if changed else 0.0


def identity_match(found: Values, legible: Values, true: Values) -> dict[str, float | None]:
    """Return for each attribute of identity 1 if it was reproduced, else 0: higher is better.

    Args:
        found: Read in the drawn picture.
        legible: What the same reader surely sees in the true answer.
        true: The subject's own values.

    Returns:
        None where `legible` is wrong or missing (the colour of a pencil sketch, the eyes of a sleeper): nobody could
        be right by more than luck.
    """
    return {
        name: float(found[name] == value) if legible.get(name) == value else None
        for name, value in true.items()
    }
