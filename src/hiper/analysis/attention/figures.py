"""Figures of attention maps: how much, how widely, and how much of it on the subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from hiper.analysis.attention.tokens import KINDS, Kind, LabelledToken, places


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of the attention that one token gets, or several together.

    Attributes:
        mass: Share of the whole picture's attention, 0 to 1.
        spread: 1 when all places attend alike, towards 0 when a single place does (the exponential of the map's
            entropy, as a share of its cells); None where the mass is 0.
        on_subject: Share of the attention that comes from the subject's places, 0 to 1, to be compared with its share
            of the area; None without a mask, and where the mass is 0.
    """

    mass: float
    spread: float | None
    on_subject: float | None


def figures(seen: Tensor, mask: Tensor | None) -> Figures:
    """Return the figures of a map [side, side], and of a mask [side, side] in 0 .. 1."""
    mass, total = float(seen.mean()), float(seen.sum())
    if total == 0:
        return Figures(mass=0.0, spread=None, on_subject=None)
    shares = (seen / total).flatten()
    entropy = -(shares * shares.clamp_min(1e-30).log()).sum()
    return Figures(
        mass=mass,
        spread=float(entropy.exp()) / shares.numel(),
        on_subject=None if mask is None else float((shares * mask.flatten()).sum()),
    )


def group_figures(maps: Tensor, tokens: Sequence[LabelledToken], mask: Tensor | None) -> dict[Kind, Figures]:
    """Return the figures of every kind of token that is there, from maps [length, side, side]."""
    there = {kind: places(tokens, kind) for kind in KINDS}
    return {kind: figures(maps[some].sum(0), mask) for kind, some in there.items() if some}


def distance(one: Tensor, other: Tensor) -> float:
    """Return the total variation distance of two maps [side, side], whatever their mass: 0 alike, 1 disjoint."""
    return float((one / one.sum() - other / other.sum()).abs().sum() / 2)
