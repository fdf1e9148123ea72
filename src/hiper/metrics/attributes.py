"""Scores from what an attribute reader saw: was the edit made, was the rest left alone, whose animal is it.

All take plain tables attribute -> value, so they say nothing of who read them.
"""

from __future__ import annotations

from collections.abc import Mapping

Values = Mapping[str, str]


def asked(source: Values, target: Values) -> set[str]:
    """The attributes that the edit changes."""
    return {name for name in target if source[name] != target[name]}


def edit_success(found: Values, source: Values, target: Values) -> float:
    """1 when every attribute the edit asks to change has its new value, else 0; the mean over cases is a share.

    Range 0 to 1, higher is better. The unchanged source scores 0.
    """
    return float(all(found[name] == target[name] for name in asked(source, target)))


def preservation(found: Values, source: Values, target: Values) -> float:
    """Share of the attributes the edit does not mention that kept their value: 0 to 1, higher is better."""
    kept = target.keys() - asked(source, target)
    return sum(found[name] == target[name] for name in kept) / len(kept) if kept else 1.0


def source_leak(found: Values, source: Values, target: Values) -> float:
    """Share of the attributes the edit changes that came back as in the source: 0 to 1, lower is better.

    The unchanged source scores 1. A failed edit need not leak: it may show a third value.
    """
    changed = asked(source, target)
    return sum(found[name] == source[name] for name in changed) / len(changed) if changed else 0.0


def identity_match(found: Values, legible: Values, true: Values) -> dict[str, float | None]:
    """Per attribute of identity 1 when `found` is the `true` value, else 0: higher is better.

    legible: what the same reader surely sees in the true answer. None where that is wrong or missing (the colour of
    a pencil sketch, the eyes of a sleeper): nobody could be right by more than luck.
    """
    return {
        name: float(found[name] == value) if legible.get(name) == value else None
        for name, value in true.items()
    }
