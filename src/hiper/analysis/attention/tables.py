"""The figures of a study as tables of plain text; the first row of each is its head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from hiper.analysis.attention.figures import Figures, group_figures
from hiper.analysis.attention.study import AttentionRun, Contrast, Study
from hiper.analysis.attention.tokens import KINDS, Kind, places

NAMES: Mapping[Kind, str] = {
    "start": "start mark",
    "word": "words",
    "end": "end mark",
    "padding": "padding",
    "tail": "learnt tokens",
}
EMPTY = "–"

Table = Sequence[Sequence[str]]


def groups_table(study: Study, view: AttentionRun, title: str) -> Table:
    """Return one line per kind of token: their number and figures."""
    lines = []
    for kind, found in group_figures(view.maps.whole, view.tokens, study.mask).items():
        count = len(places(view.tokens, kind))
        lines.append([NAMES[kind], str(count), *_line(found, count)])
    return [[title, "tokens", "attention", "per token", "spread", "on the subject"], *lines]


def contrast_table(contrast: Contrast) -> Table:
    """Return one line each for the tail and the padding that it replaced."""
    head = ["", "attention", "spread", "on the subject", "distance to the words' map"]
    pairs = {
        "learnt tokens": (contrast.tail, contrast.tail_to_words),
        "untouched padding": (contrast.padding, contrast.padding_to_words),
    }
    return [head, *([name, *_line(found), f"{away:.2f}"] for name, (found, away) in pairs.items())]


def layers_table(study: Study) -> Table:
    """Return one line per layer, in the order in which they run."""
    maps = study.learnt.maps
    lines = [
        [short(layer), f"{maps.sides[layer]} × {maps.sides[layer]}", *_cells(study, seen)]
        for layer, seen in maps.layers.items()
    ]
    return [["layer", "cells", *_names(study)], *lines]


def heads_table(study: Study) -> Table:
    """Return one line per layer and head."""
    lines = [
        [short(layer), str(number), *_cells(study, head)]
        for layer, heads in study.learnt.maps.heads.items()
        for number, head in enumerate(heads)
    ]
    return [["layer", "head", *_names(study)], *lines]


def phases_table(study: Study) -> Table:
    """Return one line per part of the way from noise to picture."""
    phases = study.learnt.maps.phases
    lines = [
        [f"{number} of {len(phases)}", *_cells(study, seen)] for number, seen in enumerate(phases, start=1)
    ]
    return [["part", *_names(study)], *lines]


def mass_text(found: Figures) -> str:
    """Return a token's share of attention, and in brackets how much of that is on the subject."""
    return share(found.mass) + ("" if found.on_subject is None else f" ({found.on_subject:.0%})")


def share(value: float) -> str:
    """Return a share in percent, a tiny one as a number."""
    return f"{value:.1%}" if value >= 0.001 else f"{value:.1g}"


def short(layer: str) -> str:
    """Return "down 0.1" for down_blocks.0.attentions.1.transformer_blocks.0.attn2."""
    plain = layer.removesuffix(".transformer_blocks.0.attn2").replace(".attentions.", ".")
    return plain.replace("_blocks.", " ").replace("_block.", " ")


def _names(study: Study) -> list[str]:
    return [NAMES[kind] for kind in KINDS if places(study.learnt.tokens, kind)]


def _cells(study: Study, maps: Tensor) -> list[str]:
    return [mass_text(found) for found in group_figures(maps, study.learnt.tokens, study.mask).values()]


def _line(found: Figures, count: int | None = None) -> list[str]:
    per_row = [] if count is None else [share(found.mass / count)]
    where = [EMPTY if value is None else f"{value:.0%}" for value in (found.spread, found.on_subject)]
    return [share(found.mass), *per_row, *where]
