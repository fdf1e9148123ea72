"""A study as HTML: a fragment for another page, or a page of its own."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

from hiper.analysis.attention.figures import figures
from hiper.analysis.attention.heat import heat_map
from hiper.analysis.attention.study import Study
from hiper.analysis.attention.tables import (
    NAMES,
    contrast_table,
    groups_table,
    heads_table,
    layers_table,
    mass_text,
    phases_table,
    short,
)
from hiper.analysis.attention.tokens import Kind, LabelledToken, places
from hiper.html import document, escape, figure, table

_BY_LAYER: tuple[Kind, ...] = ("word", "padding", "tail")


def page(study: Study) -> str:
    """Return a self-contained page."""
    return document("Attention", [fragment(study)])


def fragment(study: Study) -> str:
    """Return the body of a page, headings from <h2> downwards, for `hiper.html.page.document`."""
    return "\n".join([*_facts(study), *_groups(study), *_rows(study), *_contrast(study), *_parts(study)])


def _facts(study: Study) -> Iterator[str]:
    area = study.subject_area
    facts = {
        "sentence": study.prompt,
        "learnt from": f"{study.caption} ({study.method})",
        "model": study.backbone,
        "captured while": "drawing the sentence" if study.drawn else "reading the picture under noise",
        **study.settings,
        **({} if area is None else {"subject": f"{area:.0%} of the picture's area"}),
    }
    items = (f"<li>{escape(name)}: {escape(str(value))}</li>" for name, value in facts.items())
    yield f"<ul>{''.join(items)}</ul>"
    yield figure(study.learnt.picture, "drawn with what was learnt" if study.drawn else "the picture")
    if study.drawn:
        yield figure(study.untouched.picture, "the same without it")


def _groups(study: Study) -> Iterator[str]:
    yield "<h2>Which tokens are attended to</h2>"
    yield (
        "<p>Share of all attention, mean over steps, layers and heads. Spread: 100 % when all places look alike."
        " On the subject: share of the attention that comes from the subject's places.</p>"
    )
    yield table(groups_table(study, study.learnt, "with what was learnt"))
    yield table(groups_table(study, study.untouched, "without it"))


def row_maps(study: Study) -> dict[str, Image.Image]:
    """Return heat maps of every token but padding, and one of all padding, by their captions.

    A caption has the token's place, word and share of attention, and in brackets how much of it is on the subject.
    """
    view = study.learnt
    shown = {_named(token): [token.index] for token in view.tokens if token.kind != "padding"}
    padding = places(view.tokens, "padding")
    maps = {
        name: view.maps.whole[some].sum(0)
        for name, some in (shown | {"all padding": padding}).items()
        if some
    }
    return {
        f"{name}: {mass_text(figures(seen, study.mask))}": heat_map(view.picture, seen)
        for name, seen in maps.items()
    }


def _rows(study: Study) -> Iterator[str]:
    brackets = "" if study.mask is None else ", and in brackets how much of it is on the subject"
    yield "<h2>Where each token is attended to</h2>"
    yield f"<p>Share of attention{brackets}. Each map has a scale of its own, from nobody to its most.</p>"
    yield from (figure(picture, said) for said, picture in row_maps(study).items())


def _contrast(study: Study) -> Iterator[str]:
    contrast = study.contrast()
    if contrast is None:
        return
    yield "<h2>The learnt tokens against the padding they replaced</h2>"
    tail = places(study.learnt.tokens, "tail")
    for view, name in (
        (study.learnt, "learnt tokens"),
        (study.untouched, "untouched padding in their places"),
    ):
        yield figure(heat_map(view.picture, view.maps.whole[tail].sum(0)), name)
    yield table(contrast_table(contrast))
    yield (
        "<p>Distance of two maps, whatever their mass: 0 alike, 1 nowhere together. Between the two lines above:"
        f" {contrast.tail_to_padding:.2f}.</p>"
    )


def _parts(study: Study) -> Iterator[str]:
    view = study.learnt
    yield "<h2>By layer</h2><p>In the order in which they run.</p>"
    yield table(layers_table(study))
    for kind in _BY_LAYER:
        some = places(view.tokens, kind)
        for layer, maps in view.maps.layers.items() if some else ():
            yield figure(heat_map(view.picture, maps[some].sum(0)), f"{NAMES[kind]}, {short(layer)}")
    yield "<h2>By head</h2>"
    yield table(heads_table(study))
    yield "<h2>By step</h2><p>Equal parts of the way from noise to picture, means over layers and heads.</p>"
    yield table(phases_table(study))


def _named(token: LabelledToken) -> str:
    return (
        f"{token.index} “{token.text}”"
        if token.kind == "word"
        else f"{token.index} {NAMES[token.kind].removesuffix('s')}"
    )
